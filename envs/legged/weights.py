"""What a reward term counts for: its weight, and over which steps of a run that grows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from envs.legged import rewards
from rfx.terms import bind


class WeightedTerm(NamedTuple):
    """A reward term with its parameters fixed, its weight per second, and the first and last step between which that grows from 0."""

    term: Callable[..., Any]
    weight: float
    ramp: Sequence[float] | None = None  # environment steps, of all environments; None: it has its whole weight from the beginning

    def share_at(self, steps: int) -> float:
        """The share of its weight that it has after so many steps."""
        if self.ramp is None:
            return 1.0
        first, last = self.ramp
        return min(max((steps - first) / (last - first), 0.0), 1.0)


def bind_reward(name: str, parameters: Mapping[str, Any]) -> WeightedTerm:
    """The term that an entry of env.rewards names. Raises ValueError for a wrong name, parameter, weight or ramp."""
    parameters = dict(parameters)
    weight, ramp = parameters.pop("weight", None), parameters.pop("ramp", None)
    if ramp is not None and (len(ramp) != 2 or not 0 <= ramp[0] < ramp[1]):
        raise ValueError(f"env.rewards.{name}.ramp is {list(ramp)}: it must be [first, last] of the steps between which the weight grows from 0")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise ValueError(f"reward {name!r} needs a number as its weight, got {weight!r}")
    return WeightedTerm(bind(rewards, name, parameters), float(weight), ramp)
