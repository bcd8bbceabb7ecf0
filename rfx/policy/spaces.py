"""Shapes and bounds of the observations and actions of a Gymnasium environment, for policies that run no robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.robot.state import Array
from rfx.settings.reader import read


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """The observation and action spaces of a Gymnasium environment.

    Observations have one shape. Actions are numbers within bounds, or one of num_actions choices; the first choice has
    the number start. A policy reads flat observations and acts in [-1, 1]. These functions convert between the two.
    """

    observation_shape: tuple[int, ...]
    action_shape: tuple[int, ...] = ()  # of an action that is numbers within bounds
    action_dtype: str = "int64"
    action_low: tuple[float, ...] = ()  # flat
    action_high: tuple[float, ...] = ()
    num_actions: int = 0  # number of choices; 0 if actions are numbers
    start: int = 0

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Spaces:
        """Make the Spaces that dataclasses.asdict described. Raises ValueError for values that describe none."""
        return read(cls, values, "spaces")

    def flatten(self, observation: Array) -> Array:
        """Observations (N, *observation_shape) as rows (N, D), float32."""
        return np.asarray(observation, np.float32).reshape(len(observation), -1)

    def scale(self, action: Array) -> Array:
        """Convert a policy's actions to the actions that the environment takes.

        Numbers: (N, A), clipped to [-1, 1] -> (N, *action_shape) within bounds. Choices: (N,), counted from 0 -> (N,),
        counted from start. If actions are whole numbers, each number has an equal share of [-1, 1].
        """
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
        """Half of the distance between the bounds: how far an action of 1 is from an action of 0. (A,).

        Whole numbers add 1 to the distance, because the highest number has a share of its own.
        """
        return 0.5 * (np.array(self.action_high, float) - np.array(self.action_low, float) + self.whole)
