"""The last observations of robots, for policies that read more than one observation.

Training, evaluation and real robots use the same code.
"""

from __future__ import annotations

import numpy as np

from rfx.observation import ObservationBuffer
from rfx.robot.state import Array


class ObservationHistory:
    """The last length observations of N robots, oldest first.

    At the start of an episode, a robot's first observation fills every place. Raises ValueError for a length that is
    not a positive integer.
    """

    def __init__(self, length: int):
        self.length = length
        self._buffer = ObservationBuffer(length)
        self._begin = np.zeros(0, bool)  # (N,): robots whose next observation is the first of an episode

    def reset(self, rows: Array | None = None) -> None:
        """Start a new episode with the next observation. rows: indices or a mask (N,); None means all robots."""
        if rows is None:
            self._buffer.clear()
        elif len(self._buffer):
            self._begin[rows] = True

    def push(self, state: Array) -> Array:
        """Add one observation of each robot and return `frames`. state (N, D) -> (N, length, D).

        Raises ValueError if N or D changes, except after a reset of all robots.
        """
        if not len(self._buffer):
            self._begin = np.zeros(len(state), bool)
        elif (frames := self.frames).shape != (len(state), self.length, state.shape[1]):
            raise ValueError(
                f"got observations of shape {tuple(state.shape)}; expected "
                f"{(len(frames), frames.shape[2])}, as before: call reset() before another robot, "
                "or another number of them"
            )
        elif self._begin.any():
            frames[self._begin] = state[self._begin, None]
            self.load(frames)
        self._buffer.push({"state": state})
        while len(self._buffer) < self.length:
            self._buffer.push({"state": state})
        return self.frames

    @property
    def frames(self) -> Array:
        """A copy of the kept observations, (N, length, D). Raises IndexError before the first observation."""
        return self._buffer.get_stacked()["state"]

    def load(self, frames: Array) -> None:
        """Restore what `frames` returned, (N, length, D)."""
        self._buffer.clear()
        self._begin = np.zeros(len(frames), bool)
        for i in range(self.length):
            self._buffer.push({"state": frames[:, i]})

    def followed_by(self, rows: Array, state: Array) -> Array:
        """The frames of some robots as they would be after one more observation. The observation is not kept.

        rows (n,), state (n, D) -> (n, length, D).
        """
        return np.concatenate((self.frames[rows, 1:], state[:, None]), axis=1)
