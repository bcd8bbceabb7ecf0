"""The simulator's state of each robot: RobotState, which real robots have too, and what only a simulator knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.robot.config import RobotConfig
from rfx.robot.state import Array, RobotState


@dataclass(frozen=True, kw_only=True)
class SimState:
    """The state of N simulated robots.

    Rewards, terminations and a privileged critic read it; the actor's observations read only `robot`. The arrays are
    live: the simulation overwrites them in place at every control step. They are float32 unless noted.
    """

    robot: RobotState
    base_height: Array  # (N,), m above the ground below it
    base_linear_velocity_b: Array  # (N, 3), m/s
    mean_velocity_b: Array  # (N, 3), vx, vy in m/s and yaw rate in rad/s, averaged over the last steps: see Simulation
    previous_action: Array  # (N, num_joints), the action before robot.last_action
    earlier_action: Array  # (N, num_joints), the action before previous_action
    joint_torque: Array  # (N, num_joints), N m, over the last substep
    joint_acceleration: Array  # (N, num_joints), rad/s^2, mean over the control step
    foot_height: Array  # (N, num_feet), m, centre of the foot above the ground below it
    foot_velocity_w: Array  # (N, num_feet, 3), m/s, mean over the control step
    foot_contact: Array  # (N, num_feet), bool
    foot_landed: Array  # (N, num_feet), bool: the foot touches the ground, and did not at the last control step
    foot_swing: Array  # (N, num_feet), bool: the gait clock wants the foot in the air; never while the clock waits
    base_contact: Array  # (N,), bool: the trunk touches something
    floor_friction: Array  # (N,), sliding friction of the floor
    trunk_mass: Array  # (N,), kg, its payload included
    fallen: Array  # (N,), bool: a termination term ends the episode in this step
    step: Array  # (N,), int64, control steps since the episode began

    @classmethod
    def zeros(cls, config: RobotConfig, num_envs: int) -> SimState:
        """num_envs robots at rest."""
        num_joints, num_feet = len(config.joints), len(config.feet)

        def zeros(*shape: int, dtype=np.float32) -> Array:
            return np.zeros((num_envs, *shape), dtype)

        return cls(
            robot=RobotState.zeros(config, num_envs),
            base_height=zeros(),
            base_linear_velocity_b=zeros(3),
            mean_velocity_b=zeros(3),
            previous_action=zeros(num_joints),
            earlier_action=zeros(num_joints),
            joint_torque=zeros(num_joints),
            joint_acceleration=zeros(num_joints),
            foot_height=zeros(num_feet),
            foot_velocity_w=zeros(num_feet, 3),
            foot_contact=zeros(num_feet, dtype=bool),
            foot_landed=zeros(num_feet, dtype=bool),
            foot_swing=zeros(num_feet, dtype=bool),
            base_contact=zeros(dtype=bool),
            floor_friction=zeros(),
            trunk_mass=zeros(),
            fallen=zeros(dtype=bool),
            step=zeros(dtype=np.int64),
        )

    def arrays(self) -> dict[str, Array]:
        """The live arrays by field name; the names of the robot's arrays begin with `robot.`."""
        robot = {
            f"robot.{f.name}": getattr(self.robot, f.name) for f in dataclasses.fields(self.robot) if f.name != "config"
        }
        return robot | {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "robot"}


def load_arrays(arrays: Mapping[str, Array], values: Mapping[str, Array]) -> None:
    """Write values into the arrays of the same names, in place.

    Raises ValueError when names or shapes differ, and then writes nothing.
    """
    if arrays.keys() != values.keys():
        raise ValueError(
            f"got a state that has, or lacks, {', '.join(sorted(arrays.keys() ^ values.keys()))}; "
            "expected the state of the same task, saved by the same version"
        )
    for name, array in arrays.items():
        if array.shape != values[name].shape:
            raise ValueError(
                f"got {name} of shape {values[name].shape}; expected {array.shape}: use the env.num_envs and robot it was saved with"
            )
    for name, array in arrays.items():
        array[...] = values[name]


def masked_rows(mask: Any, num_envs: int) -> Array:
    """Indices of the environments in Gymnasium's reset mask; checks it as Gymnasium's own vector environments do.

    Raises TypeError for a mask that is no bool array, and ValueError for a wrong shape or an empty mask.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(
            f"got options['reset_mask'] of {getattr(mask, 'dtype', type(mask).__name__)}; expected a NumPy array of bool"
        )
    if mask.shape != (num_envs,) or not mask.any():
        raise ValueError(
            f"got options['reset_mask'] of shape {mask.shape} with {mask.sum()} environments in it; expected ({num_envs},), "
            "with one environment or more"
        )
    return np.flatnonzero(mask)
