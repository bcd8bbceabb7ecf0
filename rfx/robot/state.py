"""The state of a robot, as its sensors measure it. A simulator fills N rows, a driver fills one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfx.robot.config import RobotConfig

Array = np.ndarray
TURN = 2.0 * np.pi  # rad, one whole cycle of the gait
# Key in the info of an environment's step: which simulations broke, (N,), bool. Training must not learn from them. The
# name is special to rfx, because other environments use `failed` for an unsolved task, which is a result to learn from.
FAILED = "rfx.failed"


@dataclass(frozen=True, kw_only=True)
class RobotState:
    """The robot's measurements and commands, batch first. All float32; joints in the config's motor order.

    The owner of the arrays overwrites them in place at every control step. Copy an array to keep it for longer.
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
        """The state of level robots at their default pose, commanded to stand. num_envs rows."""
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
    """Store the last action and advance the gait clock by one control step, in place. action (N, num_joints).

    action is the action of the control step that just ended. If a robot is told to stand, its clock runs to the end of
    the half cycle, when raised feet come down. The clock then waits at 0, so that nothing tells the robot to lift its
    feet. The simulator and the drivers both call this once per control step, so the clock and the last action mean the
    same on both.
    """
    state.last_action[...] = action
    config, phase = state.config, state.gait_phase
    waits, half_cycles = phase == 0.0, _half_cycles(phase)
    phase += np.float32(TURN * config.gait_freq_hz / config.control_freq_hz)
    waits |= _half_cycles(phase) != half_cycles
    np.mod(phase, np.float32(TURN), out=phase)
    phase[waits & ~state.velocity_command.any(axis=1)] = 0.0


def stepping(state: RobotState) -> Array:
    """Whether each robot's gait clock runs: the robot is told to move, or finishes its last step. (N,), bool."""
    return state.velocity_command.any(axis=1) | (state.gait_phase != 0.0)


def _half_cycles(phase: Array) -> Array:
    # The 1e-3 puts the boundary slightly earlier, so that rounding errors add no step
    return np.floor(phase * np.float32(2.0 / TURN) + np.float32(1e-3))


def heading(quaternion: Array) -> Array:
    """Heading: the angle of the base's x axis in the world's ground plane, from the base orientation.

    (N, 4) wxyz, unit length -> (N,), rad.
    """
    w, x, y, z = quaternion.T
    return np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def projected_gravity(quaternion: Array, out: Array | None = None) -> Array:
    """Unit vector of gravity in the base frame, from the base orientation. (N, 4) wxyz, unit length -> (N, 3).

    It is the third row of the rotation matrix, negated.
    """
    w, x, y, z = quaternion.T
    out = np.empty((len(quaternion), 3), np.float32) if out is None else out
    out[:, 0] = 2.0 * (w * y - x * z)
    out[:, 1] = -2.0 * (w * x + y * z)
    out[:, 2] = 2.0 * (x * x + y * y) - 1.0
    return out
