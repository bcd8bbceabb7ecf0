"""The batched MuJoCo task. Importing it registers `rfx/Go2Flat-v0` and `rfx/Go2Rough-v0` with Gymnasium."""

import gymnasium

gymnasium.register("rfx/Go2Flat-v0", entry_point="envs.single:Go2SingleEnv", vector_entry_point="envs.go2:Go2Env")
gymnasium.register("rfx/Go2Rough-v0", entry_point="envs.single:Go2SingleEnv", vector_entry_point="envs.go2:Go2Env",
                   kwargs={"task": "go2_rough"})
