"""A reward term with its parameters, its weight per second, and the ramp of its weight over a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from envs.legged import rewards
from envs.legged.ramp import check_ramp, ramped
from envs.legged.state import SimState
from rfx.robot.state import Array
from rfx.settings.terms import bind


@dataclass(frozen=True)
class WeightedReward:
    """A reward term and its weight; term turns a SimState into (N,), float32.

    weight is per second. With a ramp [first, last], in environment steps, the weight is 0 until first, grows linearly,
    and is complete from last on.
    """

    term: Callable[[SimState], Array]
    weight: float
    ramp: tuple[float, float] | None = None

    @classmethod
    def read(cls, name: str, parameters: Mapping[str, Any]) -> WeightedReward:
        """Make the reward from its entry in the YAML. Raises ValueError for a wrong name, parameter, weight or ramp."""
        own = {key: value for key, value in parameters.items() if key not in ("weight", "ramp")}
        weight, ramp = parameters.get("weight"), parameters.get("ramp")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f"reward {name!r} needs a number as its weight, got {weight!r}")
        check_ramp(f"env.rewards.{name}.ramp", ramp)
        return cls(bind(rewards, name, own), float(weight), ramp and tuple(ramp))

    def weight_after(self, steps: int) -> float:
        """The weight after this many environment steps of a run, summed over all its environments."""
        return self.weight * ramped(self.ramp, steps)
