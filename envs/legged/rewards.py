"""Reward terms: functions of SimState that return (N,), float32.

The task's YAML names them and gives each a weight per second. Velocity tracking follows Rudin et al., "Learning to Walk
in Minutes" (2021); the gait clock follows Siekmann et al. (2021).
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
    """The same as linear_velocity, for the running mean of the velocity.

    Each step sways the base and exploration shakes it, which hides whether the robot follows its command.
    """
    error = state.mean_velocity_b[:, :2] - state.robot.velocity_command[:, :2]
    return np.exp(_square_sum(error) / np.float32(-variance))


def mean_yaw_rate(state: SimState, variance: float = 0.25) -> Array:
    """The same as yaw_rate, for the running mean of the yaw rate."""
    error = state.mean_velocity_b[:, 2] - state.robot.velocity_command[:, 2]
    return np.exp(np.square(error) / np.float32(-variance))


def yaw_sway(state: SimState) -> Array:
    """Squared difference between the yaw rate and its running mean, (rad/s)^2: the base's twist at each step."""
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
    """1 in the step in which a termination term ends the episode, else 0."""
    return state.fallen.astype(np.float32)


def pose(state: SimState) -> Array:
    """Sum of squared deviations of the joints from the default pose, rad^2."""
    return _square_sum(state.robot.joint_position - state.robot.config.default_position)


def action_rate(state: SimState) -> Array:
    """Sum of squared changes of the action since the last control step."""
    return _square_sum(state.robot.last_action - state.previous_action)


def action_acceleration(state: SimState) -> Array:
    """Sum of squared second differences of the action, a - 2 a' + a'', over the last three control steps."""
    return _square_sum(state.robot.last_action - np.float32(2.0) * state.previous_action + state.earlier_action)


def gait_contact(state: SimState) -> Array:
    """Share of the feet whose contact is right: on the ground, or in the air, as the gait clock wants."""
    return (state.foot_contact != state.foot_swing).mean(axis=1, dtype=np.float32)


def swing_height(state: SimState, target_m: float = 0.1, variance: float = 0.01) -> Array:
    """exp(-(foot height - target_m)^2 / variance) for feet that should swing, else 0: the mean over all feet.

    variance in m^2.
    """
    height = np.exp(np.square(state.foot_height - np.float32(target_m)) / np.float32(-variance))
    return np.where(state.foot_swing, height, np.float32(0.0)).mean(axis=1)


def stand_still(state: SimState) -> Array:
    """Sum of squared deviations of the joints from the default pose, rad^2, while the command is zero; else 0."""
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
    """Sum over the joints of the distance to the middle part of their range, rad; share is that part's size."""
    low, high = state.robot.config.joint_range
    middle, reach = np.float32(0.5) * (low + high), np.float32(0.5 * share) * (high - low)
    return np.maximum(np.abs(state.robot.joint_position - middle) - reach, np.float32(0.0)).sum(axis=1)


def foot_slip(state: SimState) -> Array:
    """Sum of the squared horizontal velocities of the feet on the ground, (m/s)^2."""
    squared = np.square(state.foot_velocity_w[:, :, 0]) + np.square(state.foot_velocity_w[:, :, 1])
    return np.where(state.foot_contact, squared, np.float32(0.0)).sum(axis=1)


def foot_impact(state: SimState) -> Array:
    """Sum of the squared vertical velocities of the feet that touched down in this control step, (m/s)^2."""
    return np.where(state.foot_landed, np.square(state.foot_velocity_w[:, :, 2]), np.float32(0.0)).sum(axis=1)
