"""Environments. Importing it registers one with Gymnasium for every file in configs/robot/: `rfx/LargeRobot-v0` for large_robot.yaml."""

import gymnasium

from envs.configs import options

for _name in options("robot"):
    gymnasium.register(f"rfx/{''.join(part.capitalize() for part in _name.split('_'))}-v0", entry_point="envs.legged.single:LeggedSingleEnv",
                       vector_entry_point="envs.legged.env:LeggedEnv", kwargs={"task": _name})
