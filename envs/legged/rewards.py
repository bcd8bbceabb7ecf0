"""Reward terms: functions of SimState that return (N,), float32.

The task's YAML names them, with a weight per second each.

Velocity tracking after Rudin et al., "Learning to Walk in Minutes" (2021); the gait clock after Siekmann et al. (2021).
"""

from __future__ import annotations

import numpy as np

from envs.legged.state import SimState
from rfx.robot.state import Array


def _square_sum(array: Array) -> Array:
    return np.einsum("ij,ij->i", array, array)


def linear_velocity(state: SimState, variance: float = 0.25) -> Array:
    """exp(-|v_xy - command|^2 / variance): 1 when vx and vy follow the command. variance in (m/s)^2."""
    error = state.base_linear_velocity_b[:, :2] - state.robot.velocity_command[:, :2]
    return np.exp(_square_sum(error) / np.float32(-variance))


def yaw_rate(state: SimState, variance: float = 0.25) -> Array:
    """exp(-(yaw rate - command)^2 / variance): 1 when the yaw rate follows the command. variance in (rad/s)^2."""
    error = state.robot.base_angular_velocity_b[:, 2] - state.robot.velocity_command[:, 2]
    return np.exp(np.square(error) / np.float32(-variance))


def mean_linear_velocity(state: SimState, variance: float = 0.25) -> Array:
    """As linear_velocity, of the velocity's running mean: steps sway, and exploration shakes, which hides whether the
    command is followed.
    """
    error = state.mean_velocity_b[:, :2] - state.robot.velocity_command[:, :2]
    return np.exp(_square_sum(error) / np.float32(-variance))


def mean_yaw_rate(state: SimState, variance: float = 0.25) -> Array:
    """As yaw_rate, of the yaw rate's running mean."""
    error = state.mean_velocity_b[:, 2] - state.robot.velocity_command[:, 2]
    return np.exp(np.square(error) / np.float32(-variance))


def yaw_sway(state: SimState) -> Array:
    """Squared difference between the yaw rate and its running mean, (rad/s)^2: how much the base twists to and fro at
    each step.
    """
    return np.square(state.robot.base_angular_velocity_b[:, 2] - state.mean_velocity_b[:, 2])


def vertical_velocity(state: SimState) -> Array:
    """Squared vertical velocity of the base, (m/s)^2."""
    return np.square(state.base_linear_velocity_b[:, 2])


def roll_pitch_rate(state: SimState) -> Array:
    """Squared roll and pitch rates of the base, (rad/s)^2."""
    return _square_sum(state.robot.base_angular_velocity_b[:, :2])


def tilt(state: SimState) -> Array:
    """Squared horizontal part of projected gravity: sin^2 of the tilt."""
    return _square_sum(state.robot.projected_gravity_b[:, :2])


def base_height(state: SimState, target_m: float = 0.3) -> Array:
    """Squared deviation of the base's height from target_m, m^2."""
    return np.square(state.base_height - np.float32(target_m))


def fall(state: SimState) -> Array:
    """1 in the step in which a termination term ends the episode."""
    return state.fallen.astype(np.float32)


def pose(state: SimState) -> Array:
    """Sum of squared deviations of the joints from the default pose, rad^2."""
    return _square_sum(state.robot.joint_position - state.robot.config.default_position)


def action_rate(state: SimState) -> Array:
    """Sum of squared changes of the action since the last control step."""
    return _square_sum(state.robot.last_action - state.previous_action)


def action_acceleration(state: SimState) -> Array:
    """Sum of squared changes of the action's change: a - 2 a' + a'' over the last three control steps."""
    return _square_sum(state.robot.last_action - np.float32(2.0) * state.previous_action + state.earlier_action)


def gait_contact(state: SimState) -> Array:
    """Share of the feet that are on the ground exactly when the gait clock wants them there."""
    return (state.foot_contact != state.foot_swing).mean(axis=1, dtype=np.float32)


def swing_height(state: SimState, target_m: float = 0.1, variance: float = 0.01) -> Array:
    """exp(-(foot height - target_m)^2 / variance) over the feet that should swing, mean over all feet. variance in
    m^2.
    """
    height = np.exp(np.square(state.foot_height - np.float32(target_m)) / np.float32(-variance))
    return np.where(state.foot_swing, height, np.float32(0.0)).mean(axis=1)


def stand_still(state: SimState) -> Array:
    """While the command is zero: sum of squared deviations of the joints from the default pose, rad^2. Else 0."""
    return np.where(state.robot.velocity_command.any(axis=1), np.float32(0.0), pose(state))


def joint_torque(state: SimState) -> Array:
    """Sum of squared joint torques, (N m)^2."""
    return _square_sum(state.joint_torque)


def joint_acceleration(state: SimState) -> Array:
    """Sum of squared joint accelerations, (rad/s^2)^2."""
    return _square_sum(state.joint_acceleration)


def joint_velocity(state: SimState) -> Array:
    """Sum of squared joint velocities, (rad/s)^2."""
    return _square_sum(state.robot.joint_velocity)


def joint_limits(state: SimState, share: float = 0.9) -> Array:
    """Sum over the joints of how far each is outside the middle share of its range, rad."""
    low, high = state.robot.config.joint_range
    middle, reach = np.float32(0.5) * (low + high), np.float32(0.5 * share) * (high - low)
    return np.maximum(np.abs(state.robot.joint_position - middle) - reach, np.float32(0.0)).sum(axis=1)


def foot_slip(state: SimState) -> Array:
    """Sum over the feet on the ground of their squared horizontal velocity, (m/s)^2."""
    squared = np.square(state.foot_velocity_w[:, :, 0]) + np.square(state.foot_velocity_w[:, :, 1])
    return np.where(state.foot_contact, squared, np.float32(0.0)).sum(axis=1)


def foot_impact(state: SimState) -> Array:
    """Sum over the feet that touched down in this control step of their squared vertical velocity, (m/s)^2."""
    return np.where(state.foot_landed, np.square(state.foot_velocity_w[:, :, 2]), np.float32(0.0)).sum(axis=1)
