"""What grows over a run: from nothing at the first of two numbers of environment steps, summed over environments, to
all of it at the last.
"""

from __future__ import annotations

from collections.abc import Sequence

Ramp = tuple[float, float]


def ramped(ramp: Ramp | None, steps: int) -> float:
    """The share that is there after so many steps, linear between the ramp's two; without a ramp, 1."""
    if ramp is None:
        return 1.0
    first, last = ramp
    return min(max((steps - first) / (last - first), 0.0), 1.0)


def check_ramp(key: str, ramp: Sequence[float] | None) -> None:
    """Raises ValueError for anything but [first, last], naming the key."""
    if ramp is not None and not (len(ramp) == 2 and 0 <= ramp[0] < ramp[1]):
        raise ValueError(
            f"{key} is {list(ramp)}: it must be [first, last] of the environment steps between which it grows from nothing"
        )
