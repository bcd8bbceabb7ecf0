"""Points of a sweep: a point is a set of runs that differ only in the seed.

Each result of a point is given as a mean and an interval over its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from train.task.errors import InputError

APART = ("seed", "seeds")  # keys that do not distinguish points
CONFIDENCE = 0.95

Row = TypeVar("Row", bound=Mapping[str, Any])


def every_seed(arguments: Sequence[str], seed: Any, seeds: Any) -> list[str]:
    """A sweep's arguments, changed so that each point runs with seed, seed + 1, ...; unchanged for seeds=1.

    There are seeds runs per point. Raises InputError if seeds is not a number of runs, or if the arguments already give
    several seeds.
    """
    if seeds == 1:
        return list(arguments)
    others = [argument for argument in arguments if argument.partition("=")[0].lstrip("+") != "seed"]
    for given in set(arguments) - set(others):
        if not given.partition("=")[2].strip().isdecimal():
            raise InputError(
                f"seeds={seeds} gives every point the seeds from seed on, and {given} several: leave one of them out"
            )
    return [*others, f"seed={','.join(map(str, seeds_of(seed, seeds)))}"]


def seeds_of(seed: Any, seeds: Any) -> range:
    """The seeds that a point runs with. Raises InputError for an invalid seed or number of runs."""
    if type(seeds) is not int or seeds < 1:
        raise InputError(
            f"seeds is {seeds!r}: it must be how often each point of a sweep runs, a whole number of at least 1"
        )
    if type(seed) is not int or seed < 0:
        raise InputError(f"seed is {seed!r}: it must be a whole number of at least 0")
    return range(seed, seed + seeds)


def points(rows: Sequence[Row], keys: Sequence[str]) -> list[list[Row]]:
    """The rows of each point, in the order of their first rows; in a point all keys but the seed are equal."""
    found: dict[Hashable, list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(str(row[key]) for key in keys if key not in APART), []).append(row)
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean of num values, and its 95% interval from low to high; NaN if there are too few values."""

    num: int
    mean: float
    low: float
    high: float


def spread(values: Sequence[float | None]) -> Spread:
    """Mean of the values that are numbers, and the 95% interval of that mean for normally distributed values.

    Student, The probable error of a mean, Biometrika 1908: mean +- t s / sqrt(n), with the sample's standard deviation
    s.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    num = len(known)
    mean = math.fsum(known) / num if known else math.nan
    half = math.nan
    if num > 1:
        half = t_quantile(num - 1) * math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (num - 1) / num)
    return Spread(num=num, mean=mean, low=mean - half, high=mean + half)


def t_quantile(degrees: int) -> float:
    """The t for which P(|T| <= t) is 95%, where T has Student's distribution with that many degrees of freedom."""
    low, high = 0.0, math.pi / 2.0  # of the angle whose tangent is t / sqrt(degrees)
    while (middle := (low + high) / 2.0) not in (low, high):
        low, high = (middle, high) if t_probability(middle, degrees) < CONFIDENCE else (low, middle)
    return math.sqrt(degrees) * math.tan(middle)


def t_probability(angle: float, degrees: int) -> float:
    """The probability that |t| < sqrt(degrees) tan(angle).

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    odd, cosine = degrees % 2, math.cos(angle)
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(1 + odd, degrees, 2):
        total += term
        term *= cosine**2 * power / (power + 1)
    if odd:
        return 2.0 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
