"""Observation terms: pure functions of RobotState, the same in the simulator and on the robot.

A RobotConfig lists the terms that its policies see, in order. A term is a function that returns (N, width), float32.
`mirrored` sets its mirror image; a policy can be symmetric only if all its terms have one. Users can write terms in
their own modules too: docs/terms.md.
"""

from __future__ import annotations

import numpy as np

from rfx.robot.mirror_images import gait_clock as gait_clock_image
from rfx.robot.mirror_images import joints, mirrored
from rfx.robot.state import Array, RobotState, stepping


@mirrored(joints)
def joint_position(state: RobotState) -> Array:
    """Joint positions relative to the default pose. (N, num_joints), rad."""
    return state.joint_position - state.config.default_position


@mirrored(joints)
def joint_velocity(state: RobotState) -> Array:
    """Joint velocities. (N, num_joints), rad/s."""
    return state.joint_velocity


@mirrored((-1, 1, -1))
def base_angular_velocity(state: RobotState) -> Array:
    """Angular velocity of the base, base frame: the gyroscope. (N, 3), rad/s."""
    return state.base_angular_velocity_b


@mirrored((1, -1, 1))
def projected_gravity(state: RobotState) -> Array:
    """Unit vector of gravity in the base frame. (N, 3)."""
    return state.projected_gravity_b


@mirrored((1, -1, -1))
def velocity_command(state: RobotState) -> Array:
    """Commanded vx, vy and yaw rate, base frame. (N, 3), m/s and rad/s."""
    return state.velocity_command


@mirrored(joints)
def last_action(state: RobotState) -> Array:
    """The action before this observation. (N, num_joints), in [-1, 1]."""
    return state.last_action


@mirrored(gait_clock_image)
def gait_clock(state: RobotState) -> Array:
    """Sine and cosine of the gait phase, and sine of twice the phase. (N, 3).

    All three are zero while the clock waits (rfx.robot.state.advance). The mirror image of the clock, half a cycle
    ahead, then only changes signs: (-, -, +).
    """
    phase = state.gait_phase
    return np.stack((np.sin(phase), np.cos(phase), np.sin(np.float32(2.0) * phase)), axis=1) * stepping(state)[:, None]
