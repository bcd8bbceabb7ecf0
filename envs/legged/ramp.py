"""Settings that grow over a run.

A ramp is [first, last] in environment steps, summed over environments: the setting is 0 until first and complete from
last on.
"""

from __future__ import annotations

from collections.abc import Sequence

Ramp = tuple[float, float]


def ramped(ramp: Ramp | None, steps: int) -> float:
    """The share, from 0 to 1, that a setting has reached after steps; linear within the ramp, and 1 without a ramp."""
    if ramp is None:
        return 1.0
    first, last = ramp
    return min(max((steps - first) / (last - first), 0.0), 1.0)


def check_ramp(key: str, ramp: Sequence[float] | None) -> None:
    """Check that ramp is [first, last]. Raises ValueError that names the key."""
    if ramp is not None and not (len(ramp) == 2 and 0 <= ramp[0] < ramp[1]):
        raise ValueError(
            f"{key} is {list(ramp)}: it must be [first, last] of the environment steps between which it grows from nothing"
        )
