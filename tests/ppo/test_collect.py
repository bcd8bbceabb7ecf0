"""A collected rollout is what the policy says it is: its log-probabilities, values and exploration; and what is told of
episodes, by hand.
"""

import dataclasses
import math

import numpy as np
import pytest
from tinygrad import Tensor

from envs.legged.config import EnvConfig
from envs.legged.metrics import Metrics
from rfx.random.streams import Streams
from train.ppo.collect import Episodes, collect
from train.runs.trainer import Trainer
from train.task.config import TrainConfig

OPTIONS = ({}, {"history": 3, "symmetric": True}, {"critic": "privileged", "history": 2})


def make_trainer(total_steps=10**6, **policy) -> Trainer:
    env = dataclasses.asdict(EnvConfig.load("go2", num_envs=8, episode_length_s=0.2))
    return Trainer(
        TrainConfig.from_dict(
            {
                "robot": "go2",
                "seed": 1,
                "env": env,
                "policy": {"hidden": [16], **policy},
                "ppo": {"num_epochs": 2, "num_minibatches": 2},
                "trainer": {"rollout_steps": 20, "total_steps": total_steps},
            }
        )
    )


def collect_once(trainer: Trainer) -> None:
    """The next rollout, without an update after it."""
    collect(
        trainer.env,
        trainer.learner,
        trainer.normalizer,
        trainer.rollout,
        trainer.collector.observation,
        Streams(8, 0),
        history=trainer.history,
        critic_normalizer=trainer.critic_normalizer,
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_policy_scores_a_rollout_as_it_was_collected(options):
    """Ratio of 1 and the same values, from the network itself; also after an update, which moved weights, deviations
    and normalizer.
    """
    trainer = make_trainer(**options)
    trainer.iterate()
    trainer.learner.limit_std(0.3)
    collect_once(trainer)
    rollout, policy = trainer.rollout, trainer.policy
    flat = {
        name: Tensor(getattr(rollout, name).reshape(160, -1))
        for name in ("observation", "critic_observation", "action")
    }
    if options.get("critic") == "privileged":
        output = policy.output(flat["observation"], flat["critic_observation"]).numpy().astype(np.float64)
        log_std = policy.log_std.numpy().astype(np.float64)
        z = (rollout.action.reshape(160, -1) - np.tanh(output[:, :-1])) / np.exp(log_std)
        log_prob, value = (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(axis=1), output[:, -1]
    else:
        _, log_prob, _, value = (
            result.numpy() for result in policy.get_action_and_value(flat["observation"], flat["action"])
        )
    np.testing.assert_allclose(np.exp(log_prob - rollout.log_prob.ravel()), 1.0, atol=1e-3)
    np.testing.assert_allclose(value, rollout.value.ravel(), atol=1e-4)
    assert np.abs(rollout.action).max() > 0.5 and np.ptp(rollout.log_prob) > 5.0  # or equal numbers would say little


def test_exploration_narrows_in_a_geometric_progression_and_is_never_raised():
    trainer = make_trainer(total_steps=1600, initial_std=0.4, final_std=0.1)
    limits = []
    for steps in (0, 400, 800, 1600, 9999):
        trainer.steps = steps
        limits.append(trainer.std_limit())
    np.testing.assert_allclose(limits, [0.4, 0.4 / 2**0.5, 0.2, 0.1, 0.1])  # a factor of 4 over the run
    trainer.learner.limit_std(0.25)
    np.testing.assert_allclose(np.exp(trainer.policy.log_std.numpy()), 0.25, rtol=1e-6)
    trainer.learner.limit_std(0.35)
    np.testing.assert_allclose(np.exp(trainer.policy.log_std.numpy()), 0.25, rtol=1e-6)


@pytest.mark.parametrize(("steps", "std"), [(0, 0.4), (800, 0.2), (1600, 0.1)])
def test_actions_are_spread_as_the_limit_says(steps, std):
    """1,920 actions of a rollout: their standard deviation is known to 2%."""
    trainer = make_trainer(total_steps=1600, initial_std=0.4, final_std=0.1)
    trainer.steps = steps
    trainer.iterate()
    assert (trainer.rollout.action - trainer.rollout.mean).std() == pytest.approx(std, rel=0.06)


def test_episodes_by_hand():
    """Three environments: one ends after two steps, one fails, one goes on."""
    episodes, none = Episodes(3), np.zeros(3, bool)
    episodes.add(np.array([1.0, 1.0, 1.0]), none, none)
    episodes.add(np.array([2.0, 2.0, 2.0]), np.array([True, True, False]), np.array([False, True, False]))
    assert episodes.read() == {"episode/failed_simulations": 1, "episode/return": 3.0, "episode/length": 2.0}
    episodes.add(np.array([5.0, 5.0, 5.0]), np.array([True, False, True]), none)
    assert episodes.read() == {
        "episode/failed_simulations": 0,
        "episode/return": (5.0 + 8.0) / 2,
        "episode/length": 2.0,
    }
    assert episodes.read() == {"episode/failed_simulations": 0}


def test_metrics_by_hand():
    metrics = Metrics(["tilt"], 2, 0.02)
    metrics.reward["tilt"] += 0.1  # weighted, per step
    metrics.add_step(np.array([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]]))
    metrics.reward["tilt"] += 0.3
    metrics.add_step(np.zeros((2, 3)))
    metrics.add_episodes(np.array([True, True]), np.array([50, 100]), np.array([True, False]))
    metrics.add_episodes(np.array([False, True]), np.array([70, 150]), np.array([True, False]))
    expected = {
        "reward/tilt": 0.4 / 0.04,
        "episode/error_vx": 0.1,
        "episode/error_vy": 0.15,
        "episode/error_yaw_rate": 0.2,
        "episode/falls": 1 / 3,
        "episode/length_s": 6.0 / 3,
    }
    assert metrics.read() == pytest.approx(expected) and metrics.read() == {}
