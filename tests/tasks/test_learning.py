"""That it learns, seeded: a task whose best policy is known by hand, in seconds; and the default run against its
targets in docs/results.md, long.
"""

import dataclasses

import numpy as np
import pytest
from point_task import REACH, PointTask, episode_return, point_config
from rich.console import Console

import rfx
from envs.legged.config import EnvConfig
from envs.settings.configs import compose
from train.judge.evaluation import evaluate
from train.judge.play import PolicyAct, evaluation_env
from train.judge.targets import WALKING, evaluation_targets
from train.ppo.gae import gae
from train.runs.run import train
from train.runs.trainer import Trainer
from train.task.config import TrainConfig

BEST, NOTHING = episode_return(lambda place: -place / REACH), episode_return(np.zeros_like)


def test_the_known_task_is_what_it_says():
    """|x| uniform in [0, 1]: the mean of x^2 + y^2 is 2/3, 20 times; and 2/3 (0.7^3 + 0.4^3 + 0.1^3) for who comes 0.3
    nearer each step.
    """
    assert NOTHING == pytest.approx(-20 * 2 / 3, rel=0.05) and BEST == pytest.approx(
        -2 / 3 * (0.7**3 + 0.4**3 + 0.1**3), rel=0.05
    )


def learned(trainer: Trainer, num_iterations: int) -> float:
    """Return of the mean action after so many iterations."""
    for _ in range(num_iterations):
        metrics = trainer.iterate()
    assert np.isfinite(list(metrics.values())).all()
    return episode_return(lambda place: trainer.learner.act(trainer.normalizer.normalize(place))[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_ppo_finds_the_known_answer(seed):
    trainer = Trainer(config := point_config(seed, 40), PointTask(config))
    before = episode_return(lambda place: trainer.learner.act(trainer.normalizer.normalize(place))[0])
    after = learned(trainer, 40)
    assert before < 0.5 * NOTHING and (after - NOTHING) / (BEST - NOTHING) > 0.97


def test_what_undoes_learning_is_noticed(monkeypatch):
    """The same run with advantages of the wrong sign ends worse than doing nothing: the test above can fail."""

    def wrong(rollout, *arguments):
        gae(rollout, *arguments)
        np.negative(rollout.advantage, out=rollout.advantage)

    monkeypatch.setattr("train.runs.trainer.gae", wrong)
    trainer = Trainer(config := point_config(0, 40), PointTask(config))
    assert learned(trainer, 10) < NOTHING


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_run_meets_the_targets_of_the_readme(seed, tmp_path):
    whole = compose("robot", "go2")
    config = TrainConfig.from_dict(
        {"robot": "go2", "seed": seed, **{name: whole[name] for name in ("env", "policy", "ppo", "trainer")}}
    )
    result = train(config, tmp_path, Console(quiet=True))
    policy = rfx.load_policy(result["policy"])
    for timestep_s in (0.01, 0.002):
        task = dataclasses.replace(EnvConfig.load("go2"), timestep_s=timestep_s)
        evaluation = evaluate(
            PolicyAct(policy), evaluation_env(task, policy.robot_config, num_envs=1024), seed=0, duration_s=20.0
        )
        missed = [target for target in evaluation_targets(evaluation, WALKING) if not target.met]
        assert not missed, missed
