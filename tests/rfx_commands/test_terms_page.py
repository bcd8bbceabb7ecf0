"""docs/terms.md: its functions and commands work as they stand there."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import train.commands.train as entry
from envs.legged.env import LeggedEnv
from rfx.robot.files import ASSETS, load_robot
from rfx.robot.mirror import Mirror
from train.task.config import TrainConfig
from train.task.task import find_task

PAGE = (Path(__file__).parents[2] / "docs" / "terms.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A folder with the page's files, on Python's path."""
    folder, texts = tmp_path_factory.mktemp("page"), {}
    for kind, text in BLOCKS:
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", text)[1]
            texts[name] = texts.get(name, "") + text
    for name, text in texts.items():
        (folder / name).write_text(text)
    before, path = {*sys.modules}, [*sys.path]
    sys.path.append(str(folder))
    yield folder
    sys.path[:] = path
    for name in {*sys.modules} - before & {"my_terms", "my_task"}:
        del sys.modules[name]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_makes_what_it_says(command: str, folder: Path, tmp_path: Path, monkeypatch) -> None:
    found: list[TrainConfig] = []

    def train(config: TrainConfig, folder: Path, *_, **__) -> dict:
        found.append(config)
        return {"status": "finished", "exit_code": 0, "evaluation": None}

    python, m, module, *arguments = shlex.split(command)
    assert (python, m, module) == ("python", "-m", "train")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.runs.run.train", train)
    monkeypatch.setattr(sys, "argv", ["train", *arguments, *([] if "task=" in command else ["env.num_envs=8"])])
    entry.main()
    (config,) = found
    env = find_task(config.task)(config).make_env()
    env.reset(seed=0)
    for _ in range(3):
        observation, reward, *_ = env.step(np.zeros((env.num_envs, *env.single_action_space.shape), np.float32))
    assert np.isfinite(reward).all()
    if isinstance(env, LeggedEnv):
        named = re.search(r"my_terms:(\w+)", command)[1]
        assert named in str(config.env) or named in str(config.policy.critic_terms)


def test_the_robots_file_names_terms_that_have_a_mirror_image(folder: Path, tmp_path: Path) -> None:
    (text,) = (text for kind, text in BLOCKS if kind == "yaml")
    values = yaml.safe_load((ASSETS / "go2" / "robot.yaml").read_text()) | yaml.safe_load(text)
    values |= {"mjcf": str(ASSETS / "go2" / "go2.xml")}
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(values))
    robot = load_robot(tmp_path)
    assert robot.state_dim == 48 + 12 + 2
    state = np.random.default_rng(0).normal(size=(4, robot.state_dim)).astype(np.float32)
    mirror = Mirror(robot)
    np.testing.assert_array_equal(mirror.observation(mirror.observation(state)), state)


def test_the_task_is_judged(folder: Path) -> None:
    config = TrainConfig.from_dict({"task": "my_task:Pendulum", "trainer": {"rollout_steps": 64}})
    task = find_task("my_task:Pendulum")(config)
    judgement = task.judge(lambda observation: np.zeros((len(observation["state"]), 1), np.float32))
    assert -2000.0 < judgement.figures[0].value < 0.0 and judgement.score > 0.0
