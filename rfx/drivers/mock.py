"""A robot without hardware: joints that follow position targets like damped springs. For tests and first steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rfx.drivers.robot import checked_action
from rfx.observation import arrays
from rfx.observation.arrays import Array
from rfx.robot.config import JointConfig, RobotConfig, joint_targets
from rfx.robot.observe import observe
from rfx.robot.state import RobotState, advance

NATURAL_FREQUENCY_RAD_S = 25.0  # a joint settles within a quarter of a second, like a Go2's joint under its PD gains
RESET_NOISE_RAD = 0.02


class MockRobot:
    """num_envs robots whose joints follow position actions with second-order dynamics; the base stands still.

    Each robot has action_dim joints. Without a config, an action is the joint position in rad, and the state is joint
    positions (rad), velocities (rad/s) and the last action, cut or zero-filled to state_dim. With a config, the config
    gives widths, joints, action rule and observation terms. tensors is "numpy", "tinygrad" or "torch"; the default is
    the first of torch, tinygrad and numpy that is installed. seed sets the small random offsets from the default pose
    after a reset. Raises ValueError for widths that do not fit.
    """

    def __init__(
        self,
        state_dim: int = 12,
        action_dim: int = 6,
        *,
        num_envs: int = 1,
        max_state_dim: int = 64,
        max_action_dim: int = 64,
        config: RobotConfig | None = None,
        tensors: str | None = None,
        seed: int = 0,
    ):
        if num_envs < 1:
            raise ValueError(f"got num_envs {num_envs}; expected 1 or more")
        if tensors is not None and tensors not in arrays.LIBRARIES:
            raise ValueError(f"got tensors={tensors!r}; expected one of {', '.join(arrays.LIBRARIES)}")
        if config is None:
            joints = tuple(JointConfig(name=f"joint_{index}", action_scale_rad=1.0) for index in range(action_dim))
            config = RobotConfig(
                name="mock",
                state_dim=state_dim,
                action_dim=action_dim,
                max_state_dim=max_state_dim,
                max_action_dim=max_action_dim,
                joints=joints,
            )
        self.config, self.num_envs, self.tensors = config, num_envs, tensors
        self.state_dim, self.action_dim = config.state_dim, config.action_dim
        self.max_state_dim, self.max_action_dim = config.max_state_dim, config.max_action_dim
        self.state = RobotState.zeros(config, num_envs)
        self._target = self.state.joint_position.copy()
        self._rng = np.random.default_rng(seed)
        self._stopped = False
        self.reset()

    def observe(self) -> dict[str, Array]:
        """Return what the robots sense now: {"state": (num_envs, max_state_dim)}, float32.

        The state is zero beyond state_dim. Each call returns a new array.
        """
        state = observe(self.state) if self.config.observation_terms else self._plain_state()
        return {
            "state": arrays.from_numpy(
                state, self.tensors or next(filter(arrays.is_installed, ("torch", "tinygrad", "numpy")))
            )
        }

    def act(self, action: Any) -> None:
        """Apply an action for one control step.

        action is (num_envs, action_dim), or padded (num_envs, max_action_dim); it is clipped to [-1, 1].
        For another shape or values that are not finite, it stops and raises ValueError. Raises RuntimeError while
        stopped.
        """
        if self._stopped:
            raise RuntimeError("the robot is stopped: call reset() first")
        try:
            values = checked_action(action, self.num_envs, self.action_dim, self.max_action_dim)
        except ValueError:
            self.stop()
            raise
        joint_targets(self.config, values, out=self._target)
        self._move(1.0 / self.config.control_freq_hz)
        advance(self.state, values)

    def reset(self, env_ids: Iterable[int] | None = None) -> None:
        """Let all robots, or the robots in env_ids, stand near the default pose.

        They are at rest, with no last action and the gait clock at zero.
        """
        ids = np.arange(self.num_envs) if env_ids is None else np.asarray(list(env_ids), np.intp)
        if ids.size and not (0 <= ids.min() and ids.max() < self.num_envs):
            raise ValueError(f"got env_ids {ids.tolist()}; expected 0 to {self.num_envs - 1}")
        offset = self._rng.uniform(-RESET_NOISE_RAD, RESET_NOISE_RAD, (len(ids), self.action_dim)).astype(np.float32)
        self.state.joint_position[ids] = np.clip(self.config.default_position + offset, *self.config.joint_range)
        self._target[ids] = self.state.joint_position[ids]
        for array in (self.state.joint_velocity, self.state.last_action, self.state.gait_phase):
            array[ids] = 0.0
        self._stopped = False

    def command(self, vx: float, vy: float, yaw_rate: float) -> None:
        """Set the velocity command, base frame, m/s and rad/s. The robot only observes it.

        Raises ValueError for a value that is not finite.
        """
        if not np.isfinite((vx, vy, yaw_rate)).all():
            raise ValueError(f"got the command vx {vx}, vy {vy}, yaw_rate {yaw_rate}; expected finite numbers")
        self.state.velocity_command[:] = vx, vy, yaw_rate

    def stop(self) -> None:
        """Hold every joint where it is, until reset."""
        self._target[:] = self.state.joint_position
        self.state.joint_velocity[:] = 0.0
        self._stopped = True

    def __enter__(self) -> MockRobot:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stop()

    def _move(self, duration_s: float) -> None:
        """Advance time with the exact solution of q'' = w^2 (target - q) - 2 w q', which is critically damped."""
        omega = NATURAL_FREQUENCY_RAD_S
        position, velocity = self.state.joint_position, self.state.joint_velocity
        error = position - self._target
        slope = velocity + omega * error
        decay = np.float32(np.exp(-omega * duration_s))
        position[:] = self._target + (error + slope * duration_s) * decay
        velocity[:] = (velocity - omega * slope * duration_s) * decay

    def _plain_state(self) -> np.ndarray:
        parts = np.concatenate((self.state.joint_position, self.state.joint_velocity, self.state.last_action), axis=1)[
            :, : self.state_dim
        ]
        return arrays.pad_last(parts, self.max_state_dim)
