"""The one state type: what a robot knows of itself. A simulator fills N rows, a driver fills one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfx.robot.config import RobotConfig

Array = np.ndarray
TURN = 2.0 * np.pi  # rad, a whole cycle of the gait
# In the info of an environment's step: simulations that broke (N,), bool, of which nothing may be learned. The name is
# ours alone: what another environment calls `failed`, a task that is not solved yet, is an outcome to learn from.
FAILED = "rfx.failed"


@dataclass(frozen=True, kw_only=True)
class RobotState:
    """What the robot measures or was told, batch first. All float32; joints in the config's motor order.

    The arrays are live: their owner overwrites them in place at every control step. Copy what must outlast one.
    """

    config: RobotConfig
    joint_position: Array  # (N, num_joints), rad
    joint_velocity: Array  # (N, num_joints), rad/s
    base_angular_velocity_b: Array  # (N, 3), rad/s
    projected_gravity_b: Array  # (N, 3), unit vector of gravity in the base frame; (0, 0, -1) when level
    velocity_command: Array  # (N, 3): vx, vy in m/s, yaw rate in rad/s, base frame
    last_action: Array  # (N, num_joints), the action applied over the step that ended here, in [-1, 1]
    gait_phase: Array  # (N,), rad in [0, 2 pi)

    @classmethod
    def zeros(cls, config: RobotConfig, num_envs: int) -> RobotState:
        """A level robot at its default pose, commanded to stand. num_envs rows."""
        num_joints = len(config.joints)

        def zeros(*shape: int) -> Array:
            return np.zeros((num_envs, *shape), np.float32)

        gravity = zeros(3)
        gravity[:, 2] = -1.0
        return cls(
            config=config,
            joint_position=np.tile(config.default_position, (num_envs, 1)),
            joint_velocity=zeros(num_joints),
            base_angular_velocity_b=zeros(3),
            projected_gravity_b=gravity,
            velocity_command=zeros(3),
            last_action=zeros(num_joints),
            gait_phase=zeros(),
        )


def advance(state: RobotState, action: Array) -> None:
    """Note the action of the control step that just ended and move the gait clock on by it, in place. action (N,
    num_joints).

    The clock of a robot that is told to stand runs on to the end of its half cycle, where feet that are in the air come
    down, and waits at 0: nothing then urges it to lift its feet. The simulator and the drivers both call this once per
    control step, so the clock and the last action mean the same on both.
    """
    state.last_action[...] = action
    config, phase = state.config, state.gait_phase
    waits, half_cycles = phase == 0.0, _half_cycles(phase)
    phase += np.float32(TURN * config.gait_freq_hz / config.control_freq_hz)
    waits |= _half_cycles(phase) != half_cycles
    np.mod(phase, np.float32(TURN), out=phase)
    phase[waits & ~state.velocity_command.any(axis=1)] = 0.0


def stepping(state: RobotState) -> Array:
    """Which robots' gait clocks run: those that are told to move, or end their last step. (N,), bool."""
    return state.velocity_command.any(axis=1) | (state.gait_phase != 0.0)


def _half_cycles(phase: Array) -> Array:
    return np.floor(
        phase * np.float32(2.0 / TURN) + np.float32(1e-3)
    )  # so much earlier, that rounding errors add no step


def heading(quaternion: Array) -> Array:
    """Angle in the world's ground plane of the base's x axis, from the base orientation.

    (N, 4) wxyz, unit length -> (N,), rad.
    """
    w, x, y, z = quaternion.T
    return np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def projected_gravity(quaternion: Array, out: Array | None = None) -> Array:
    """Unit vector of gravity in the base frame, from the base orientation. (N, 4) wxyz, unit length -> (N, 3).

    The third row of the rotation matrix, negated.
    """
    w, x, y, z = quaternion.T
    out = np.empty((len(quaternion), 3), np.float32) if out is None else out
    out[:, 0] = 2.0 * (w * y - x * z)
    out[:, 1] = -2.0 * (w * x + y * z)
    out[:, 2] = 2.0 * (x * x + y * y) - 1.0
    return out
