"""What a privileged critic is given: the truth, with what each robot is, also of the state in which an episode
ended.
"""

import mujoco
import numpy as np
import pytest

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from rfx.drivers.go2.rules.config import GO2_CONFIG

TERMS = ("observation", "base_linear_velocity", "base_height", "floor_friction", "trunk_mass")


def make(num_envs=8, terms=TERMS, **overrides) -> LeggedEnv:
    env = LeggedEnv(
        num_envs,
        task="go2",
        config=EnvConfig.load("go2", **{"random_start_age": False, "randomize": False, **overrides}),
        critic_terms=terms,
    )
    env.reset(seed=0)
    return env


def step(env, action=None):
    """What the critic is given after a control step, (8, width), and the step's info."""
    observation, _, _, _, info = env.step(np.zeros((8, 12), np.float32) if action is None else action)
    assert observation in env.observation_space
    return observation.get("critic"), info


def test_the_critic_reads_the_true_state_with_perfect_sensors_and_with_noisy_ones():
    perfect, noisy = make(), make(randomize=True, randomization={}, pushes={}, noise={"joint_velocity": 2.0})
    for env in (perfect, noisy):
        action = np.random.default_rng(0).uniform(-1, 1, (8, 12)).astype(np.float32)
        observation, batch = env.step(action)[0], env.simulation.batch
        observed, told = observation["state"][:, :48], observation["critic"]
        assert told.shape == (8, 54) and told.dtype == np.float32
        np.testing.assert_allclose(
            told[:, 12:24], batch.qvel[:, 6:], rtol=1e-6
        )  # joint velocity: MJCF order is motor order here
        np.testing.assert_allclose(told[:, 51], batch.qpos[:, 2], rtol=1e-6)
        assert np.array_equal(told[:, :48], observed) == (env is perfect)
        for i in range(8):  # base velocity, turned into the base's frame by MuJoCo
            expected, inverse = np.zeros(3), np.zeros(4)
            mujoco.mju_negQuat(inverse, batch.qpos[i, 3:7].copy())
            mujoco.mju_rotVecQuat(expected, batch.qvel[i, :3].copy(), inverse)
            np.testing.assert_allclose(told[i, 48:51], expected, atol=1e-5)


def test_friction_and_mass_are_those_of_each_robot_and_change_with_its_episode():
    env = make(
        randomize=True,
        noise={},
        pushes={},
        episode_length_s=0.04,
        randomization={"floor_friction": {"coefficient": [0.2, 1.2]}, "payload": {"range_kg": [-1.0, 3.0]}},
    )
    model, seen = env.simulation.model, []
    told = env.reset(seed=0)[0]["critic"]
    for _ in range(4):
        friction = env.simulation.batch.expand("geom_friction")[:, model.geom("floor").id, 0]
        np.testing.assert_array_equal(told[:, 52], friction.astype(np.float32))
        np.testing.assert_array_equal(
            told[:, 53], env.simulation.batch.expand("body_mass")[:, model.body("base").id].astype(np.float32)
        )
        seen.append(told[:, 52:])
        told, _ = step(env)
    assert len(np.unique(seen[0][:, 0])) == 8 and (seen[0] == seen[1]).all() and (seen[1] != seen[2]).all()
    nominal, _ = step(make())
    assert (nominal[:, 52] == np.float32(0.8)).all() and nominal[:, 53] == pytest.approx(6.921)


def test_a_saved_state_tells_the_critic_the_same():
    values = {"randomize": True, "noise": {}, "pushes": {}}
    env, other = make(**values), make(**values)
    env.step(np.full((8, 12), 0.3, np.float32))
    other.reset(seed=5)
    other.load_state_dict(env.state_dict())
    np.testing.assert_array_equal(step(other)[0], step(env)[0])


def test_the_last_state_of_an_episode_is_told_beside_its_last_observation():
    """A robot whose episode ends after the same steps as in an environment where it does not end is in the same state
    there.
    """
    cut, whole = make(episode_length_s=0.1), make()
    for t in range(1, 6):
        action = np.full((8, 12), 0.1 * t, np.float32)
        (begun, info), (going_on, _) = step(cut, action), step(whole, action)
    np.testing.assert_array_equal(np.stack([last["critic"] for last in info["final_obs"]]), going_on)
    assert np.array_equal(info["final_obs"][3]["state"][:48], info["final_obs"][3]["critic"][:48])
    assert not np.array_equal(begun, going_on)


def test_without_terms_nothing_is_told_and_a_misspelt_one_is_named():
    env = make(episode_length_s=0.02, terms=())
    critic, info = step(env)
    assert critic is None and list(info["final_obs"][0]) == list(env.single_observation_space) == ["state"]
    with pytest.raises(ValueError, match="unknown term 'base_hight' among privileged: did you mean 'base_height'"):
        LeggedEnv(1, task="go2", robot=GO2_CONFIG, critic_terms=("base_hight",))
