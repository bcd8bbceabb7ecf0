"""The observation normalizer: its statistics against NumPy's, what it leaves alone, and its JSON form."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rfx.observation.arrays import from_numpy, library, to_numpy
from rfx.policy.normalizer import ObservationNormalizer

LIBRARIES = ("numpy", "tinygrad", "torch")
values = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=values),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_batches_add_up_to_the_statistics_of_all_rows(rows, cuts):
    normalizer = ObservationNormalizer(3)
    for batch in np.split(rows, sorted(min(cut, len(rows)) for cut in cuts)):  # some are empty, some of one row
        normalizer.update(batch)
    assert normalizer.count == len(rows)
    np.testing.assert_allclose(normalizer.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(normalizer.var, rows.astype(np.float64).var(axis=0), rtol=1e-7, atol=1e-9)


def test_offset_a_million_times_the_spread_does_not_hurt():
    rng = np.random.default_rng(0)
    rows = 1e6 + rng.normal(size=(20_000, 2))
    normalizer = ObservationNormalizer(2)
    for batch in np.split(rows, 20):
        normalizer.update(batch)
    np.testing.assert_allclose(normalizer.var, rows.var(axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", LIBRARIES)
def test_normalizes_the_state_and_keeps_the_padding_in_every_library(name):
    pytest.importorskip(name)
    normalizer = ObservationNormalizer(2, clip=3.0)
    normalizer.update(np.array([[0.0, 10.0], [4.0, 10.5]]))  # mean 2 and 10.25, variance 4 and 0.0625
    state = np.array([[4.0, 10.0, 7.0], [2.0, 1000.0, -7.0]], np.float32)
    given_state = from_numpy(state, name)
    result = normalizer.normalize(given_state)
    assert library(result) == name
    np.testing.assert_allclose(to_numpy(result), [[1.0, -1.0, 7.0], [0.0, 3.0, -7.0]], rtol=1e-6)
    np.testing.assert_array_equal(to_numpy(given_state), state)


@pytest.mark.parametrize("name", LIBRARIES)
def test_dictionaries_images_to_unit_range_language_untouched(name):
    pytest.importorskip(name)
    images, language = np.full((1, 1, 2, 2, 3), 51, np.uint8), np.array([[5, 6]])
    obs = {
        "state": from_numpy(np.ones((1, 4), np.float32), name),
        "images": from_numpy(images, name),
        "language": from_numpy(language, name),
    }
    result = ObservationNormalizer(4).normalize(obs)
    np.testing.assert_allclose(to_numpy(result["images"]), 0.2, rtol=1e-6)
    assert result["language"] is obs["language"] and library(result["images"]) == name
    np.testing.assert_array_equal(to_numpy(obs["images"]), images)


def test_unit_range_images_pass_and_others_are_refused():
    normalizer = ObservationNormalizer(1)
    obs = {"state": np.ones((1, 1), np.float32), "images": np.full((1, 1, 2, 2, 3), 0.5, np.float32)}
    np.testing.assert_array_equal(normalizer.normalize(obs)["images"], 0.5)
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        normalizer.normalize({**obs, "images": obs["images"] * 100.0})


def test_out_is_written_in_place_and_may_be_the_observation():
    normalizer = ObservationNormalizer(2)
    normalizer.update(np.array([[0.0, 0.0], [2.0, 4.0]]))
    state = np.array([[2.0, 4.0, 9.0]], np.float32)
    expected = normalizer.normalize(state)
    out = np.full_like(state, np.nan)
    assert normalizer.normalize(state, out=out) is out
    np.testing.assert_array_equal(out, expected)
    normalizer.normalize(state, out=state)
    np.testing.assert_array_equal(state, expected)


def ordinary_rows(num_rows=6144):
    """Columns as a robot has them: three Gaussians of other spreads, a contact in one row of a thousand, a command that
    is mostly zero.
    """
    rng = np.random.default_rng(0)
    rows = rng.normal((0.0, -1.0, 40.0), (0.05, 1.0, 300.0), (num_rows, 3))
    return np.column_stack(
        (rows, rng.random(num_rows) < 1e-3, rng.uniform(-1.0, 1.0, num_rows) * (rng.random(num_rows) < 0.3))
    )


@pytest.mark.parametrize("when", ["in the first batch", "in a later batch", "as a batch of its own"])
@pytest.mark.parametrize("extreme", [1e8, -1e30])
def test_one_extreme_row_does_not_drown_a_column(when, extreme):
    """Without the guard, 1e8 in one of 12,288 rows leaves standard deviations of 9e5, and every ordinary value within
    1e-3 of zero.
    """
    rows, normalizer = ordinary_rows(), ObservationNormalizer(5)
    spoilt = rows.copy()
    spoilt[1000] = extreme
    batches = {
        "in the first batch": [spoilt, rows],
        "in a later batch": [rows, spoilt],
        "as a batch of its own": [rows, spoilt[1000:1001]],
    }
    for batch in batches[when]:
        normalizer.update(batch)
    std = rows.std(axis=0)
    assert (np.sqrt(normalizer.var) < 3.0 * np.maximum(std, 0.01)).all() and (
        np.abs(normalizer.mean - rows.mean(axis=0)) < 0.1 * std
    ).all()
    assert (normalizer.normalize(rows.astype(np.float32)).std(axis=0) > 0.3).all()


def test_ordinary_rows_count_as_they_are_to_the_bit(monkeypatch):
    guarded, plain = ObservationNormalizer(5), ObservationNormalizer(5)
    for batch in np.split(ordinary_rows(), 3):
        guarded.update(batch)
        with monkeypatch.context() as patched:
            patched.setattr("rfx.policy.normalizer.EXTREME", 1e300)
            plain.update(batch)
    assert guarded.to_dict() == plain.to_dict()


@pytest.mark.parametrize("constant", [0.0, 0.3, 1e6])
def test_a_column_that_was_constant_is_centred_and_not_scaled(constant):
    normalizer = ObservationNormalizer(1)
    for _ in range(3):
        normalizer.update(np.full((500, 1), constant, np.float32))
    later = np.float32(constant) + np.array([[0.0], [0.125], [-2.0], [5.0], [1e6]], np.float32)
    np.testing.assert_allclose(normalizer.normalize(later), [[0.0], [0.125], [-2.0], [5.0], [10.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 5e-5), (0.0, 1e-9), (1.0, 3e-5), (-0.01, 1e-6), (0.0, 1e-4), (1e3, 0.05)]
)
def test_small_observations_are_scaled_as_others_are(mean, std):
    """To a standard deviation of 1 where theirs is far above the root of eps, 1e-4, and of the root of 1/2 far
    below.
    """
    rng, normalizer = np.random.default_rng(0), ObservationNormalizer(1)
    rows = mean + std * rng.choice([-1.0, 1.0], (4000, 1))
    for batch in np.split(rows, 4):
        normalizer.update(batch)
    scaled = normalizer.normalize(rows.astype(np.float32))
    share = np.sqrt(1.0 / (1.0 + min(1.0, 1e-8 / std**2)))
    np.testing.assert_allclose(np.abs(scaled), share, rtol=0.02)
    assert 0.7 < share <= 1.0


def test_rounding_is_not_taken_for_an_observation():
    """A number near 1 that is now and then one float32 step away, and one near 0 that a solver leaves at 1e-15."""
    rng, normalizer = np.random.default_rng(0), ObservationNormalizer(2)
    flickering = np.where(rng.random(4000) < 0.5, 1.0, np.nextafter(np.float32(1), np.float32(0)))
    rows = np.column_stack((flickering, 1e-15 * rng.normal(size=4000)))
    normalizer.update(rows)
    np.testing.assert_allclose(normalizer.normalize(rows.astype(np.float32)), 0.0, atol=1e-6)


def test_an_extreme_row_does_not_drown_a_small_column():
    """Of 10,000 rows of a standard deviation of 1e-4 one is 1. As it is it would leave one of 1e-2.

    As 100 times what one row in a hundred exceeds, 2.6e-4, it leaves 2.8e-4.
    """
    rng, normalizer = np.random.default_rng(0), ObservationNormalizer(1)
    rows = rng.normal(0.0, 1e-4, (10_000, 1))
    rows[17] = 1.0
    for batch in np.split(rows, 5):
        normalizer.update(batch)
    assert 0.9e-4 < np.sqrt(normalizer.var[0]) < 3e-4


def test_the_statistics_of_an_earlier_rfx_act_as_they_did():
    """Which told no resolution, and took what varies by less than the root of eps for constant."""
    data = {
        "state_dim": 3,
        "clip": 10.0,
        "eps": 1e-8,
        "mean": [0.0, 0.0, 2.0],
        "var": [9e-9, 4.0, 1.1e-8],
        "count": 500,
    }
    normalizer = ObservationNormalizer.from_dict(data)
    expected = np.array([[3e-5, 0.5 / np.sqrt(4.0 + 1e-8), 3e-5 / np.sqrt(2.1e-8)]])
    np.testing.assert_allclose(
        normalizer.normalize(np.array([[3e-5, 0.5, 2.0 + 3e-5]], np.float32)), expected, rtol=1e-2
    )
    np.testing.assert_allclose(
        normalizer.mean_and_scale[1], [1.0, 1.0 / np.sqrt(4.0 + 1e-8), 1.0 / np.sqrt(2.1e-8)], rtol=1e-6
    )
    assert normalizer.to_dict() == data


def test_a_column_that_comes_alive_is_followed():
    """Zero for a hundred batches, then of a standard deviation of 50: 5,000 times what a constant column may differ
    by.
    """
    rng, normalizer = np.random.default_rng(0), ObservationNormalizer(1)
    for _ in range(100):
        normalizer.update(np.zeros((1000, 1)))
    alive = [rng.normal(0.0, 50.0, (1000, 1)) for _ in range(100)]
    for batch in alive:
        normalizer.update(batch)
    expected = 50.0 / np.sqrt(2.0)  # of all rows, half of them zero
    assert np.sqrt(normalizer.var[0]) == pytest.approx(expected, rel=0.05)


def test_before_the_first_update_it_only_clips():
    np.testing.assert_allclose(
        ObservationNormalizer(2, clip=5.0).normalize(np.array([[0.25, 100.0]], np.float32)), [[0.25, 5.0]]
    )


def test_json_form_gives_the_same_normalizer_and_is_not_changed():
    normalizer = ObservationNormalizer(3, clip=4.0, eps=1e-5)
    normalizer.update(np.random.default_rng(1).normal(size=(10, 3)))
    data = json.loads(json.dumps(normalizer.to_dict()))
    before = copy.deepcopy(data)
    again = ObservationNormalizer.from_dict(data)
    assert data == before and set(data) == {"state_dim", "clip", "eps", "resolution", "mean", "var", "count"}
    again.update(np.ones((2, 3)))
    normalizer.update(np.ones((2, 3)))
    assert again.to_dict() == normalizer.to_dict()
    assert data == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mean": [0.0]}, "1 entries of mean"),
        ({"var": [1.0, -1.0]}, "variance of -1"),
        ({"mean": [0.0, float("nan")]}, "finite"),
        ({"count": -1}, "count"),
        ({"count": 1.5}, "count"),
        ({"clip": 0.0}, "clip"),
        ({"eps": "x"}, "eps"),
        ({"resolution": 0.0}, "resolution"),
        ({"resolution": "x"}, "resolution"),
        ({"resolution": float("nan")}, "resolution"),
        ({"state_dim": 3}, "expected state_dim"),
        ({"state_dim": True}, "state_dim"),
        ({"men": [0.0, 0.0]}, "did you mean 'mean'"),
        ({"mean": "ab"}, "list of finite numbers"),
    ],
)
def test_a_wrong_entry_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        ObservationNormalizer.from_dict({**ObservationNormalizer(2).to_dict(), **change})


@pytest.mark.parametrize(
    "rows", [np.full((4, 2), np.nan), np.array([[0.0, np.inf]]), np.array([[1e300, 0.0], [-1e300, 0.0]])]
)
def test_rows_that_are_not_finite_are_refused_and_leave_no_trace(rows):
    normalizer = ObservationNormalizer(2)
    normalizer.update(np.ones((3, 2)))
    before = normalizer.to_dict()
    with pytest.raises(ValueError, match="finite"):
        normalizer.update(rows)
    assert normalizer.to_dict() == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nor_are_they_taken_for_extreme_ones(bad):
    normalizer = ObservationNormalizer(2)
    normalizer.update(np.random.default_rng(0).normal(size=(1000, 2)))
    before = normalizer.to_dict()
    with pytest.raises(ValueError, match=r"columns \[1\] that are not finite"):
        normalizer.update(np.array([[0.0, bad]]))
    assert normalizer.to_dict() == before


@pytest.mark.parametrize(
    "obs", [np.zeros(3, np.float32), np.zeros((2, 2), np.float32), np.zeros((1, 2, 3), np.float32), {"images": 1}]
)
def test_another_shape_is_refused(obs):
    normalizer = ObservationNormalizer(3)
    for call in (normalizer.update, normalizer.normalize):
        with pytest.raises(ValueError, match="expected"):
            call(obs)


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match="expected a numpy array"):
        ObservationNormalizer(3).normalize([[1.0, 2.0, 3.0]])
