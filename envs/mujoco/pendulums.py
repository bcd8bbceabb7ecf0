"""InvertedPendulum and InvertedDoublePendulum, in batches: carts that balance poles.

Formulas are gymnasium.envs.mujoco's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.mujoco.batched import BatchedMujocoEnv, Options, Rows
from rfx.robot.state import Array

# A pole has fallen beyond this angle, a double pole when its tip is not above this height over the cart.
MAX_ANGLE_RAD, MIN_TIP_M = 0.2, 1.0
LIMIT = 10.0  # observed velocities and force of the double pendulum are clipped to +- this


@dataclass(frozen=True, kw_only=True)
class InvertedPendulumOptions(Options):
    """InvertedPendulum's options."""

    xml_file: str = "inverted_pendulum.xml"
    frame_skip: int = 2
    reset_noise_scale: float = 0.01


class InvertedPendulumEnv(BatchedMujocoEnv):
    """InvertedPendulum: a reward of 1 for every step in which the pole stands."""

    options_type = InvertedPendulumOptions

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return self.noisy_start(rng, self.options.reset_noise_scale)

    def observe(self, rows: Rows) -> Array:
        return np.concatenate((self.qpos[rows], self.qvel[rows]), axis=1)

    def outcome(self, action: Array, before: None) -> tuple[Array, Array, dict[str, Array]]:
        fallen = ~(np.abs(self.qpos[:, 1]) <= MAX_ANGLE_RAD)
        reward = (~fallen).astype(np.float64)
        return reward, fallen, {"reward_survive": (~fallen).astype(np.int64)}


@dataclass(frozen=True, kw_only=True)
class InvertedDoublePendulumOptions(Options):
    """InvertedDoublePendulum's options."""

    xml_file: str = "inverted_double_pendulum.xml"
    frame_skip: int = 5
    healthy_reward: float = 10.0
    reset_noise_scale: float = 0.1


class InvertedDoublePendulumEnv(BatchedMujocoEnv):
    """InvertedDoublePendulum: a reward for standing, minus penalties for velocity and for a tip that is not on top."""

    options_type = InvertedDoublePendulumOptions

    def bind(self) -> None:
        self._site_xpos, self._qfrc_constraint = self.batch.bind("site_xpos"), self.batch.bind("qfrc_constraint")

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return self.noisy_start(rng, self.options.reset_noise_scale, normal=True)

    def observe(self, rows: Rows) -> Array:
        qpos = self.qpos[rows]
        limited = (values.clip(-LIMIT, LIMIT) for values in (self.qvel[rows], self._qfrc_constraint[rows, :1]))
        return np.concatenate((qpos[:, :1], np.sin(qpos[:, 1:]), np.cos(qpos[:, 1:]), *limited), axis=1)

    def outcome(self, action: Array, before: None) -> tuple[Array, Array, dict[str, Array]]:
        x, y = self._site_xpos[:, 0, 0], self._site_xpos[:, 0, 2]
        fallen = y <= MIN_TIP_M
        rewards = {
            "reward_survive": self.options.healthy_reward * ~fallen,
            "distance_penalty": -(0.01 * x**2 + (y - 2.0) ** 2),
            "velocity_penalty": -(1e-3 * self.qvel[:, 1] ** 2 + 5e-3 * self.qvel[:, 2] ** 2),
        }
        return sum(rewards.values()), fallen, rewards
