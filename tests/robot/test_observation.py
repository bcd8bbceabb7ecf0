"""Observation dictionaries in NumPy, tinygrad and torch: padding, unpadding, stacking, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfx import ObservationBuffer, ObservationSpec, make_observation, unpad_action
from rfx.observation.arrays import from_numpy, library, to_numpy

LIBRARIES = ("numpy", "tinygrad", "torch")


@pytest.fixture(params=LIBRARIES)
def name(request):
    pytest.importorskip(request.param)
    return request.param


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_padding_then_unpadding_gives_the_state_back(data):
    name = data.draw(
        st.sampled_from([name for name in LIBRARIES if name != "tinygrad"])
    )  # a tinygrad kernel per shape would take long
    pytest.importorskip(name)
    max_state_dim = data.draw(st.integers(1, 80))
    state_dim = data.draw(st.integers(1, max_state_dim))
    state = np.random.default_rng(0).normal(size=(data.draw(st.integers(1, 5)), state_dim)).astype(np.float32)
    obs = make_observation(from_numpy(state, name), state_dim, max_state_dim)
    padded = to_numpy(obs["state"])
    assert library(obs["state"]) == name and padded.shape == (len(state), max_state_dim) and padded.dtype == np.float32
    np.testing.assert_array_equal(padded[:, :state_dim], state)
    assert not padded[:, state_dim:].any()
    np.testing.assert_array_equal(to_numpy(unpad_action(obs["state"], state_dim)), state)


def test_every_library_pads_and_unpads_and_stays_itself(name):
    state = from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3), name)
    obs = make_observation(state, 3, 5)
    assert library(obs["state"]) == name
    np.testing.assert_array_equal(to_numpy(obs["state"]), [[0, 1, 2, 0, 0], [3, 4, 5, 0, 0]])
    action = from_numpy(np.arange(16, dtype=np.float32).reshape(2, 2, 4), name)
    unpadded = unpad_action(action, 3)
    assert library(unpadded) == name
    np.testing.assert_array_equal(to_numpy(unpadded), np.arange(16).reshape(2, 2, 4)[..., :3])


def test_the_padded_state_has_memory_of_its_own():
    state = np.ones((1, 4), np.float32)
    obs = make_observation(state, 4, 4)
    state[:] = 2.0
    np.testing.assert_array_equal(obs["state"], 1.0)


def test_double_precision_becomes_single():
    assert make_observation(np.ones((1, 4)), 4, 8)["state"].dtype == np.float32


def test_stacking_is_oldest_first_and_copies(name):
    buffer = ObservationBuffer(capacity=3)
    frame = np.zeros((2, 4), np.float32)
    for number in range(5):
        frame[:] = number
        given_state = from_numpy(frame, name)
        buffer.push({"state": given_state, "language": from_numpy(np.full((2, 1), number), name)})
    assert len(buffer) == 3 == buffer.capacity
    stacked = buffer.get_stacked()
    assert library(stacked["state"]) == name and tuple(stacked["state"].shape) == (2, 3, 4)
    np.testing.assert_array_equal(to_numpy(stacked["state"])[0, :, 0], [2, 3, 4])
    np.testing.assert_array_equal(to_numpy(stacked["language"])[1, :, 0], [2, 3, 4])


def test_a_pushed_frame_does_not_follow_the_array_it_came_from():
    buffer, state = ObservationBuffer(capacity=2), np.ones((1, 2), np.float32)
    buffer.push({"state": state})
    state[:] = 5.0
    np.testing.assert_array_equal(buffer.get_stacked()["state"], [[[1.0, 1.0]]])


def test_buffer_refuses_what_does_not_stack():
    buffer = ObservationBuffer(capacity=2)
    with pytest.raises(IndexError, match="empty"):
        buffer.get_stacked()
    buffer.push({"state": np.zeros((1, 2))})
    for obs in ({"state": np.zeros((2, 2))}, {"state": np.zeros((1, 2)), "images": np.zeros((1, 1, 2, 2, 3))}):
        with pytest.raises(ValueError, match="clear the buffer"):
            buffer.push(obs)
    with pytest.raises(ValueError, match="'state'"):
        buffer.push({"images": np.zeros(1)})
    with pytest.raises(TypeError, match="numpy array"):
        ObservationBuffer(1).push({"state": [1.0]})
    buffer.clear()
    assert len(buffer) == 0
    for capacity in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="capacity"):
            ObservationBuffer(capacity)


STATE = np.zeros((2, 12), np.float32)


@pytest.mark.parametrize(
    "arguments, kind, message",
    [
        ({"state": np.zeros((2, 13), np.float32)}, ValueError, r"\(2, 13\)"),
        ({"state": np.zeros(12, np.float32)}, ValueError, r"\(batch, 12\)"),
        ({"state": np.zeros((2, 12), np.int64)}, TypeError, "int64"),
        ({"state": np.zeros((2, 12), bool)}, TypeError, "bool"),
        ({"state": [[0.0] * 12]}, TypeError, "list"),
        ({"max_state_dim": 11}, ValueError, "max_state_dim, 11"),
        ({"state_dim": 0}, ValueError, "state_dim 0"),
        ({"images": np.zeros((2, 480, 640, 3), np.uint8)}, ValueError, "height, width, 3"),
        ({"images": np.zeros((1, 1, 4, 4, 3), np.uint8)}, ValueError, "batch of 2"),
        ({"images": np.zeros((2, 1, 4, 4, 1), np.uint8)}, ValueError, "images"),
        ({"images": np.zeros((2, 1, 4, 4, 3), bool)}, TypeError, "images of bool"),
        ({"language": np.zeros((2, 7), np.float32)}, TypeError, "integers"),
        ({"language": np.zeros(7, np.int64)}, ValueError, "length"),
        ({"device": "cuda"}, ValueError, "numpy arrays"),
    ],
)
def test_make_observation_refuses(arguments, kind, message):
    with pytest.raises(kind, match=message):
        make_observation(**{"state": STATE, "state_dim": 12, "max_state_dim": 64, **arguments})


def test_libraries_do_not_mix():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="one array library"):
        make_observation(STATE, 12, 64, language=torch.zeros(2, 3, dtype=torch.long))


def test_a_missing_cuda_device_is_warned_of():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        assert make_observation(torch.zeros(2, 12), 12, 64, device="cuda")["state"].is_cuda
    else:
        with pytest.warns(UserWarning, match="cuda"):
            obs = make_observation(torch.zeros(2, 12), 12, 64, device="cuda")
        assert obs["state"].device.type == "cpu"


@pytest.mark.parametrize("shape, action_dim", [((1, 5), 6), ((6,), 6), ((1, 2, 3, 6), 6), ((1, 6), 0)])
def test_unpad_action_refuses(shape, action_dim):
    with pytest.raises(ValueError, match="expected"):
        unpad_action(np.zeros(shape), action_dim)


@pytest.mark.parametrize(
    "fields",
    [
        {"state_dim": 65},
        {"state_dim": 0},
        {"state_dim": 4.0},
        {"num_cameras": -1},
        {"language_dim": 0},
        {"image_shape": (480, 640)},
        {"image_shape": (480, 640, 4)},
    ],
)
def test_spec_refuses(fields):
    with pytest.raises(ValueError, match="expected"):
        ObservationSpec(**{"state_dim": 4, **fields})


def test_spec_defaults():
    spec = ObservationSpec(state_dim=12)
    assert (spec.max_state_dim, spec.has_images, spec.has_language) == (64, False, False)


def test_numpy_observations_import_no_other_library():
    code = (
        "import sys, numpy as np, rfx; "
        "b = rfx.ObservationBuffer(2); b.push(rfx.make_observation(np.zeros((1, 3)), 3, 8)); b.get_stacked(); "
        "rfx.ObservationNormalizer(3).normalize(b.get_stacked()['state'][:, 0]); rfx.MockRobot(tensors='numpy').observe(); "
        "print([m for m in ('torch', 'tinygrad', 'mujoco') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
