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
        bounds; of choices (N,), counted from 0, to (N,)."""
        if self.num_actions:
            return action.astype(self.action_dtype) + self.start
        low, high = np.array(self.action_low), np.array(self.action_high)
        scaled = low + (np.clip(action, -1.0, 1.0).astype(np.float64) + 1.0) * (0.5 * (high - low))
        return np.clip(scaled, low, high).astype(self.action_dtype).reshape(len(action), *self.action_shape)
