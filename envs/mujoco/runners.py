"""HalfCheetah, Hopper, Walker2d and Swimmer, in batches: planar bodies that earn rewards for forward velocity.

Formulas are gymnasium.envs.mujoco's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from envs.mujoco.batched import ALL, BatchedMujocoEnv, Options, Rows
from rfx.robot.state import Array

MAX_VELOCITY = 10.0  # velocities in Hopper's and Walker2d's observations are clipped to +- this


@dataclass(frozen=True, kw_only=True)
class HalfCheetahOptions(Options):
    """HalfCheetah's options."""

    xml_file: str = "half_cheetah.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 0.1
    reset_noise_scale: float = 0.1
    exclude_current_positions_from_observation: bool = True


class HalfCheetahEnv(BatchedMujocoEnv):
    """HalfCheetah: forward velocity minus control cost, without termination."""

    options_type = HalfCheetahOptions

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return self.noisy_start(rng, self.options.reset_noise_scale, normal=True)

    def observe(self, rows: Rows) -> Array:
        skipped = int(self.options.exclude_current_positions_from_observation)
        return np.concatenate((self.qpos[rows, skipped:], self.qvel[rows]), axis=1)

    def remember(self) -> Array:
        return self.qpos[:, 0].copy()

    def outcome(self, action: Array, before: Array) -> tuple[Array, Array, dict[str, Array]]:
        position = self.qpos[:, 0].copy()
        velocity = (position - before) / self.step_s
        forward = self.options.forward_reward_weight * velocity
        control = -self.options.ctrl_cost_weight * np.square(action).sum(axis=1)
        info = {"x_position": position, "x_velocity": velocity, "reward_forward": forward, "reward_ctrl": control}
        return forward + control, np.zeros(self.num_envs, bool), info

    def start_info(self, rows: Rows) -> dict[str, Array]:
        return {"x_position": self.qpos[rows, 0].copy()}


@dataclass(frozen=True, kw_only=True)
class Walker2dOptions(Options):
    """Walker2d's options."""

    xml_file: str = "walker2d_v5.xml"
    frame_skip: int = 4
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-3
    healthy_reward: float = 1.0
    terminate_when_unhealthy: bool = True
    healthy_z_range: tuple[float, float] = (0.8, 2.0)
    healthy_angle_range: tuple[float, float] = (-1.0, 1.0)
    reset_noise_scale: float = 5e-3
    exclude_current_positions_from_observation: bool = True


class Walker2dEnv(HalfCheetahEnv):
    """Walker2d: HalfCheetah's reward, and one for being healthy, which means high enough and upright."""

    options_type = Walker2dOptions

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return self.noisy_start(rng, self.options.reset_noise_scale)

    def observe(self, rows: Rows) -> Array:
        skipped = int(self.options.exclude_current_positions_from_observation)
        velocity = self.qvel[rows].clip(-MAX_VELOCITY, MAX_VELOCITY)
        return np.concatenate((self.qpos[rows, skipped:], velocity), axis=1)

    def healthy(self) -> Array:
        """Which environments (N,) are healthy."""
        (low_z, high_z), (low, high) = self.options.healthy_z_range, self.options.healthy_angle_range
        z, angle = self.qpos[:, 1], self.qpos[:, 2]
        return (low_z < z) & (z < high_z) & (low < angle) & (angle < high)

    def outcome(self, action: Array, before: Array) -> tuple[Array, Array, dict[str, Array]]:
        reward, _, info = super().outcome(action, before)
        healthy = self.healthy()
        survive = healthy * self.options.healthy_reward
        info |= self.start_info(ALL) | {"reward_survive": survive}
        return reward + survive, ~healthy & self.options.terminate_when_unhealthy, info

    def start_info(self, rows: Rows) -> dict[str, Array]:
        return super().start_info(rows) | {"z_distance_from_origin": self.qpos[rows, 1] - self.init_qpos[1]}


@dataclass(frozen=True, kw_only=True)
class HopperOptions(Options):
    """Hopper's options."""

    xml_file: str = "hopper.xml"
    frame_skip: int = 4
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-3
    healthy_reward: float = 1.0
    terminate_when_unhealthy: bool = True
    healthy_state_range: tuple[float, float] = (-100.0, 100.0)
    healthy_z_range: tuple[float, float] = (0.7, math.inf)
    healthy_angle_range: tuple[float, float] = (-0.2, 0.2)
    reset_noise_scale: float = 5e-3
    exclude_current_positions_from_observation: bool = True


class HopperEnv(Walker2dEnv):
    """Hopper: Walker2d's task on one leg, with other limits, and limits for every joint and velocity."""

    options_type = HopperOptions

    def healthy(self) -> Array:
        low, high = self.options.healthy_state_range
        return super().healthy() & np.all(
            [((low < values) & (values < high)).all(axis=1) for values in (self.qpos[:, 2:], self.qvel)], axis=0
        )


@dataclass(frozen=True, kw_only=True)
class SwimmerOptions(Options):
    """Swimmer's options."""

    xml_file: str = "swimmer.xml"
    frame_skip: int = 4
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 1e-4
    reset_noise_scale: float = 0.1
    exclude_current_positions_from_observation: bool = True


class SwimmerEnv(BatchedMujocoEnv):
    """Swimmer: forward velocity minus control cost, in a viscous fluid, without termination."""

    options_type = SwimmerOptions

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return self.noisy_start(rng, self.options.reset_noise_scale)

    def observe(self, rows: Rows) -> Array:
        skipped = 2 * int(self.options.exclude_current_positions_from_observation)
        return np.concatenate((self.qpos[rows, skipped:], self.qvel[rows]), axis=1)

    def remember(self) -> Array:
        return self.qpos[:, :2].copy()

    def outcome(self, action: Array, before: Array) -> tuple[Array, Array, dict[str, Array]]:
        velocity = (self.qpos[:, :2] - before) / self.step_s
        forward = self.options.forward_reward_weight * velocity[:, 0]
        control = -self.options.ctrl_cost_weight * np.square(action).sum(axis=1)
        info = self.start_info(ALL) | {
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_forward": forward,
            "reward_ctrl": control,
        }
        return forward + control, np.zeros(self.num_envs, bool), info

    def start_info(self, rows: Rows) -> dict[str, Array]:
        position = self.qpos[rows, :2].copy()
        return {
            "x_position": position[:, 0],
            "y_position": position[:, 1],
            "distance_from_origin": np.linalg.norm(position, axis=1),
        }
