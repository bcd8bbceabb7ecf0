"""Collection and rollouts by hand: environments that play a script, and a policy that is two lines of NumPy."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from rfx.policy.history import ObservationHistory
from rfx.policy.normalizer import ObservationNormalizer
from rfx.random.streams import Streams
from rfx.robot.state import FAILED
from train.ppo.categorical import draw, log_softmax
from train.ppo.collect import Episodes, collect
from train.ppo.collector import Collector, part
from train.ppo.errors import TrainingBroken
from train.ppo.gae import gae
from train.ppo.rollout import Rollout

T, N, D, P, A, WIDTH = (
    4,
    3,
    2,
    5,
    2,
    4,
)  # steps, robots, real columns of the state, the critic's, actions, columns of the state
LOG_STD = np.array([-1.0, 0.5], np.float32)


class Script:
    """An environment whose next observations, rewards and ends are drawn beforehand; it notes what it was told to
    do.
    """

    num_envs = N

    def __init__(self, seed=0, critic=False, ends=True):
        rng = np.random.default_rng(seed)
        self.critic, self.step_number, self.told, self.seeds = critic, 0, [], []
        self.observations, self.finals = ([self.observation(rng, N) for _ in range(T + 1)] for _ in range(2))
        self.reward = rng.normal(size=(T, N)).astype(np.float32)
        self.terminated, self.truncated, self.failed = np.zeros((3, T, N), bool)
        # robot 0 is cut at step 1, robot 1 ends for good at step 2, robot 2 fails and is cut at step 1; all are cut at
        # the last
        if ends:
            self.truncated[1, [0, 2]], self.terminated[2, 1], self.failed[1, 2], self.truncated[3] = (
                True,
                True,
                True,
                True,
            )

    @property
    def unwrapped(self):
        return self

    def observation(self, rng, rows):
        state = rng.normal(size=(rows, WIDTH)).astype(np.float32)
        return {"state": state, "critic": rng.normal(size=(rows, P)).astype(np.float32)} if self.critic else state

    def reset(self, *, seed):
        self.seeds.append(seed)
        return self.observations[0], {}

    def step(self, action):
        t, self.step_number = self.step_number, self.step_number + 1
        self.told.append(np.array(action))
        final = [
            {name: rows[i] for name, rows in self.finals[t].items()} if self.critic else self.finals[t][i]
            for i in range(N)
        ]
        info = (
            {"final_obs": np.array([*final, None], dtype=object)[:-1]}
            if (self.truncated[t] | self.terminated[t]).any()
            else {}
        )
        if self.failed[t].any():
            info[FAILED] = self.failed[t]
        return self.observations[t + 1], self.reward[t], self.terminated[t], self.truncated[t], info


class Linear:
    """A policy: mean actions and value are sums of the inputs with given weights.

    It takes batches of the environments' number alone.
    """

    def __init__(self, widths, categorical=False):
        rng = np.random.default_rng(9)
        self.to_mean, self.to_value = rng.normal(size=(widths[0], A)), rng.normal(size=widths[-1])
        self.categorical, self.widths, self.policy = (
            categorical,
            widths,
            SimpleNamespace(log_std=SimpleNamespace(numpy=lambda: LOG_STD)),
        )

    def act(self, *inputs):
        assert [array.shape for array in inputs] == [(N, width) for width in self.widths]
        mean = inputs[0] @ self.to_mean
        return (log_softmax(mean) if self.categorical else mean).astype(np.float32), (
            inputs[-1] @ self.to_value
        ).astype(np.float32)


def normalizer(width, mean, std):
    """One that subtracts mean and divides by std."""
    made = ObservationNormalizer(width)
    made.update(np.repeat([[mean - std], [mean + std]], width, axis=1))
    return made


def states(observations):
    return [(o["state"] if isinstance(o, dict) else o)[:, :D] for o in observations]


def spoilt_rollout(**options):
    """One that an earlier rollout was written to."""
    rollout = Rollout.empty(T, N, D, A, **options)
    for field in dataclasses.fields(rollout):
        getattr(rollout, field.name)[...] = 7.0
    return rollout


@pytest.mark.parametrize(("length", "critic"), [(1, False), (1, True), (2, False), (3, True)])
def test_a_rollout_holds_what_was_seen_done_and_told(length, critic):
    env, policy = Script(critic=critic), Linear([length * D, *([P] if critic else [])])
    rollout = spoilt_rollout(history=length, critic_dim=P if critic else 0)
    frames, critics = normalizer(D, 1.0, 2.0), normalizer(P, -1.0, 0.5) if critic else None
    history = ObservationHistory(length) if length > 1 else None
    first = env.observations[0] if critic else {"state": env.observations[0]}
    if history:
        history.push(first["state"][:, :D])
    last, last_value = collect(
        env, policy, frames, rollout, first, Streams(N, 3), history=history, critic_normalizer=critics
    )

    seen, finals, noise = states(env.observations), states(env.finals), Streams(N, 3)
    past = [[seen[0][i]] * length for i in range(N)]  # of each robot, oldest first

    def value(state_rows, final):
        if critic:
            return (np.asarray(final["critic"], float) + 1.0) / 0.5 @ policy.to_value
        return (np.concatenate(state_rows) - 1.0) / 2.0 @ policy.to_value

    for t in range(T):
        drawn = noise.standard_normal((N, A))
        for i in range(N):
            observed = (np.concatenate(past[i]) - 1.0) / 2.0
            critic_row = {name: rows[i] for name, rows in env.observations[t].items()} if critic else None
            np.testing.assert_allclose(rollout.observation[t, i], observed, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(rollout.mean[t, i], observed @ policy.to_mean, rtol=1e-4, atol=1e-5)
            assert rollout.value[t, i] == pytest.approx(value(past[i], critic_row), rel=1e-4, abs=1e-4)
            np.testing.assert_allclose(
                rollout.action[t, i], rollout.mean[t, i] + np.exp(LOG_STD) * drawn[i], rtol=1e-5, atol=1e-6
            )
            density = np.exp(-0.5 * drawn[i].astype(float) ** 2) / (
                np.exp(LOG_STD.astype(float)) * math.sqrt(2.0 * math.pi)
            )
            assert rollout.log_prob[t, i] == pytest.approx(np.log(density).sum(), rel=1e-5)
            cut = env.truncated[t, i] and not env.failed[t, i]
            final = {name: rows[i] for name, rows in env.finals[t].items()} if critic else None
            expected = value([*past[i][1:], finals[t][i]], final) if cut else 0.0
            assert rollout.bootstrap[t, i] == pytest.approx(expected, rel=1e-4, abs=1e-4)
            ended = env.truncated[t, i] or env.terminated[t, i]
            past[i] = [seen[t + 1][i]] * length if ended else [*past[i][1:], seen[t + 1][i]]
    np.testing.assert_array_equal(rollout.raw_observation, seen[:T])
    for name in ("reward", "terminated", "truncated", "failed"):
        np.testing.assert_array_equal(getattr(rollout, name), getattr(env, name))
    np.testing.assert_array_equal(env.told, rollout.action)
    if critic:
        np.testing.assert_array_equal(rollout.raw_critic_observation, [o["critic"] for o in env.observations[:T]])
        np.testing.assert_allclose(
            rollout.critic_observation, (rollout.raw_critic_observation + 1.0) / 0.5, rtol=1e-5, atol=1e-5
        )
    np.testing.assert_array_equal(last["state"], env.observations[T]["state"] if critic else env.observations[T])
    after = [value(past[i], {"critic": env.observations[T]["critic"][i]} if critic else None) for i in range(N)]
    np.testing.assert_allclose(last_value, after, rtol=1e-4, atol=1e-4)


def test_choices_are_drawn_scored_and_told():
    env, policy, rollout = Script(ends=False), Linear([D], categorical=True), spoilt_rollout()
    collect(env, policy, ObservationNormalizer(D), rollout, {"state": env.observations[0]}, Streams(N, 3))
    streams = Streams(N, 3)
    for t in range(T):
        choice, one_hot, log_prob = draw(rollout.mean[t], streams)
        np.testing.assert_array_equal(env.told[t], choice)
        np.testing.assert_array_equal(rollout.action[t], one_hot)
        np.testing.assert_array_equal(rollout.log_prob[t], log_prob)
    assert len({tuple(choice) for choice in env.told}) > 1


def test_an_empty_rollout_has_the_shapes_it_says():
    rollout = Rollout.empty(2, 3, 5, 4, history=6, critic_dim=7)
    widths = {
        "raw_observation": 5,
        "observation": 30,
        "raw_critic_observation": 7,
        "critic_observation": 7,
        "action": 4,
        "mean": 4,
    }
    for field in dataclasses.fields(rollout):
        array = getattr(rollout, field.name)
        assert array.shape == ((2, 3, widths[field.name]) if field.name in widths else (2, 3)) and not array.any(), (
            field.name
        )
        assert array.dtype == (bool if field.name in ("terminated", "truncated", "failed") else np.float32), field.name
    plain = Rollout.empty(2, 3, 5, 4)
    assert plain.observation.shape == (
        2,
        3,
        5,
    ) and plain.critic_observation.shape == plain.raw_critic_observation.shape == (2, 3, 0)


def test_failed_transitions_become_copies_of_sound_ones_in_every_array():
    rollout = Rollout.empty(3, 4, 2, 2, critic_dim=1)
    number = np.arange(12.0).reshape(3, 4)
    for field in dataclasses.fields(rollout):
        array = getattr(rollout, field.name)
        if array.dtype == np.float32:
            array[...] = number.reshape(3, 4, *[1] * (array.ndim - 2))
    assert rollout.replace_failed(np.random.default_rng(0)) == 0
    np.testing.assert_array_equal(rollout.reward, number)
    rollout.failed[0, 1] = rollout.failed[2, 2] = True
    assert rollout.replace_failed(np.random.default_rng(0)) == 2 and not rollout.failed.any()
    for place, value in np.ndenumerate(number):
        told = {
            float(x)
            for field in dataclasses.fields(rollout)
            for x in np.ravel(getattr(rollout, field.name)[place])
            if getattr(rollout, field.name).dtype == np.float32
        }
        assert len(told) == 1, "a row of one transition"
        assert (told == {value}) == (value not in (1.0, 10.0)) and told.isdisjoint({1.0, 10.0})
    rollout.failed[:2] = True
    assert rollout.replace_failed(np.random.default_rng(0)) == 8 and len(np.unique(rollout.reward[:2])) > 1


@pytest.mark.filterwarnings("error")
def test_a_rollout_that_failed_throughout_ends_the_run():
    rollout = Rollout.empty(3, 4, 2, 2)
    rollout.reward[...], rollout.failed[...] = 1.0, True
    gae(rollout, np.ones(4, np.float32), 0.9, 0.9)
    assert not rollout.advantage.any()
    with pytest.raises(
        TrainingBroken,
        match="^all 12 transitions of a rollout failed in the simulator: the task or the model is broken$",
    ):
        rollout.replace_failed(np.random.default_rng(0))


def test_equal_advantages_are_no_advantage():
    """Their standard deviation is 0: they become 0, and not infinite."""
    rollout = Rollout.empty(2, 2, 1, 1)
    rollout.reward[...] = 3.0
    gae(rollout, np.zeros(2, np.float32), 0.0, 0.0)
    assert (rollout.returns == 3.0).all() and not rollout.advantage.any()


def test_an_episode_that_fails_without_an_end_loses_that_step_alone():
    episodes, no = Episodes(2), np.zeros(2, bool)
    assert (
        episodes.running_return.shape == episodes.running_length.shape == (2,)
        and episodes.running_length.dtype == np.int64
    )
    episodes.add(np.array([1.0, 1.0]), no, no)
    episodes.add(np.array([1.0, 1.0]), no, np.array([True, False]))
    other = Episodes(2)
    other.load_state_dict(episodes.state_dict())
    for each in (episodes, other):
        each.add(np.array([0.5, 0.25]), np.array([True, True]), no)
        assert each.read() == {
            "episode/failed_simulations": 0,
            "episode/return": (2.5 + 2.25) / 2,
            "episode/length": 2.5,
        }
        assert not each.running_return.any() and not each.running_length.any()


def test_failures_are_counted_until_they_are_read():
    episodes, yes = Episodes(2), np.array([True, True])
    episodes.add(np.ones(2), yes, np.array([True, True]))
    episodes.add(np.ones(2), yes, np.array([False, True]))
    assert episodes.read() == {"episode/failed_simulations": 3, "episode/return": 1.0, "episode/length": 1.0}


def test_a_saved_state_of_episodes_is_a_copy():
    episodes, no = Episodes(1), np.zeros(1, bool)
    episodes.add(np.ones(1), no, no)
    state = episodes.state_dict()
    episodes.add(np.ones(1), no, no)
    assert state["return"] == [1.0] and state["length"] == [1]
    episodes.load_state_dict(state)
    episodes.add(np.ones(1), no, no)
    assert state["return"] == [1.0] and state["length"] == [1]


def test_the_episodes_of_a_rollout_by_hand():
    """Robot 0 ends at both steps, at the second also failed; robot 1 is cut at the second."""
    rollout, episodes = Rollout.empty(2, 2, 1, 1), Episodes(2)
    rollout.reward[...] = [[1.0, 2.0], [4.0, 8.0]]
    rollout.terminated[:, 0], rollout.truncated[1, 1], rollout.failed[1, 0] = True, True, True
    episodes.add_rollout(rollout)
    assert episodes.read() == {
        "episode/failed_simulations": 1,
        "episode/return": (1.0 + 10.0) / 2,
        "episode/length": 1.5,
    }


# The collector


class Savable(Script):
    """A script that can be saved."""

    def __init__(self, **options):
        super().__init__(**options)
        self.loaded = None

    def state_dict(self):
        return {"step": self.step_number}

    def load_state_dict(self, state):
        self.loaded = state

    def metrics(self):
        return {"reward/tilt": 1.5}


def test_a_collector_seeds_its_environments_and_noise_by_the_first_of_them():
    env = Script()
    collector = Collector(env, env_seed=100, noise_seed=30, first=7)
    assert env.seeds == [107] and collector.state_dim == WIDTH and collector.history is None
    np.testing.assert_array_equal(collector.noise.standard_normal((N, 2)), Streams(N, 37).standard_normal((N, 2)))
    assert Collector(Script(), env_seed=0, noise_seed=0, state_dim=D, history=2).history.frames.shape == (N, 2, D)
    unsaved = Script()
    Collector(unsaved, env_seed=5, noise_seed=6)
    assert unsaved.seeds == [5] and Collector(Script(), env_seed=0, noise_seed=0).metrics() == {}
    assert Collector(Savable(), env_seed=0, noise_seed=0).metrics() == {"reward/tilt": 1.5}


@pytest.mark.parametrize("length", [1, 2])
def test_a_collector_collects_as_collect_does(length):
    env = Script(critic=True)
    collector = Collector(env, env_seed=0, noise_seed=3, state_dim=D, history=length)
    rollouts = [spoilt_rollout(history=length, critic_dim=P) for _ in range(2)]
    policy, frames, critics = Linear([length * D, P]), normalizer(D, 1.0, 2.0), normalizer(P, -1.0, 0.5)
    value = collector.collect(policy, rollouts[0], frames, critics)
    history = ObservationHistory(length) if length > 1 else None
    if history:
        history.push(env.observations[0]["state"][:, :D])
    _, expected = collect(
        Script(critic=True),
        policy,
        frames,
        rollouts[1],
        env.observations[0],
        Streams(N, 3),
        history=history,
        critic_normalizer=critics,
    )
    np.testing.assert_array_equal(value, expected)
    for field in dataclasses.fields(Rollout):
        np.testing.assert_array_equal(*(getattr(rollout, field.name) for rollout in rollouts), err_msg=field.name)
    np.testing.assert_array_equal(collector.observation["state"], env.observations[T]["state"])


def test_what_a_collector_saves_is_all_that_the_next_rollout_depends_on():
    collector = Collector(Savable(), env_seed=0, noise_seed=3, state_dim=D, history=2)
    collector.collect(Linear([2 * D]), spoilt_rollout(history=2), ObservationNormalizer(D))
    state = collector.state_dict()
    assert {*state} == {
        "env.step",
        "observation.state",
        "history.frames",
        "noise.key",
        "noise.increment",
        "noise.count",
    }
    assert state["env.step"] == T
    other = Collector(Savable(seed=1), env_seed=8, noise_seed=9, state_dim=D, history=2)
    other.load_state_dict(state)
    assert other.env.loaded == {"step": T}
    np.testing.assert_array_equal(other.observation["state"], collector.observation["state"])
    np.testing.assert_array_equal(other.history.frames, collector.history.frames)
    np.testing.assert_array_equal(other.noise.random((N, 3)), collector.noise.random((N, 3)))


def test_of_environments_that_cannot_be_saved_the_noise_is():
    collector, other = (Collector(Script(), env_seed=0, noise_seed=seed, state_dim=D, history=2) for seed in (3, 4))
    state = collector.state_dict()
    assert {*state} == {"noise.key", "noise.increment", "noise.count"}
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.noise.random((N, 3)), collector.noise.random((N, 3)))
    assert {*Collector(Savable(), env_seed=0, noise_seed=0).state_dict()} == {*state, "env.step", "observation.state"}


def test_a_part_of_a_state_by_its_prefix():
    assert part({"env.a": 1, "env.env.b": 2, "noise.env.": 3}, "env.") == {"a": 1, "env.b": 2}


@pytest.mark.parametrize("name", ["state", "critic"])
def test_what_is_not_finite_is_told_by_the_number_of_its_environment_and_nothing_acts_on_it(name):
    """Of three environments that are the run's from the eleventh on, the last one's fourth number, after two steps."""
    env, policy = Script(critic=True, ends=False), Linear([D, P])
    env.observations[2][name][2, 3] = np.inf
    with pytest.raises(TrainingBroken, match=f"environment 12 gave inf as entry 3 of its {name}"):
        collect(
            env,
            policy,
            normalizer(D, 0.0, 1.0),
            spoilt_rollout(critic_dim=P),
            env.observations[0],
            Streams(N, 0),
            critic_normalizer=normalizer(P, 0.0, 1.0),
            first=10,
        )
    assert env.step_number == 2


def test_numbers_whose_sum_alone_is_too_large_are_let_pass():
    env = Script(ends=False)
    env.observations[1][:] = 3e38
    collect(env, Linear([D]), normalizer(D, 0.0, 1.0), spoilt_rollout(), {"state": env.observations[0]}, Streams(N, 0))
    assert env.step_number == T
