"""Gymnasium's contract for vector environments: its checks, its wrappers, its layout of info, its reset mask, and what
training is told.
"""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector

import envs  # noqa: F401  (registers)
from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv, velocity_error
from rfx.robot.state import FAILED

TERMS = ("base_height", "foot_contact")


def make(num_envs=4, critic_terms=TERMS, **overrides) -> LeggedEnv:
    return LeggedEnv(
        num_envs,
        task="go2",
        config=EnvConfig.load("go2", **{"random_start_age": False} | overrides),
        critic_terms=critic_terms,
    )


def still(env) -> np.ndarray:
    return np.zeros(env.action_space.shape, np.float32)


class Counter(gymnasium.Env):
    """Counts its steps; the k-th of four ends its episodes after k + 2.

    One of Gymnasium's own vector environments of these is the model.
    """

    observation_space, action_space = (
        gymnasium.spaces.Box(0, 10, (1,), np.float32),
        gymnasium.spaces.Box(-1, 1, (1,), np.float32),
    )

    def __init__(self, last: int):
        self.last, self.count = last, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        over = self.count == self.last
        return np.full(1, self.count, np.float32), 1.0, False, over, {"error_vx": 0.5} if over else {}


def test_spaces_and_every_observation_agree_and_the_single_one_passes_gymnasiums_checker():
    env = make()
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert {name: space.shape for name, space in env.single_observation_space.items()} == {
        "state": (64,),
        "critic": (5,),
    }
    observation, info = env.reset(seed=3)
    assert observation in env.observation_space and info == {}
    env.action_space.seed(0)
    for _ in range(5):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert observation in env.observation_space and reward.shape == terminated.shape == truncated.shape == (4,)
    for name in ("rfx/Go2-v0", "rfx/Go2Rough-v0"):
        check_env(gymnasium.make(name).unwrapped, skip_render_check=True)  # tests/environments/test_render.py draws
    for space in (env.single_observation_space, env.single_action_space):
        assert env.num_envs * gymnasium.spaces.flatdim(space) == gymnasium.spaces.flatdim(
            env.observation_space if space is env.single_observation_space else env.action_space
        )


def test_info_has_the_layout_of_gymnasiums_own_same_step_environments():
    theirs = SyncVectorEnv([lambda k=k: Counter(k + 2) for k in range(4)], autoreset_mode=AutoresetMode.SAME_STEP)
    theirs.reset(seed=0)
    while not (their_info := theirs.step(np.zeros((4, 1), np.float32))[4]):
        pass
    env = make()
    env.reset(seed=0)
    env.simulation.batch.qpos[0, 3:7] = [
        np.sqrt(0.5),
        np.sqrt(0.5),
        0,
        0,
    ]  # on its side: its episode ends, as the counter's first
    *_, terminated, truncated, info = env.step(still(env))
    assert terminated.tolist() == [True, False, False, False] and not truncated.any()
    for name in ("final_obs", "_final_obs", "final_info", "_final_info"):
        assert type(info[name]) is type(their_info[name])
    assert info["_final_obs"].tolist() == their_info["_final_obs"].tolist() == info["_final_info"].tolist()
    assert info["final_obs"].dtype == their_info["final_obs"].dtype and [
        last is None for last in info["final_obs"]
    ] == [False, True, True, True]
    assert info["final_obs"][0] in env.single_observation_space
    assert info["final_info"].keys() >= their_info["final_info"].keys()
    for name, values in their_info["final_info"].items():
        assert info["final_info"][name].shape == values.shape and info["final_info"][name].dtype == values.dtype, name


def test_the_errors_in_final_info_are_the_episodes_means():
    env, errors = make(2, episode_length_s=0.2, command_interval_s=(100.0, 100.0)), []
    env.reset(seed=0)
    for _ in range(10):
        before = env.state.robot.velocity_command.copy()
        *_, info = env.step(np.full((2, 12), 0.3, np.float32))
        if not info:
            np.testing.assert_array_equal(env.state.robot.velocity_command, before)
            errors.append(np.abs(velocity_error(env.state)))
    figures = info["final_info"]
    shown = np.stack([figures[name] for name in ("error_vx", "error_vy", "error_yaw_rate")], axis=1)
    last = shown * 10 - np.sum(errors, axis=0)  # of the tenth step, which autoreset hides
    assert info["_final_info"].all() and len(errors) == 9 and (last >= -1e-4).all() and (last < 3.0).all()


def test_statistics_of_episodes_with_default_arguments():
    env = vector.RecordEpisodeStatistics(make(8, episode_length_s=0.2))
    env.reset(seed=0)
    returns, ended = np.zeros(8), 0
    for t in range(1, 31):
        _, reward, terminated, truncated, info = env.step(still(env))
        returns += reward
        if truncated.any():
            ended += 1
            assert t % 10 == 0 and truncated.all() and not terminated.any()
            np.testing.assert_allclose(info["episode"]["r"], returns, rtol=1e-5)
            assert (
                info["episode"]["l"].tolist() == [10] * 8
                and info["_episode"].all()
                and info["final_info"]["error_vx"].all()
            )
            returns[:] = 0.0
    assert ended == 3


def test_info_as_a_list_has_the_figures_of_the_environments_that_ended():
    env = vector.DictInfoToList(make(3, episode_length_s=0.1))
    assert env.reset(seed=0)[1] == [{}, {}, {}]
    env.unwrapped.state.step[0] = 3  # it is older than the others
    for _ in range(2):
        *_, infos = env.step(still(env))
    assert infos[1:] == [{}, {}] and infos[0].keys() == {"final_obs", "final_info", FAILED}
    assert not infos[0][FAILED] and infos[0]["final_info"].keys() == {"error_vx", "error_vy", "error_yaw_rate"}
    assert infos[0]["final_obs"] in env.unwrapped.single_observation_space


def test_wrappers_of_actions_and_rewards_do_what_they_say():
    plain, env = make(), make()
    wrapped = vector.RescaleAction(env, min_action=-2.0, max_action=2.0)
    wrapped = vector.TransformReward(wrapped, lambda reward: 2.0 * reward)
    wrapped = vector.ClipAction(wrapped)
    assert wrapped.single_observation_space == plain.single_observation_space and wrapped.single_action_space.shape == (
        12,
    )
    wrapped.reset(seed=0)
    plain.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        action = rng.uniform(-1, 1, (4, 12)).astype(np.float32)
        seen, twice, *_ = wrapped.step(2.0 * action)
        observation, reward, *_ = plain.step(action)
        for name in ("state", "critic"):
            np.testing.assert_allclose(seen[name], observation[name], atol=1e-4)
        np.testing.assert_allclose(twice, 2.0 * reward, atol=1e-4)


def test_a_reset_mask_begins_only_those_episodes_anew():
    env = make()
    env.reset(seed=0)
    for _ in range(5):
        before, *_ = env.step(np.full((4, 12), 0.2, np.float32))
    mask = np.array([True, False, False, True])
    options = {"reset_mask": mask}
    observation, info = env.reset(seed=1, options=options)
    assert (
        observation in env.observation_space and info == {} and list(options) == ["reset_mask"]
    )  # the wrappers around it read it too
    np.testing.assert_array_equal(observation["state"][~mask], before["state"][~mask])
    assert (observation["state"][mask, 33:45] == 0.0).all() and (
        observation["state"][~mask, 33:45] != 0.0
    ).all()  # the last action
    assert env.state.step.tolist() == [0, 5, 5, 0]
    again = make()
    again.reset(seed=0)
    for _ in range(5):
        again.step(np.full((4, 12), 0.2, np.float32))
    np.testing.assert_array_equal(again.reset(seed=1, options=options)[0]["state"], observation["state"])


@pytest.mark.parametrize(
    ("mask", "error"),
    [([True] * 4, TypeError), (np.ones(4), TypeError), (np.ones(3, bool), ValueError), (np.zeros(4, bool), ValueError)],
)
def test_a_wrong_reset_mask_is_refused_as_gymnasium_refuses_it(mask, error):
    theirs = SyncVectorEnv([lambda k=k: Counter(k + 2) for k in range(4)], autoreset_mode=AutoresetMode.SAME_STEP)
    for env in (theirs, make()):
        with pytest.raises(error, match="reset_mask"):
            env.reset(options={"reset_mask": mask})


def test_final_observations_of_failed_simulations_are_finite():
    env = make(randomize=False)
    env.reset(seed=0)
    env.state.robot.velocity_command[2, 0] = np.nan  # physics is sound, what the policy would be told is not
    info = env.step(still(env))[4]
    final = info["final_obs"][2]
    assert (
        info[FAILED].tolist() == [False, False, True, False] == info[f"_{FAILED}"].tolist()
        and final in env.single_observation_space
    )
    assert all(np.isfinite(values).all() for values in final.values()) and final["state"][30] == 0.0 < abs(
        final["state"][0]
    )
    assert not info["final_info"]["_error_vx"].any() and info["final_info"]["error_vx"].tolist() == [0.0] * 4
    assert np.isfinite(list(env.metrics().values())).all()


def test_metrics_are_means_since_they_were_last_read():
    env = make(
        3,
        episode_length_s=0.1,
        randomize=False,
        rewards={"fall": {"weight": -50.0}, "base_height": {"weight": 1.0, "target_m": 0.0}},
    )
    env.reset(seed=0)
    assert env.metrics() == {}
    for _ in range(4):
        env.step(still(env))
    env.simulation.batch.qpos[0, 3:7] = [np.sqrt(0.5), np.sqrt(0.5), 0, 0]
    env.step(still(env))
    metrics = env.metrics()
    assert metrics["episode/falls"] == pytest.approx(1 / 3) and metrics["episode/length_s"] == pytest.approx(0.1)
    assert metrics["reward/fall"] == pytest.approx(-50.0 / (3 * 5))  # one of three robots in one of five steps
    assert metrics["reward/base_height"] == pytest.approx(0.3**2, abs=0.03) and metrics["episode/error_vx"] > 0.0
    env.step(still(env))
    assert "episode/falls" not in (later := env.metrics()) and later["reward/fall"] == 0.0
