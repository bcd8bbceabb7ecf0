"""Bounds of confidence, against tables and against counting."""

import math
import statistics

import numpy as np
import pytest

from train.judge.bounds import percentile_upper, rate_upper, ratio_upper, share_lower, share_upper


@pytest.mark.parametrize(
    ("count", "upper"), [(0, 2.996), (1, 4.744), (2, 6.296), (5, 10.513), (10, 16.962), (50, 63.287)]
)
def test_a_rates_bound_is_half_the_chi_squared_percentile(count, upper):
    """0.5 chi2(0.95, 2 count + 2), as tables of the Poisson distribution have it."""
    assert rate_upper(count, 1.0) == pytest.approx(upper, abs=1.5e-3)
    assert rate_upper(count, 256.0) == pytest.approx(rate_upper(count, 1.0) / 256.0)


@pytest.mark.parametrize(
    ("count", "num", "upper"),
    [(0, 10, 1 - 0.05**0.1), (9, 10, 0.95**0.1), (10, 10, 1.0), (3, 20, 0.34366), (0, 256, 1 - 0.05 ** (1 / 256))],
)
def test_a_shares_bound_is_clopper_and_pearsons(count, num, upper):
    """Closed forms for none and for all but one; 3 of 20 from tables."""
    assert share_upper(count, num) == pytest.approx(upper, abs=1e-5)
    assert share_lower(num - count, num) == pytest.approx(1 - upper, abs=1e-5)


def test_many_counts_do_not_overflow():
    assert 0.5 < share_upper(2048, 4096) < 0.52 and 1000 < rate_upper(1000, 1.0) < 1060


def test_a_means_bound_is_student_free_and_counts_robots_not_samples():
    values = np.random.default_rng(0).exponential(size=200)
    by_hand = values.mean() + 1.645 * statistics.stdev(values) / math.sqrt(200)
    assert ratio_upper(values, np.ones(200)) == pytest.approx(by_hand, rel=1e-3)
    np.testing.assert_allclose(
        ratio_upper(100 * values, np.full(200, 100)), ratio_upper(values, np.ones(200))
    )  # samples of one robot are not new ones
    unseen = np.concatenate((values, [0.0] * 50)), np.concatenate((np.ones(200), np.zeros(50)))
    assert ratio_upper(*unseen) == pytest.approx(by_hand, rel=1e-3)
    assert np.isnan(ratio_upper(values[:1], np.ones(1)))


def test_a_percentiles_bound_holds_19_times_of_20():
    rng = np.random.default_rng(1)
    bounds = [percentile_upper(rng.random(256), 0.95) for _ in range(400)]
    held = np.mean(np.array(bounds) >= 0.95)
    assert 0.93 <= held <= 0.995  # at least 0.95; 400 tries tell it to 0.011
    assert percentile_upper(np.arange(58.0), 0.95) == math.inf and percentile_upper(np.arange(59.0), 0.95) == 58.0
