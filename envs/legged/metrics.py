"""What training is told of the walking task: means by tag, of everything since they were last read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rfx.state import Array

ERRORS = ("error_vx", "error_vy", "error_yaw_rate")  # mean absolute: m/s, m/s, rad/s


class Metrics:
    """Sums over control steps and ended episodes of num_envs robots with these reward terms."""

    def __init__(self, rewards: Iterable[str], num_envs: int, step_s: float):
        self._rewards, self._num_envs, self._step_s = tuple(rewards), num_envs, step_s
        self._clear()

    def _clear(self) -> None:
        self.reward = dict.fromkeys(self._rewards, 0.0)  # weighted, mean over robots
        self._error, self._steps, self._episodes, self._falls, self._length_s = np.zeros(3), 0, 0, 0, 0.0

    def add_step(self, error: Array) -> None:
        """Take in a control step: error (N, 3), absolute, 0 for simulations that failed."""
        self._error += error.sum(axis=0, dtype=np.float64)
        self._steps += 1

    def add_episodes(self, length: Array, fell: Array) -> None:
        """Take in episodes that ended: their control steps (n,), and whether by a fall (n,)."""
        self._episodes += len(length)
        self._falls += int(fell.sum())
        self._length_s += float(length.sum()) * self._step_s

    def read(self) -> dict[str, float]:
        """The means by tag: rewards per second, errors, and where episodes ended their falls and length; the sums begin anew."""
        tags: dict[str, float] = {}
        if self._steps:
            tags |= {f"reward/{name}": total / (self._steps * self._step_s) for name, total in self.reward.items()}
            tags |= {f"episode/{name}": float(error) for name, error in zip(ERRORS, self._error / (self._steps * self._num_envs))}
        if self._episodes:
            tags |= {"episode/falls": self._falls / self._episodes, "episode/length_s": self._length_s / self._episodes}
        self._clear()
        return tags
