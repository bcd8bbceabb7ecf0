"""A reward term as a task's configuration has it: with its parameters, its weight per second, and how that grows over a
run.
"""

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
    """term gives (N,) of a SimState; weight is per second, from the last of ramp's environment steps on, 0 until the
    first, linear between.
    """

    term: Callable[[SimState], Array]
    weight: float
    ramp: tuple[float, float] | None = None

    @classmethod
    def read(cls, name: str, parameters: Mapping[str, Any]) -> WeightedReward:
        """The entry called name. Raises ValueError for a wrong name, parameter, weight or ramp."""
        own = {key: value for key, value in parameters.items() if key not in ("weight", "ramp")}
        weight, ramp = parameters.get("weight"), parameters.get("ramp")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise ValueError(f"reward {name!r} needs a number as its weight, got {weight!r}")
        check_ramp(f"env.rewards.{name}.ramp", ramp)
        return cls(bind(rewards, name, own), float(weight), ramp and tuple(ramp))

    def weight_after(self, steps: int) -> float:
        """The weight once all environments of a run have made so many steps, summed over them."""
        return self.weight * ramped(self.ramp, steps)
