"""Environments that do not do as Gymnasium asks: what can be taken is, and the rest is refused or told in one line."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gym_envs import BENDS, BREAKS
from gym_runs import config, sync
from gymnasium.vector import AutoresetMode
from rich.console import Console

from envs.gym.env import GymEnv
from envs.gym.make import make_in_turn, make_vector
from envs.settings.configs import merged
from train.judge.episodes import play_episodes
from train.ppo.errors import TrainingBroken
from train.runs.best import Snapshot
from train.runs.run import train
from train.runs.trainer import Trainer
from train.task.errors import InputError
from train.tasks.gym import LearningEnv

ROOT = Path(__file__).resolve().parents[2]


def stream(env: GymEnv, action: np.ndarray) -> list:
    """What eight steps of the same action give."""
    told = [env.reset(seed=0)[0].tolist()]
    for _ in range(8):
        observation, reward, terminated, truncated, info = env.step(action)
        finals = [row if row is None else row.tolist() for row in info.get("final_obs", [])]
        told.append([observation.tolist(), reward.tolist(), terminated.tolist(), truncated.tolist(), finals])
    return told


@pytest.mark.parametrize("bend", BENDS)
def test_numbers_that_are_given_in_another_shape_are_the_same_numbers(bend):
    bent = LearningEnv(make_in_turn("gym_envs:Bent-v0", 2, {"bend": bend}), "Bent-v0")
    action = np.full((2, 2), 0.5, np.float32)
    assert stream(bent, action) == stream(sync("gym_envs:Odd-v0", 2, AutoresetMode.SAME_STEP), action)


def test_a_vector_environment_may_give_columns_and_lists():
    envs = [LearningEnv(make_vector(f"gym_envs:{name}-v0", 3, {}), name) for name in ("BentDoor", "Door")]
    assert stream(envs[0], np.zeros((3, 1), np.float32)) == stream(envs[1], np.zeros((3, 1), np.float32))


@pytest.mark.parametrize(
    ("id", "width", "kwargs"), [*(("Bent", 2, {"bend": bend}) for bend in BREAKS), ("BentDoor", 1, {"wide": True})]
)
def test_too_many_or_too_few_numbers_are_refused_in_a_line_that_names_the_environment(id, width, kwargs):
    with pytest.raises(InputError, match=f"env.id={id}-v0 ") as error:
        env = LearningEnv(make_in_turn(f"gym_envs:{id}-v0", 2, kwargs), f"{id}-v0")
        stream(env, np.ones((2, width), np.float32))
    assert "\n" not in str(error.value)


def test_an_episode_that_does_not_end_is_cut_and_that_is_told(monkeypatch):
    """A Door that nobody leaves and that closes after 10^9 steps; one that closes after 5 plays 5."""
    monkeypatch.setattr("train.judge.episodes.LONGEST", 30)
    policy = Snapshot.of(Trainer(config("gym_envs:Door-v0", env={"num_envs": 2}, trainer={"rollout_steps": 8}))).policy
    for steps, length, cut in ((10**9, 30, {"cut_episodes": 3}), (5, 5, {})):
        env = LearningEnv(make_vector("gym_envs:Door-v0", 3, {"max_episode_steps": steps}), "Door-v0")
        env.env.step = functools.partial(stay, env.env, env.env.step)
        judgement = play_episodes(policy, env, seed=0, conditions={})
        assert judgement.figures[3].value == length == -judgement.score and judgement.conditions.items() >= cut.items()
        assert ("cut_episodes" in judgement.conditions) == bool(cut)
        assert ("3 of which did not end and were cut after 30 steps" in judgement.note) == bool(cut)


def stay(env, step, actions):
    """Act as who stays."""
    return step(np.abs(actions) * np.sign(env.shown))


@pytest.mark.parametrize(
    ("kwargs", "where"),
    [
        ({"value": float("nan"), "fail_at": 40}, "environment 2 gave nan as entry 1 of its "),
        ({"value": float("inf"), "fail_at": 40}, "environment 2 gave inf as entry 1 of its "),
        ({"fail_at": 39}, "environment 2 gave nan as entry 1 of its "),
        ({"fail_at": 0}, "environment 2 gave nan as entry 1 of its "),
        ({"fail_at": 40, "reward": True}, "environment 2 gave nan as its reward"),
    ],
)
def test_a_number_that_is_not_finite_ends_the_run_before_the_policy_acts_on_it(kwargs, where, tmp_path):
    """At the end of an episode of 5 steps, within one, and at the beginning; what was learned is kept, and gone on
    with.
    """
    changed = {
        "env": {"num_envs": 4, "kwargs": kwargs},
        "trainer": {"rollout_steps": 8, "total_steps": 256, "checkpoint_every": 32},
    }
    result = train(broken := config("gym_envs:Blind-v0", **changed), tmp_path, Console(quiet=True))
    assert result["status"] == "failed" and result["exit_code"] == 1
    assert where in result["error"] and "\n" not in result["error"]
    fail_at, newest = kwargs["fail_at"], max(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert result["steps"] == max(0, fail_at - 1) // 8 * 32 == int(newest)
    mended = dataclasses.replace(broken, resume=str(tmp_path))
    if fail_at == 40:  # its steps count from the resumption on, and there are fewer than that left
        assert train(mended, tmp_path, Console(quiet=True))["status"] == "finished"


def test_nor_does_a_policy_act_on_one_where_it_is_judged():
    trainer = Trainer(config("gym_envs:Blind-v0", env={"num_envs": 3}, trainer={"rollout_steps": 8}))
    for kwargs in ({"fail_at": 2}, {"fail_at": 2, "reward": True}):
        env = LearningEnv(make_vector("gym_envs:Blind-v0", 3, kwargs), "Blind-v0")
        with pytest.raises(TrainingBroken, match="environment 2 gave nan as "):
            play_episodes(Snapshot.of(trainer).policy, env, seed=0, conditions={})


@pytest.mark.parametrize(
    ("id", "changed", "message"),
    [
        ("HalfCheeta-v5", {}, "env.id=HalfCheeta-v5: .* did you mean 'HalfCheetah-v5'?"),
        ("HalfCheetah-v99", {}, "env.id=HalfCheetah-v99: "),
        ("no_such_module:X-v0", {}, "env.id=no_such_module:X-v0: .*'no_such_module'"),
        ("gym_envs:Strange-v0", {}, r"env.id=gym_envs:Strange-v0: got observations of Discrete\(3\); expected a Box"),
        (
            "HalfCheetah-v5",
            {"env": {"kwargs": {"ctrl_cost": 1.0}}},
            "env.id=HalfCheetah-v5 cannot be made: .*no option 'ctrl_cost': did you mean 'ctrl_cost_weight'?",
        ),
        (
            "Pendulum-v1",
            {"env": {"kwargs": {"gravity": 1.0}}},
            "env.id=Pendulum-v1 cannot be made: TypeError: .*gravity",
        ),
        (
            "Pendulum-v1",
            {"policy": {"symmetric": True}},
            "policy.symmetric is True: a Gymnasium environment has no more",
        ),
        (None, {}, "no environment given: env.id=ID"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(id, changed, message):
    with pytest.raises(ValueError, match=message) as error:
        Trainer(config(id or "x", **merged(changed, {"env": {"id": id}})))
    assert "\n" not in str(error.value)


def command(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.run(
        [sys.executable, "-m", "train", "+robot=gym", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def test_an_environment_that_raises_in_its_process_ends_the_run(tmp_path):
    """One line, exit code 2; that the command returns shows that no process is left which holds its output open."""
    done = command(
        "env.id=gym_envs:Wet-v0",
        "env.num_envs=2",
        "trainer.rollout_steps=8",
        "ppo.num_minibatches=2",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert (
        line == "error: env.id=gym_envs:Wet-v0 raised RuntimeError: the sensor is wet"
        and "Traceback" not in done.stderr
    )
