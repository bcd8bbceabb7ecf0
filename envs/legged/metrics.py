"""Training metrics of the walking task: means by tag since the last reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from rfx.robot.state import Array

ERRORS = ("error_vx", "error_vy", "error_yaw_rate")  # mean absolute: m/s, m/s, rad/s


class Metrics:
    """Sums over control steps and ended episodes, kept separately for each of num_envs robots.

    rewards are the names of the reward terms. Separate sums make the means independent, bit for bit, of how the robots
    are divided among several Metrics.
    """

    def __init__(self, rewards: Iterable[str], num_envs: int, step_s: float):
        self._rewards, self._num_envs, self._step_s = tuple(rewards), num_envs, step_s
        self._clear()

    def _clear(self) -> None:
        self.reward = {name: np.zeros(self._num_envs) for name in self._rewards}  # weighted
        self._error = np.zeros((self._num_envs, 3))
        self._steps, self._episodes, self._falls, self._length = np.zeros((4, self._num_envs), np.int64)

    def add_step(self, error: Array) -> None:
        """Add a control step. error (N, 3) is absolute, and 0 for simulations that failed."""
        self._error += error
        self._steps += 1

    def add_episodes(self, ended: Array, length: Array, fell: Array) -> None:
        """Add the episodes that ended (N,), their length (N,) in control steps, and whether the robot fell (N,)."""
        self._episodes += ended
        self._falls += ended & fell
        self._length += np.where(ended, length, 0)

    def take(self) -> dict[str, Array]:
        """Return the sums by name, a row for each robot, and start new sums."""
        sums = {f"reward/{name}": total for name, total in self.reward.items()} | {
            "error": self._error,
            "steps": self._steps,
            "episodes": self._episodes,
            "falls": self._falls,
            "length": self._length,
        }
        self._clear()
        return sums

    def means(self, sums: Mapping[str, Array]) -> dict[str, float]:
        """Means by tag from the sums that `take` returned: rewards per second, and errors.

        If any episode ended, also the falls per episode and the mean episode length.
        """
        tags: dict[str, float] = {}
        if steps := int(sums["steps"].sum()):
            tags |= {
                f"reward/{name}": float(sums[f"reward/{name}"].sum()) / (steps * self._step_s) for name in self._rewards
            }
            tags |= {f"episode/{name}": float(error) / steps for name, error in zip(ERRORS, sums["error"].sum(axis=0))}
        if episodes := int(sums["episodes"].sum()):
            tags |= {
                "episode/falls": int(sums["falls"].sum()) / episodes,
                "episode/length_s": int(sums["length"].sum()) * self._step_s / episodes,
            }
        return tags

    def read(self) -> dict[str, float]:
        """Return the means by tag, and start new sums."""
        return self.means(self.take())
