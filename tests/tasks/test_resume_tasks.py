"""A run of every task goes on through the disk: interrupted, read back, and ended as one that nothing interrupted."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import gym_envs  # noqa: F401  (registers them)
import pytest
from rich.console import Console
from tiny_run import make_config, refuse_to_tell

from envs.gym.env import GymEnv
from envs.gym.make import make_vector
from envs.settings.configs import compose, gym_family, merged
from train.judge.episodes import play_episodes
from train.runs.best import Snapshot
from train.runs.callbacks import Callback
from train.runs.checkpoint import newest_checkpoint
from train.runs.run import train
from train.runs.trainer import Trainer
from train.task.config import ScaleConfig, TrainConfig
from train.task.errors import InputError

HALF = {
    "threads": 1,
    "policy": {"hidden": [16]},
    "env": {"num_envs": 2},
    "ppo": {"num_epochs": 2, "num_minibatches": 2},
    "trainer": {
        "rollout_steps": 16,
        "total_steps": 128,
        "evaluate_every": 64,
        "evaluation_envs": 1,
        "final_evaluation_envs": 1,
    },
}


class GivesUp(Callback):
    """Interrupts a run at its first evaluation."""

    gives_up = True

    def on_evaluation(self, steps, judgement) -> bool:
        return True


def gym_config(id: str, **changed) -> TrainConfig:
    values = merged(merged(compose("tasks", "gym"), compose("gym", gym_family(id))), merged(HALF, {"env": {"id": id}}))
    return TrainConfig.from_dict(merged(values, changed))


def interrupted(config: TrainConfig, folder: Path) -> dict:
    """The result of a run that is given up at its first evaluation, and then goes on from the checkpoint that it
    left.
    """
    quiet = Console(quiet=True)
    result = train(config, folder, quiet, callbacks=[GivesUp()])
    assert result["status"] == "pruned" and 0 < result["steps"] < config.trainer.total_steps
    return train(dataclasses.replace(config, resume=str(folder)), folder, quiet)


CONFIGS = {
    "legged": make_config,
    "gym, numbers": lambda: gym_config("Hopper-v5", env={"kwargs": {"healthy_z_range": [0.6, 10.0]}}),
    "gym, numbers, in processes": lambda: gym_config("gym_envs:Odd-v0"),
    "gym, choices": lambda: gym_config("gym_envs:Choice-v0"),
    "gym, choices, a vector environment": lambda: gym_config("CartPole-v1"),
}
TO_THE_BIT = {"legged", "gym, numbers"}  # their environments have a state_dict


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_that_was_interrupted_goes_on(name, tmp_path):
    config = CONFIGS[name]()
    result = interrupted(config, tmp_path / "run")
    assert result["status"] == "finished" and result["steps"] == config.trainer.total_steps
    if name in TO_THE_BIT:
        assert result["fingerprint"] == train(config, tmp_path / "whole", Console(quiet=True))["fingerprint"]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "legged"])
def test_another_run_can_begin_with_its_network(name, tmp_path):
    config, quiet = CONFIGS[name](), Console(quiet=True)
    train(config, tmp_path / "first", quiet, callbacks=[GivesUp()])
    result = train(dataclasses.replace(config, start_from=str(tmp_path / "first"), seed=1), tmp_path / "next", quiet)
    assert result["status"] == "finished"


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["legged", "gym, numbers", "gym, choices, a vector environment"])
def test_with_workers_too(name, tmp_path):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install -e '.[ray]'")
    config = CONFIGS[name]()
    result = interrupted(dataclasses.replace(config, scale=ScaleConfig(workers=2, threads=1)), tmp_path / "run")
    assert result["status"] == "finished" and result["steps"] == config.trainer.total_steps
    if name in TO_THE_BIT:
        assert result["fingerprint"] == train(config, tmp_path / "whole", Console(quiet=True))["fingerprint"]


def test_what_means_something_else_is_still_refused(tmp_path):
    train(gym_config("CartPole-v1"), tmp_path / "run", Console(quiet=True), callbacks=[GivesUp()])
    changed = {
        "env": {"kwargs": {"sutton_barto_reward": True}},
        "resume": str(tmp_path / "run"),
        "resume_overrides": True,
    }
    other = gym_config("CartPole-v1", **changed)
    with pytest.raises(InputError, match="env.kwargs was {}|env.kwargs.sutton_barto_reward was None, is True"):
        train(other, tmp_path / "run", Console(quiet=True))


def test_a_checkpoint_says_what_its_numbers_mean_as_json_gives_it_back(tmp_path):
    train(gym_config("gym_envs:Odd-v0"), tmp_path / "run", Console(quiet=True), callbacks=[GivesUp()])
    meaning = newest_checkpoint(tmp_path / "run" / "checkpoints", refuse_to_tell)[1]["run.meaning"]
    assert meaning["spaces"]["action_low"] == [0.0, -1.0] and meaning["spaces"]["action_high"] == [10.0, 3.0]
    assert json.loads(json.dumps(meaning)) == meaning


def test_a_run_that_was_interrupted_learns_on_to_the_known_return(tmp_path):
    """The Door, of which staying earns 100 in 100 steps, and leaving at once 7: interrupted when it has not learned
    yet.
    """
    config = gym_config(
        "gym_envs:Door-v0",
        env={"num_envs": 32},
        policy={"hidden": [32]},
        ppo={"gamma": 0.97, "learning_rate": 1e-3, "num_epochs": 5, "num_minibatches": 4},
        trainer={"rollout_steps": 32, "total_steps": 92_160, "evaluate_every": 5120},
    )
    env = GymEnv(make_vector("gym_envs:Door-v0", 20, {"max_episode_steps": 100}), "Door-v0")

    def learned() -> float:
        """Of the policy in the checkpoint: the best is chosen by episodes of 5 steps, in which leaving earns more."""
        trainer = Trainer(config)
        trainer.load_state_dict(newest_checkpoint(tmp_path / "checkpoints", refuse_to_tell)[1])
        return -play_episodes(Snapshot.of(trainer).policy, env, seed=0, conditions={}).score

    train(config, tmp_path, Console(quiet=True), callbacks=[GivesUp()])
    before = learned()
    result = train(dataclasses.replace(config, resume=str(tmp_path)), tmp_path, Console(quiet=True))
    assert result["steps"] == 92_160 and before < 40.0 and learned() > 70.0
