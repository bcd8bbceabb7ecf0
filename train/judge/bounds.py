"""One-sided 95% confidence bounds of measured figures.

Bounds of counts are exact. Bounds of means use the standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from rfx.robot.state import Array

CONFIDENCE = 0.95
NORMAL_95 = 1.6448536269514722  # 95th percentile of the standard normal distribution


def rate_upper(count: int, exposure: float) -> float:
    """Upper bound of a rate, when count events were seen in exposure.

    For no event it is 3.0 / exposure, the rule of three. Garwood (1936): the bound is the rate at which the chance of
    so few events is 5%. Events are assumed to be independent, also those of the same robot.
    """
    logs = [math.lgamma(k + 1) for k in range(count + 1)]
    # Chance of at most count events, Poisson distribution.
    chance = lambda mean: sum(math.exp(k * math.log(mean) - mean - log) for k, log in enumerate(logs))  # noqa: E731
    return _where_it_falls_to(chance, 1e-9, 2.0 * count + 10.0) / exposure


def share_upper(count: int, num: int) -> float:
    """Upper bound of a share, when count of num were seen: Clopper and Pearson (1934). 1 if num is 0."""
    if count >= num:
        return 1.0
    logs = [math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1) for k in range(count + 1)]

    def chance(share: float) -> float:  # binomial distribution, at most count
        return sum(math.exp(log + k * math.log(share) + (num - k) * math.log1p(-share)) for k, log in enumerate(logs))

    return _where_it_falls_to(chance, 1e-12, 1.0 - 1e-12)


def share_lower(count: int, num: int) -> float:
    """Lower bound of a share, when count of num were seen: Clopper and Pearson (1934). 0 if num is 0."""
    return 1.0 - share_upper(num - count, num)


def ratio_upper(totals: Array, counts: Array) -> Array:
    """Upper bound of a mean over samples in groups, such as robots.

    totals (N, ...) is the sum over each group's samples, counts (N,) the number of its samples. The bound is the mean
    plus 1.64 standard errors of a ratio estimate (Cochran, Sampling Techniques, 1977, section 6.4): groups are
    independent, samples within a group are not. NaN for fewer than two groups that have samples.
    """
    seen = counts > 0
    totals, counts = totals[seen], counts[seen].reshape(-1, *[1] * (totals.ndim - 1))
    num = len(counts)
    if num < 2:
        return np.full(totals.shape[1:], math.nan)
    mean = totals.sum(axis=0) / counts.sum()
    return mean + NORMAL_95 * np.sqrt(num / (num - 1) * np.square(totals - mean * counts).sum(axis=0)) / counts.sum()


def percentile_upper(values: Array, share: float) -> float:
    """Upper bound of a percentile: the given share of all values lies below the bound, with 95% confidence.

    The bound is the smallest of values (N,) for which this holds. Order statistics: Conover, Practical Nonparametric
    Statistics (1999), section 3.2. Infinite if N is too small: a share of 0.95 needs more than 58 values.
    """
    num = len(values)
    below = 0.0  # chance that at most rank values lie below the percentile
    for rank in range(num):
        below += math.exp(
            math.lgamma(num + 1)
            - math.lgamma(rank + 1)
            - math.lgamma(num - rank + 1)
            + rank * math.log(share)
            + (num - rank) * math.log1p(-share)
        )
        if below >= CONFIDENCE:
            return float(np.sort(values)[rank])
    return math.inf


def _where_it_falls_to(chance: Callable[[float], float], low: float, high: float) -> float:
    """The point between low and high at which a falling function reaches 5%, found by bisection."""
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if chance(middle) > 1.0 - CONFIDENCE else (low, middle)
    return high
