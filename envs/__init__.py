"""The batched MuJoCo task. Importing it registers `rfx/Go2Flat-v0` and `rfx/Go2Rough-v0` with Gymnasium."""

import gymnasium

gymnasium.register("rfx/Go2Flat-v0", entry_point="envs.legged.single:LeggedSingleEnv", vector_entry_point="envs.legged.env:LeggedEnv")
gymnasium.register("rfx/Go2Rough-v0", entry_point="envs.legged.single:LeggedSingleEnv", vector_entry_point="envs.legged.env:LeggedEnv",
                   kwargs={"task": "go2_rough"})
