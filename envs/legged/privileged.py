"""Privileged terms: quantities that a critic may read in training, and that no robot can measure.

They are pure functions of SimState. `policy.critic_terms` lists the terms that the critic reads, in order. To add a
term, write a function here that returns (N, width), float32.
"""

from __future__ import annotations

import numpy as np

from envs.legged.state import SimState
from rfx.robot.observe import observe
from rfx.robot.state import Array


def observation(state: SimState) -> Array:
    """The actor's observation without noise, encoder offsets or a tilted IMU. (N, state_dim)."""
    return observe(state.robot)[:, : state.robot.config.state_dim]


def base_linear_velocity(state: SimState) -> Array:
    """Linear velocity of the base, base frame. (N, 3), m/s."""
    return state.base_linear_velocity_b


def base_height(state: SimState) -> Array:
    """Height of the base above the floor. (N, 1), m."""
    return state.base_height[:, None]


def foot_contact(state: SimState) -> Array:
    """1 for a foot that touches something, 0 for one that does not. (N, num_feet)."""
    return state.foot_contact.astype(np.float32)


def foot_height(state: SimState) -> Array:
    """Height of each foot's centre above the floor. (N, num_feet), m."""
    return state.foot_height


def foot_velocity(state: SimState) -> Array:
    """Velocity of each foot, world frame, mean over the control step. (N, 3 num_feet), m/s."""
    return state.foot_velocity_w.reshape(len(state.step), -1)


def joint_torque(state: SimState) -> Array:
    """Torque of each motor. (N, num_joints), N m."""
    return state.joint_torque


def floor_friction(state: SimState) -> Array:
    """Sliding friction of the floor. (N, 1)."""
    return state.floor_friction[:, None]


def trunk_mass(state: SimState) -> Array:
    """Mass of the trunk with its payload. (N, 1), kg."""
    return state.trunk_mass[:, None]
