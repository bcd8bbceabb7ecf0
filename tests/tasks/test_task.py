"""A task is a seam: another one trains, is judged, shown, resumed and swept without a line changed; and only like
continues like.
"""

import ast
import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gym_task import GymTask
from gymnasium.vector import SyncVectorEnv
from rich.console import Console
from tiny_run import make_config, refuse_to_tell

import rfx
from rfx import GO2_CONFIG
from train.runs.checkpoint import newest_checkpoint
from train.runs.run import train
from train.runs.trainer import Trainer
from train.sweeps.sweep import finish_sweep
from train.task import task as task_module
from train.task.config import TrainConfig
from train.task.errors import InputError
from train.task.task import Figure, figures_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def gym(monkeypatch):
    monkeypatch.setitem(task_module.TASKS, "gym", "gym_task:GymTask")


def config(id="Pendulum-v1", **changed) -> TrainConfig:
    values = {
        "task": "gym",
        "env": {"id": id},
        "policy": {"hidden": [32]},
        "ppo": {"num_epochs": 4, "num_minibatches": 4},
        "trainer": {
            "rollout_steps": 64,
            "total_steps": 2048,
            "evaluate_every": 1024,
            "evaluation_envs": 2,
            "final_evaluation_envs": 3,
        },
    }
    for key, value in changed.items():
        group, _, name = key.rpartition(".")
        (values[group] if group else values)[name] = value
    return TrainConfig.from_dict(values)


def run(config: TrainConfig, folder: Path) -> tuple[dict, str]:
    file = io.StringIO()
    return train(config, folder, Console(file=file, width=200)), file.getvalue()


def test_another_task_trains_and_everything_shows_its_figures(tmp_path):
    result, shown = run(config(), tmp_path / "0")
    assert result["status"] == "finished" and result["steps"] == 2048
    evaluation = json.loads((tmp_path / "0" / "evaluation.json").read_text())
    assert evaluation == result["evaluation"] and evaluation.keys() == {"return", "length", "id", "num_envs", "score"}
    assert evaluation["score"] == -evaluation["return"] and evaluation["length"] == 200 and evaluation["num_envs"] == 3
    line = next(line for line in shown.splitlines() if line.startswith("2,048 of 2,048 steps"))
    assert "return -" in line and "length 200 steps" in line and "falls" not in shown and "error vx" not in shown
    assert re.search(r"^evaluated +1,024  return -[0-9.]+  saved$", shown, re.MULTILINE)
    assert re.search(rf"^return +{evaluation['return']:.1f} *$", shown, re.MULTILINE) and re.search(
        "^episode length +200  steps", shown, re.MULTILINE
    )
    assert "look      rfx inspect" in shown and "deploy" not in shown
    policy = rfx.load_policy(tmp_path / "0" / "policy")
    assert (
        policy.robot_config is None
        and policy.training_info["task"] == "gym"
        and policy.training_info["env"]["id"] == "Pendulum-v1"
    )
    assert policy({"state": np.zeros((2, 3), np.float32)}).shape == (2, 1)
    (tmp_path / "0" / "result.json").write_text(json.dumps(result | {"overrides": ["seed=0"]}))
    file = io.StringIO()
    assert finish_sweep(tmp_path, Console(file=file, width=80)) == 0
    (row,) = csv.DictReader((tmp_path / "sweep.csv").open())
    assert (
        float(row["return"]) == evaluation["return"]
        and row["length"] == "200.0"
        and f"{evaluation['return']:.1f}" in file.getvalue()
    )


def test_without_a_state_of_its_own_an_environment_begins_episodes_anew_when_the_run_goes_on(tmp_path):
    run(config(), tmp_path / "run")
    _, before = newest_checkpoint(tmp_path / "run" / "checkpoints", refuse_to_tell)
    assert not any(name.startswith(("env.", "observation.", "episodes.")) for name in before)
    longer = config(**{"trainer.total_steps": 3072, "resume": str(tmp_path / "run"), "resume_overrides": True})
    result, _ = run(longer, tmp_path / "run")
    assert result["status"] == "finished" and result["steps"] == 3072


def test_return_and_length_are_counted_for_any_environment_and_carried_on_by_the_checkpoint():
    trainer = Trainer(config(id="CartPole-v1"))
    metrics = trainer.iterate()
    rewards, ended = trainer.rollout.reward, trainer.rollout.terminated | trainer.rollout.truncated
    lengths, running = [], np.zeros(8, int)
    for done in ended:
        running += 1
        lengths += running[done].tolist()
        running[done] = 0
    assert len(lengths) > 5 and metrics["episode/length"] == pytest.approx(np.mean(lengths))
    assert (
        metrics["episode/return"] == pytest.approx(np.mean(lengths)) and (rewards == 1.0).all()
    )  # a pole earns 1 a step
    np.testing.assert_array_equal(trainer.episodes.state_dict()["length"], running)
    legged = Trainer(make_config())
    legged.iterate()
    other = Trainer(make_config())
    other.load_state_dict(legged.state_dict())
    np.testing.assert_array_equal(other.episodes.running_return, legged.episodes.running_return)
    mine, theirs = legged.iterate(), other.iterate()
    assert {name: value for name, value in mine.items() if not name.startswith("time/")} == {
        name: value for name, value in theirs.items() if not name.startswith("time/")
    }


def test_discrete_actions_are_learned_through_a_wrapper():
    trainer = Trainer(
        config(id="CartPole-v1", **{"trainer.total_steps": 40_960, "trainer.rollout_steps": 128, "ppo.gamma": 0.99})
    )
    lengths = [trainer.iterate().get("episode/length", 0.0) for _ in range(40)]
    assert lengths[0] < 40 and max(lengths[-5:]) > 4 * lengths[0]


def test_a_privileged_critic_reads_what_any_environment_tells_it():
    trainer = Trainer(config(**{"env.tell_critic": True, "policy.critic": "privileged"}))
    metrics = trainer.iterate()
    assert trainer.policy.critic_dim == 3 and np.isfinite(list(metrics.values())).all()
    np.testing.assert_array_equal(trainer.rollout.raw_critic_observation, trainer.rollout.raw_observation)
    with pytest.raises(ValueError, match="expected a Box of one axis as 'critic', for policy.critic=privileged"):
        Trainer(config(**{"policy.critic": "privileged"}))


class NextStep(GymTask):
    def make_env(self):
        return SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1")] * 8)


class Unbounded(GymTask):
    def make_env(self):
        return super().make_env().env


class Pictures(GymTask):
    def make_env(self):
        env = super().make_env()
        env.single_observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
        return env


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (NextStep, "expected AutoresetMode.SAME_STEP"),
        (Pictures, "expected a Box of one axis as 'state'"),
        (Unbounded, r"got actions of Box\(-2.0, 2.0.*expected a Box of one axis in \[-1, 1\]"),
    ],
)
def test_an_environment_that_cannot_be_learned_in_says_what_it_lacks(task, message):
    with pytest.raises(ValueError, match=message):
        Trainer(config(), task(config()))


def test_a_symmetric_policy_needs_a_task_with_a_mirror():
    with pytest.raises(ValueError, match="Pendulum-v1 has no mirror"):
        Trainer(config(**{"policy.symmetric": True}))


def test_figures_stand_side_by_side_and_what_was_not_measured_is_a_dash():
    one = (Figure(name="a", label="first", unit="m", value=1.0), Figure(name="b", label="second", value=float("nan")))
    other = (Figure(name="a", label="first", unit="m", value=2.5, format=".1f"),)
    file = io.StringIO()
    Console(file=file, width=80).print(figures_table({"x": one, "y": other}))
    assert [line.split() for line in file.getvalue().splitlines()] == [
        ["x", "y"],
        ["first", "1.000", "2.5", "m"],
        ["second", "-", "-"],
    ]


@pytest.mark.parametrize(
    ("robot", "told"),
    [
        (dataclasses.replace(GO2_CONFIG, gait_freq_hz=2.0), "robot.gait_freq_hz was 2.5, is 2.0"),
        (
            dataclasses.replace(
                GO2_CONFIG, observation_terms=(*GO2_CONFIG.observation_terms[1::-1], *GO2_CONFIG.observation_terms[2:])
            ),
            "robot.observation_terms was ['joint_position', 'joint_velocity', .* is ['joint_velocity', 'joint_position',",
        ),
        (
            dataclasses.replace(
                GO2_CONFIG,
                joints=(
                    *GO2_CONFIG.joints[:2],
                    dataclasses.replace(GO2_CONFIG.joints[2], kp=40.0),
                    *GO2_CONFIG.joints[3:],
                ),
            ),
            "robot.joints.FR_calf_joint.kp was 35.0, is 40.0",
        ),
    ],
)
def test_a_network_of_the_same_shape_that_means_something_else_is_refused(robot, told, tmp_path, monkeypatch):
    folder, quiet = tmp_path / "run", Console(quiet=True)
    small = {"trainer.total_steps": 64, "trainer.evaluation_s": 0.1, "trainer.final_evaluation_s": 0.1}
    train(make_config(**small), folder, quiet)
    monkeypatch.setattr("train.tasks.legged.load_robot", lambda name: robot)
    for changed, words in (
        ({"start_from": str(folder)}, f"start_from={folder}: its network was trained for something else: "),
        (
            {"resume": str(folder), "trainer.total_steps": 128, "resume_overrides": True},
            "this checkpoint does not fit: ",
        ),
    ):
        with pytest.raises(InputError) as error:
            train(make_config(**small | changed), folder if "resume" in changed else tmp_path / "next", quiet)
        text = str(error.value)
        assert (
            text.startswith(words)
            and all(part in text for part in told.split(" .* "))
            and "\n" not in text
            and len(text) < 700
        )


def test_a_robots_name_and_hardware_may_differ(tmp_path, monkeypatch):
    folder, quiet = tmp_path / "run", Console(quiet=True)
    small = {"trainer.total_steps": 64, "trainer.evaluation_s": 0.1, "trainer.final_evaluation_s": 0.1}
    train(make_config(**small), folder, quiet)
    twin = dataclasses.replace(GO2_CONFIG, name="twin", hardware={"interface": "eth1"})
    monkeypatch.setattr("train.tasks.legged.load_robot", lambda name: twin)
    assert (
        train(make_config(**small, robot="twin", start_from=str(folder)), tmp_path / "next", quiet)["status"]
        == "finished"
    )


def test_the_trainer_and_what_keeps_a_run_know_no_task_and_no_robot():
    rooms = ("ppo", "task", "scale", "runs")
    files = [path for room in rooms for path in (ROOT / "train" / room).glob("*.py") if path.name != "errors.py"]
    assert len(files) > 25
    for path in files:
        modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not [
            name for name in modules if name.startswith(("envs", "rfx.drivers", "train.judge", "train.tasks"))
        ], path
        assert "error_vx" not in path.read_text() and "falls" not in path.read_text(), path
