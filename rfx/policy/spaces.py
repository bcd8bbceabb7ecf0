"""What goes into a policy and comes out of it where that is no robot's: shapes and bounds, as a Gymnasium environment's
spaces have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.robot.state import Array
from rfx.settings.reader import read


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """Observations of one shape, and actions: numbers within bounds, or one of num_actions choices, the first of which
    is called start.

    A policy itself reads observations flat, and acts in [-1, 1]; between the two, these functions translate.
    """

    observation_shape: tuple[int, ...]
    action_shape: tuple[int, ...] = ()  # of numbers within bounds
    action_dtype: str = "int64"
    action_low: tuple[float, ...] = ()  # flat
    action_high: tuple[float, ...] = ()
    num_actions: int = 0  # of choices; 0 where actions are numbers
    start: int = 0

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Spaces:
        """Those that dataclasses.asdict told. Raises ValueError for what tells none."""
        return read(cls, values, "spaces")

    def flatten(self, observation: Array) -> Array:
        """Observations (N, *observation_shape) as rows (N, D), float32."""
        return np.asarray(observation, np.float32).reshape(len(observation), -1)

    def scale(self, action: Array) -> Array:
        """A policy's actions as the environment takes them: (N, A), clipped to [-1, 1], to (N, *action_shape) within
        bounds; of choices (N,), counted from 0, to (N,). Where actions are whole numbers, each has an equal share of
        [-1, 1]."""
        if self.num_actions:
            return action.astype(self.action_dtype) + self.start
        low, high = np.array(self.action_low, float), np.array(self.action_high, float)
        scaled = low + (np.clip(action, -1.0, 1.0).astype(np.float64) + 1.0) * self.half_width
        if self.whole:
            scaled = np.floor(scaled)
        return np.clip(scaled, low, high).astype(self.action_dtype).reshape(len(action), *self.action_shape)

    @property
    def whole(self) -> bool:
        """Whether actions are whole numbers."""
        return np.dtype(self.action_dtype).kind in "iub"

    @property
    def half_width(self) -> Array:
        """Half of the bounds' width, for whole numbers with the last one's share: what an action of 1 is from 0.

        (A,).
        """
        return 0.5 * (np.array(self.action_high, float) - np.array(self.action_low, float) + self.whole)
