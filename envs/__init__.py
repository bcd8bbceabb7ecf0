"""Environments; importing this package registers them with Gymnasium.

A file configs/robot/large_robot.yaml becomes `rfx/LargeRobot-v0`. Gymnasium's MuJoCo tasks, stepped in batches, become
`rfx/HalfCheetah-v5` and so on, for gymnasium.make_vec.
"""

import gymnasium

from envs.mujoco import TASKS
from envs.settings.configs import options

for _name in options("robot"):
    gymnasium.register(
        f"rfx/{''.join(part.capitalize() for part in _name.split('_'))}-v0",
        entry_point="envs.legged.single:LeggedSingleEnv",
        vector_entry_point="envs.legged.env:LeggedEnv",
        kwargs={"task": _name},
    )
for _name, (_where, _steps) in TASKS.items():
    gymnasium.register(f"rfx/{_name}-v5", vector_entry_point=f"envs.mujoco.{_where}", max_episode_steps=_steps)
