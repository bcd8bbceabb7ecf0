"""Policies that read their last observations: the same frames in training, in evaluations and on a robot, and folders
that say so.
"""

import dataclasses
import json

import network_reference
import numpy as np
import pytest
from tinygrad import Tensor
from virtual_clock import VirtualClock
from virtual_deploy import deploy_in_virtual_time

import rfx
from envs.legged.config import EnvConfig
from rfx.commands.cli import main
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.session import Session
from rfx.nn import MLP, ActorCritic, JitPolicy, Policy, PrivilegedActorCritic
from rfx.policy.history import ObservationHistory
from rfx.policy.normalizer import ObservationNormalizer
from train.commands.play import Pilot, Play
from train.judge.evaluation import evaluate
from train.judge.play import PolicyAct, evaluation_env
from train.runs.best import Snapshot
from train.runs.trainer import Trainer
from train.task.config import TrainConfig

K, D = 3, 48


def rng(seed=0):
    return np.random.default_rng(seed)


def expected_frames(observations, begins, length):
    """(T, N, length, D) from observations (T, N, D) and where episodes begin (T, N), one robot and one list at a
    time.
    """
    result = np.zeros((*observations.shape[:2], length, observations.shape[2]), np.float32)
    for i in range(observations.shape[1]):
        seen = []
        for t in range(len(observations)):
            seen = [observations[t, i]] * length if t == 0 or begins[t, i] else [*seen[1:], observations[t, i]]
            result[t, i] = seen
    return result


def fitted_normalizer(seed=5) -> ObservationNormalizer:
    normalizer = ObservationNormalizer(D)
    normalizer.update(rng(seed).normal(1.0, 2.0, (500, D)).astype(np.float32))
    return normalizer


def policy_of(history=K, seed=0) -> rfx.LoadedPolicy:
    network = MLP(D, 12, [16], history=history, rng=rng(seed))
    return rfx.LoadedPolicy(network, robot_config=GO2_CONFIG, normalizer=fitted_normalizer())


def states(*shape, seed=1):
    return rng(seed).normal(1.0, 2.0, (*shape, D)).astype(np.float32)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_frames_are_the_last_observations_of_each_robot_since_its_episode_began(length):
    observations, begins = states(12, 6), rng(2).random((12, 6)) < 0.3
    history, expected = ObservationHistory(length), expected_frames(observations, begins, length)
    for t in range(12):
        if t:
            history.reset(begins[t] if t % 2 else np.flatnonzero(begins[t]))  # a mask, or indices
        np.testing.assert_array_equal(history.push(observations[t]), expected[t])
        np.testing.assert_array_equal(history.frames, expected[t])
        following = history.followed_by(np.array([1, 4]), observations[0, [1, 4]])
        np.testing.assert_array_equal(
            following, np.concatenate((expected[t][[1, 4], 1:], observations[0, [1, 4], None]), axis=1)
        )
    other = ObservationHistory(length)
    other.load(history.frames)
    np.testing.assert_array_equal(other.push(observations[0]), history.push(observations[0]))
    history.reset()
    assert (history.push(observations[3]) == observations[3][:, None]).all()


def test_a_batch_of_another_size_is_refused_until_a_reset():
    policy = policy_of()
    policy({"state": states(2)})
    with pytest.raises(
        ValueError, match=r"got observations of shape \(3, 48\); expected \(2, 48\), as before: call reset\(\)"
    ):
        policy({"state": states(3)})
    policy.reset()
    assert policy({"state": states(3)}).shape == (3, 12)


def make_trainer(**policy) -> Trainer:
    env = dataclasses.asdict(EnvConfig.load("go2", num_envs=8, episode_length_s=0.2, random_start_age=True))
    return Trainer(
        TrainConfig.from_dict(
            {
                "robot": "go2",
                "seed": 1,
                "env": env,
                "policy": {"hidden": [16], **policy},
                "ppo": {"num_epochs": 1, "num_minibatches": 2},
                "trainer": {"rollout_steps": 20},
            }
        )
    )


def test_one_robot_decides_frame_by_frame_what_the_batch_in_training_decided():
    """Three iterations with other weights and statistics each; the exported policy is replayed for every robot of the
    third.
    """
    trainer = make_trainer(history=K)
    for _ in range(2):
        trainer.iterate()
    exported, state = Snapshot.of(trainer).policy, trainer.state_dict()
    before = state["history.frames"]  # at the third iteration's start: the first observation is the last of these
    weights = (
        [layer.weight.numpy() for layer in exported.policy.layers],
        [layer.bias.numpy() for layer in exported.policy.layers],
    )
    trainer.iterate()
    rollout = trainer.rollout
    done = rollout.terminated | rollout.truncated
    assert (
        done.sum() >= 8 and rollout.observation.shape == (20, 8, K * D) and rollout.raw_observation.shape == (20, 8, D)
    )
    np.testing.assert_array_equal(before[:, -1], rollout.raw_observation[0])
    for i in range(8):
        exported.reset()
        for frame in before[i, :-1]:
            exported({"state": frame[None]})
        known = list(before[i, :-1])
        for t in range(20):
            raw = rollout.raw_observation[t, i]
            if t and done[t - 1, i]:
                exported.reset()
                known = [raw] * (K - 1)
            action = exported({"state": np.pad(raw, (0, 16))[None]})
            np.testing.assert_allclose(action[0], rollout.mean[t, i], atol=3e-6)
            known = [*known[-(K - 1) :], raw]
            scaled = (np.array(known, np.float64) - exported.normalizer.mean) / np.sqrt(
                exported.normalizer.var + exported.normalizer.eps
            )
            np.testing.assert_allclose(rollout.observation[t, i], scaled.clip(-10, 10).ravel(), atol=2e-4)
            output = network_reference.forward(scaled.clip(-10, 10).reshape(1, -1), *weights)[-1]
            np.testing.assert_allclose(np.tanh(output[0]), action[0], atol=1e-4)


def test_a_truncated_episode_bootstraps_from_its_last_frames_and_the_rollouts_end_from_the_next_ones():
    trainer = make_trainer(history=K)
    step, finals = trainer.env.step, []

    def recording_step(action):
        result = step(action)
        finals.append(result[4].get("final_obs"))
        return result

    trainer.env.step = recording_step
    policy = {name: tensor.numpy().copy() for name, tensor in trainer.learner.parameters.items()}
    trainer.iterate()
    rollout = trainer.rollout
    done, checked = rollout.terminated | rollout.truncated, 0
    begins = np.concatenate((np.ones((1, 8), bool), done[:-1]))
    frames = expected_frames(rollout.raw_observation, begins, K)
    for t, i in zip(*np.nonzero(rollout.truncated)):
        final = np.concatenate((frames[t, i, 1:].ravel(), finals[t][i]["state"][:D])).clip(
            -10, 10
        )  # the first statistics only clip
        value = network_reference.forward(
            final[None],
            [policy["backbone.0.weight"], policy["critic_head.weight"]],
            [policy["backbone.0.bias"], policy["critic_head.bias"]],
        )[-1]
        assert rollout.bootstrap[t, i] == pytest.approx(value[0, 0], abs=1e-5)
        checked += 1
    assert checked >= 8


def test_robots_in_a_batch_remember_apart():
    """A batch of four with resets of single rows acts as four policies of one robot each."""
    batch, singles = policy_of(), [policy_of() for _ in range(4)]
    observations, begins = states(15, 4), rng(3).random((15, 4)) < 0.2
    for t in range(15):
        batch.reset(begins[t])
        for i in np.flatnonzero(begins[t]):
            singles[i].reset()
        together = batch({"state": observations[t]})
        apart = np.concatenate([policy({"state": observations[t, i, None]}) for i, policy in enumerate(singles)])
        np.testing.assert_allclose(together, apart, atol=1e-6)


def test_an_evaluation_resets_the_robots_that_fell_or_timed_out():
    env = evaluation_env(
        EnvConfig.load("go2"),
        GO2_CONFIG,
        num_envs=4,
        episode_length_s=0.3,
        terminations={"base_low": {"min_height_m": 0.2}},
    )
    policy, seen, ended, step = policy_of(), [], [], env.step
    policy._infer = lambda rows: (
        seen.append(rows.reshape(4, K, D)) or rng(len(seen)).uniform(-1, 1, (4, 12)).astype(np.float32)
    )

    def recording_step(action):
        result = step(action)
        ended.append(result[2] | result[3])
        return result

    env.step = recording_step
    for _ in range(2):  # the second evaluation of the same policy knows nothing of the first
        evaluate(PolicyAct(policy), env, seed=0, duration_s=1.0)
    begins, frames = np.concatenate((np.ones((1, 4), bool), ended[:-1])), np.array(seen)
    begins[50] = True
    assert begins[1:50].sum() > 8 and frames.shape == (100, 4, K, D)
    np.testing.assert_array_equal(frames, expected_frames(frames[:, :, -1], begins, K))


class Recorder:
    """A robot whose observations count up."""

    num_envs, state_dim, action_dim, max_state_dim, max_action_dim = 1, D, 12, 64, 64

    def __init__(self):
        self.count = 0

    def observe(self):
        self.count += 1
        return {"state": np.full((1, 64), 0.01 * self.count, np.float32)}

    def act(self, action): ...

    def reset(self): ...

    def stop(self): ...


def test_a_session_begins_with_the_first_live_observation_each_time():
    policy, robot, seen = policy_of(), Recorder(), []
    policy.normalizer = None
    policy._infer = lambda rows: (
        seen.append((100 * rows.reshape(K, D)[:, 0]).round().astype(int).tolist()) or np.zeros((1, 12), np.float32)
    )
    with VirtualClock() as clock:
        Session(robot, policy, rate_hz=200.0, warmup_s=0.0, clock=clock).run(0.015)
    assert seen == [[1, 1, 1], [2, 2, 2], [2, 2, 3], [2, 3, 4]]  # the first of these is the warm-up
    with VirtualClock() as clock:
        Session(robot, policy, rate_hz=200.0, warmup_s=0.0, clock=clock).run(0.005)
    assert seen[4:] == [[5, 5, 5], [6, 6, 6]]


def test_putting_the_robot_on_its_feet_again_begins_an_episode():
    policy, seen = policy_of(), []
    policy._infer = lambda rows: seen.append(rows.reshape(K, D)) or np.full((1, 12), 0.2, np.float32)
    pilot = Pilot(np.tile([-1.0, 1.0], (3, 1)))
    play = Play(policy, rfx.SimRobot(), pilot)
    for _ in range(4):
        play.step()
    assert not np.array_equal(seen[3][0], seen[3][2])
    pilot.press("r")
    play.step()
    np.testing.assert_array_equal(seen[4], np.repeat(seen[4][2:], K, axis=0))
    np.testing.assert_array_equal(seen[4][2], seen[0][2])


@pytest.mark.parametrize("kind", ["MLP", "ActorCritic", "PrivilegedActorCritic", "JitPolicy"])
def test_a_folder_keeps_the_history_and_acts_as_before(tmp_path, kind, capsys):
    policy = {
        "MLP": lambda: MLP(D, 12, [16], history=K, rng=rng()),
        "ActorCritic": lambda: ActorCritic(D, 12, [16], history=K, rng=rng()),
        "PrivilegedActorCritic": lambda: PrivilegedActorCritic(D, 12, 30, [16], history=K, rng=rng()),
        "JitPolicy": lambda: JitPolicy(MLP(D, 12, [16], history=K, rng=rng())),
    }[kind]()
    path = policy.save(tmp_path / "p", robot_config=GO2_CONFIG, normalizer=fitted_normalizer())
    loaded, again = rfx.load_policy(path, GO2_CONFIG), Policy.load(path)
    assert loaded.history == again.history == K and again.obs_dim == D
    original = rfx.LoadedPolicy(policy, robot_config=GO2_CONFIG, normalizer=fitted_normalizer())
    frames = expected_frames(states(5, 2), np.zeros((5, 2), bool), K)
    for t in range(5):
        action = loaded({"state": states(5, 2)[t]})
        np.testing.assert_allclose(original({"state": states(5, 2)[t]}), action, atol=2e-6)
        normalized = fitted_normalizer().normalize(frames[t].reshape(-1, D)).reshape(2, K * D)
        np.testing.assert_allclose(again(Tensor(normalized)).numpy(), action, atol=3e-6)
    assert main(["inspect", str(path)]) == 0
    told = capsys.readouterr().out
    assert f"history={K}" in told and "observation: 48 wide, the last 3 of them: joint_position" in told


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"history": 2}, "got obs_dim 48, but the weights are those of 72"),
        ({"history": 2, "obs_dim": 72}, "width 72"),
        ({"history": 1}, "got obs_dim 48, but the weights are those of 144"),
        ({"history": 1, "obs_dim": 144}, "width 144"),
        ({"history": 5}, "got history 5, but the weights read 144"),
        ({"history": 10**9}, "got history 1000000000"),
        ({"history": 0}, "got history 0"),
        ({"history": True}, "got history True"),
        ({"history": "3"}, "got history '3'"),
        ({"history": None}, "got history None"),
        ({"history": -3, "obs_dim": -48}, "got history -3"),
        ({"history": 3.0}, "got history 3.0"),
    ],
)
def test_a_folder_that_says_another_history_is_refused(tmp_path, changed, message):
    path = MLP(D, 12, [16], history=K, rng=rng()).save(
        tmp_path / "p", robot_config=GO2_CONFIG, normalizer=fitted_normalizer()
    )
    config = json.loads((path / "rfx_config.json").read_text())
    config["arguments"] |= changed
    (path / "rfx_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        rfx.load_policy(path)


def test_a_folder_without_the_history_it_needs_is_refused(tmp_path):
    path = MLP(D, 12, [16], history=K, rng=rng()).save(tmp_path / "p", robot_config=GO2_CONFIG)
    config = json.loads((path / "rfx_config.json").read_text())
    del config["arguments"]["history"]
    (path / "rfx_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="got obs_dim 48, but the weights are those of 144"):
        rfx.load_policy(path)


def test_bare_weights_of_one_observation_load_and_of_more_are_one_wide_observation(tmp_path):
    for history in (1, K):
        path = MLP(D, 12, [16], history=history, rng=rng()).save(tmp_path / str(history))
        loaded = rfx.load_policy(path / "model.safetensors")
        assert (loaded.history, loaded.policy.obs_dim) == (1, D * history)


def test_bare_weights_of_a_privileged_critic_tell_what_they_are(tmp_path):
    policy = PrivilegedActorCritic(D, 12, 30, [16, 8], rng=rng())
    loaded = Policy.load(policy.save(tmp_path / "p") / "model.safetensors")
    assert type(loaded) is PrivilegedActorCritic
    assert (loaded.obs_dim, loaded.act_dim, loaded.critic_dim, loaded.hidden) == (D, 12, 30, [16, 8])
    x, y = states(4), rng(3).normal(size=(4, 30)).astype(np.float32)
    np.testing.assert_array_equal(
        loaded.output(Tensor(x), Tensor(y)).numpy(), policy.output(Tensor(x), Tensor(y)).numpy()
    )


def test_without_a_history_a_folder_says_nothing_of_it(tmp_path):
    path = ActorCritic(D, 12, [16], rng=rng()).actor().save(tmp_path / "p", robot_config=GO2_CONFIG)
    assert rfx.inspect_policy(path).arguments == {"obs_dim": 48, "act_dim": 12, "hidden": [16]}


@pytest.mark.parametrize("history", [0, -1, 2.0, True, None])
def test_a_history_that_is_no_number_of_observations_is_refused(history):
    with pytest.raises(ValueError, match="history"):
        MLP(D, 12, [16], history=history)
    with pytest.raises(ValueError, match=r"expected \(batch, 144\): 3 observations of 48"):
        MLP(D, 12, [16], history=K)(Tensor.zeros(2, D))


@pytest.mark.parametrize("robot", ["sim", "mock"])
def test_a_policy_with_a_history_is_deployed_like_any_other(tmp_path, robot, capsys):
    path = MLP(D, 12, [16], history=K, rng=rng()).save(
        tmp_path / "p", robot_config=GO2_CONFIG, normalizer=fitted_normalizer()
    )
    deploy_in_virtual_time(str(path), "--robot", robot, "--duration", "0.1")
    assert "5 steps" in capsys.readouterr().out
