"""What the policy is told and what is true: tilted IMUs, offset encoders, noise; rewards and terminations see the
truth.
"""

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from envs.legged.sensing import MEASURED, Sensing, rotation_matrices
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.random.streams import Streams
from rfx.robot.state import RobotState, projected_gravity

WIDTHS = {"joint_position": 0.03, "joint_velocity": 2.0, "base_angular_velocity": 0.4, "projected_gravity": 0.1}


def make(num_envs=4, **overrides) -> LeggedEnv:
    return LeggedEnv(
        num_envs,
        task="go2",
        config=EnvConfig.load(
            "go2",
            **{
                "randomize": True,
                "randomization": {},
                "noise": {},
                "pushes": {},
                "random_start_age": False,
                **overrides,
            },
        ),
    )


def true_state(num_envs: int) -> RobotState:
    state, rng = RobotState.zeros(GO2_CONFIG, num_envs), np.random.default_rng(0)
    for name in MEASURED.values():
        getattr(state, name)[...] = rng.normal(size=getattr(state, name).shape)
    return state


@given(arrays(np.float64, (3, 3), elements=st.floats(-3.0, 3.0)))
def test_rotations_match_mujocos(vectors):
    for vector, matrix in zip(vectors, rotation_matrices(vectors)):
        angle, quaternion, expected = np.linalg.norm(vector), np.zeros(4), np.zeros(9)
        mujoco.mju_axisAngle2Quat(quaternion, vector / angle if angle > 1e-9 else np.array([1.0, 0, 0]), angle)
        mujoco.mju_quat2Mat(expected, quaternion)
        np.testing.assert_allclose(matrix, expected.reshape(3, 3), atol=1e-8)


def test_a_tilted_imu_on_a_level_robot_says_what_a_true_one_says_on_a_tilted_robot():
    state = RobotState.zeros(GO2_CONFIG, 3)
    state.base_angular_velocity_b[:] = [0.0, 0.0, 1.0]
    sensing = Sensing(state, np.zeros((3, 12), np.float32), {}, perfect=False)
    sensing.tilt_imu(np.array([1, 2]), np.array([[0.1, 0, 0], [0, -0.2, 0]]))
    sensing.measure(slice(None), Streams(len(state.gait_phase), 0))
    expected = [[0, 0, -1], [0, -np.sin(0.1), -np.cos(0.1)], [-np.sin(0.2), 0, -np.cos(0.2)]]
    np.testing.assert_allclose(sensing.state.projected_gravity_b, expected, atol=1e-6)
    rolled = np.array([[np.cos(0.05), np.sin(0.05), 0, 0]])
    np.testing.assert_allclose(sensing.state.projected_gravity_b[1:2], projected_gravity(rolled), atol=1e-6)
    np.testing.assert_allclose(sensing.state.base_angular_velocity_b[1], [0, np.sin(0.1), np.cos(0.1)], atol=1e-6)
    assert not state.base_angular_velocity_b[:, :2].any()  # the truth is as it was


def test_perfect_sensors_are_the_truth_itself_and_draw_nothing():
    state, rng = true_state(3), Streams(3, 0)
    before = rng.state_dict()["count"]
    sensing = Sensing(state, np.zeros((3, 12), np.float32), {}, perfect=True)
    sensing.measure(slice(None), rng)
    assert sensing.state is state and (rng.state_dict()["count"] == before).all()


def test_noise_is_uniform_of_the_width_given_and_new_at_every_measurement():
    state, rng = true_state(4000), Streams(4000, 1)
    offset = np.full((4000, 12), 0.02, np.float32)
    sensing = Sensing(state, offset, WIDTHS, perfect=False)
    errors = []
    for _ in range(2):
        sensing.measure(slice(None), rng)
        errors.append({name: getattr(sensing.state, field) - getattr(state, field) for name, field in MEASURED.items()})
    for name, width in WIDTHS.items():
        error = errors[0][name] - (0.02 if name == "joint_position" else 0.0)
        assert abs(error).max() <= width * 1.0001 and abs(error).max() > 0.99 * width
        np.testing.assert_allclose(error.std(axis=0), width / 3**0.5, rtol=0.05)
        assert abs(error.mean()) < 0.02 * width
        assert abs(np.corrcoef(errors[0][name].ravel(), errors[1][name].ravel())[0, 1]) < 0.05


def test_a_measurement_of_some_rows_leaves_the_others():
    state = true_state(6)
    sensing = Sensing(state, np.zeros((6, 12), np.float32), WIDTHS, perfect=False)
    sensing.measure(slice(None), Streams(len(state.gait_phase), 0))
    before = {name: getattr(sensing.state, name).copy() for name in MEASURED.values()}
    sensing.measure(np.array([1, 4]), Streams(len(state.gait_phase), 5))
    for name, values in before.items():
        changed = (getattr(sensing.state, name) != values).any(axis=1)
        assert changed.tolist() == [False, True, False, False, True, False], name


def test_commands_actions_and_the_clock_are_known_exactly():
    env = make(8, noise=WIDTHS)
    env.reset(seed=0)
    observation, *_ = env.step(np.full((8, 12), 0.3, np.float32))
    exact = np.concatenate((env.state.robot.velocity_command, env.state.robot.last_action), axis=1)
    np.testing.assert_array_equal(observation["state"][:, 30:45], exact)
    np.testing.assert_allclose(observation["state"][:, 46], np.cos(2 * np.pi * 2.5 * 0.02), atol=1e-6)


def test_observations_are_what_was_sensed_and_rewards_what_is_true():
    """The same play with and without noise: other observations, the same rewards, terminations and states."""
    runs = []
    for noise in ({}, WIDTHS):
        env, rng = make(16, noise=noise, resets={}, command_interval_s=(50.0, 60.0)), np.random.default_rng(2)
        env.reset(seed=4)
        rewards, observed = [], []
        for _ in range(15):
            observation, reward, terminated, _, _ = env.step(rng.uniform(-0.3, 0.3, (16, 12)).astype(np.float32))
            assert not terminated.any()
            rewards.append(reward)
            observed.append(observation["state"])
        runs.append(
            (
                np.array(rewards),
                np.array(observed),
                env.state.robot.joint_position.copy(),
                env.simulation.batch.state.copy(),
            )
        )
    (reward, plain, position, physics), (noisy_reward, noisy, noisy_position, noisy_physics) = runs
    np.testing.assert_array_equal(reward, noisy_reward)
    np.testing.assert_array_equal(position, noisy_position)
    np.testing.assert_array_equal(physics, noisy_physics)
    assert (plain[:, :, :30] != noisy[:, :, :30]).mean() > 0.99
    assert abs(plain[:, :, :12] - noisy[:, :, :12]).max() <= 0.03 * 1.0001
    np.testing.assert_array_equal(plain[:, :, 30:], noisy[:, :, 30:])


def test_the_first_observation_of_an_episode_is_sensed_too():
    env = make(4, randomization={"encoder_offset": {"range_rad": [0.04, 0.04]}}, resets={}, episode_length_s=0.04)
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(observation["state"][:, :12], 0.04, atol=1e-6)  # it stands in the default pose
    env.step(np.zeros((4, 12), np.float32))
    observation, _, _, truncated, info = env.step(np.zeros((4, 12), np.float32))
    assert truncated.all()
    np.testing.assert_allclose(observation["state"][:, :12], 0.04, atol=1e-6)
    assert np.isfinite(np.stack([last["state"] for last in info["final_obs"]])).all()


@pytest.mark.parametrize("name", ["last_action", "gait_clock"])
def test_noise_on_what_no_sensor_measures_is_refused(name):
    with pytest.raises(ValueError, match=name):
        make(2, noise={name: 0.1})
