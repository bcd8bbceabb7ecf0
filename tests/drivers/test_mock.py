"""MockRobot: joints that obey their differential equation, environments that reset alone, and the Robot protocol."""

from __future__ import annotations

import numpy as np
import pytest

import rfx
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.mock import NATURAL_FREQUENCY_RAD_S, RESET_NOISE_RAD
from rfx.observation.arrays import library, to_numpy


def state_of(robot) -> np.ndarray:
    return to_numpy(robot.observe()["state"])


def test_it_is_a_robot():
    robot = rfx.MockRobot(num_envs=3)
    assert isinstance(robot, rfx.Robot)
    assert (robot.num_envs, robot.state_dim, robot.action_dim, robot.max_state_dim, robot.max_action_dim) == (
        3,
        12,
        6,
        64,
        64,
    )


def test_joints_follow_the_equation_of_a_critically_damped_spring():
    """Against the equation integrated in steps of a microsecond."""
    robot = rfx.MockRobot(state_dim=2, action_dim=1, tensors="numpy")
    (position, velocity), step_s = state_of(robot)[0, :2].astype(np.float64), 1e-6
    for target in (1.0, -0.5, 0.25):
        robot.act(np.array([[target]], np.float32))
        for _ in range(round(1.0 / robot.config.control_freq_hz / step_s)):
            acceleration = NATURAL_FREQUENCY_RAD_S**2 * (target - position) - 2.0 * NATURAL_FREQUENCY_RAD_S * velocity
            velocity += step_s * acceleration
            position += step_s * velocity
        np.testing.assert_allclose(state_of(robot)[0, :2], [position, velocity], rtol=1e-3, atol=1e-3)


def test_joints_settle_where_the_action_says():
    robot = rfx.MockRobot(num_envs=2, tensors="numpy")
    action = np.array([[0.5, -0.5, 0.1, 0.2, -1.0, 1.0], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]], np.float32)
    for _ in range(50):
        robot.act(action)
    state = state_of(robot)
    np.testing.assert_allclose(state[:, :6], action, atol=1e-5)
    np.testing.assert_allclose(state[:, 6:12], 0.0, atol=1e-4)
    assert not state[:, 12:].any()


@pytest.mark.parametrize("state_dim, filled", [(1, 1), (6, 6), (12, 12), (15, 15), (30, 18)])
def test_state_dim_is_honoured(state_dim, filled):
    robot = rfx.MockRobot(state_dim=state_dim, action_dim=6, tensors="numpy")
    robot.act(np.full((1, 6), 0.3, np.float32))
    state = state_of(robot)
    assert state.shape == (1, 64) and state[:, :filled].all() and not state[:, filled:].any()


def test_one_environment_resets_alone():
    robot = rfx.MockRobot(num_envs=3, tensors="numpy")
    for _ in range(20):
        robot.act(np.full((3, 64), 0.8, np.float32))
    before = state_of(robot)
    robot.reset([1])
    after = state_of(robot)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert np.abs(after[1, :6]).max() <= RESET_NOISE_RAD and not after[1, 6:12].any()
    with pytest.raises(ValueError, match="0 to 2"):
        robot.reset([3])


def test_equal_seeds_make_equal_robots():
    first, again, other = (state_of(rfx.MockRobot(tensors="numpy", seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("name", ["numpy", "tinygrad", "torch"])
def test_observations_come_in_the_library_asked_for_and_actions_in_any(name):
    pytest.importorskip(name)
    robot = rfx.MockRobot(tensors=name)
    obs = robot.observe()
    assert library(obs["state"]) == name and tuple(obs["state"].shape) == (1, 64)
    robot.act(obs["state"])
    robot.act(rfx.unpad_action(obs["state"], 6))


def test_an_observation_is_not_changed_by_the_next_step():
    robot = rfx.MockRobot(tensors="numpy")
    obs = robot.observe()["state"]
    before = obs.copy()
    robot.act(np.ones((1, 6), np.float32))
    robot.observe()
    np.testing.assert_array_equal(obs, before)


def test_with_a_config_it_is_observed_by_the_terms_of_the_config():
    robot = rfx.MockRobot(config=GO2_CONFIG, num_envs=2, tensors="numpy")
    robot.command(0.5, -0.1, 0.2)
    for _ in range(50):
        robot.act(np.full((2, 12), 0.2, np.float32))
    state = state_of(robot)
    assert state.shape == (2, 64)
    np.testing.assert_allclose(
        state[:, :12], 0.2 * GO2_CONFIG.joints[0].action_scale_rad, atol=1e-4
    )  # joint position minus default
    np.testing.assert_allclose(
        state[0, 27:33], [0.0, 0.0, -1.0, 0.5, -0.1, 0.2], atol=1e-6
    )  # projected gravity, command
    np.testing.assert_allclose(state[:, 33:45], 0.2, rtol=1e-6)  # last action


def test_a_wrong_action_is_refused_and_stops_it():
    robot = rfx.MockRobot(tensors="numpy")
    for action in (np.zeros((1, 5)), np.zeros((2, 6)), np.full((1, 6), np.nan)):
        robot.reset()
        with pytest.raises(ValueError, match="got an action"):
            robot.act(action)
        with pytest.raises(RuntimeError, match="reset"):
            robot.act(np.zeros((1, 6)))


@pytest.mark.parametrize("options", [{"num_envs": 0}, {"tensors": "jax"}, {"state_dim": 65}, {"action_dim": 0}])
def test_constructor_refuses(options):
    with pytest.raises(ValueError, match="got"):
        rfx.MockRobot(**options)
