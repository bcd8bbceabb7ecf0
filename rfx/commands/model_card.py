"""Writes a policy's page on the Hugging Face Hub from the contents of its folder."""

from __future__ import annotations

import html
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rfx.policy.folder import PolicyInfo, inspect_policy, local_folder
from rfx.system.text import printable

README, PICTURE = "README.md", "robot.png"
WALK_S, WALK_M_S = 1.5, 0.5
FRONT = """---
library_name: rfx
pipeline_tag: reinforcement-learning
tags:
- robotics
- reinforcement-learning
- mujoco
- legged-locomotion
---
"""


def card_files(source: str | Path, repo_id: str, tell: Callable[[str], None]) -> dict[str, bytes]:
    """Make the card of the policy folder source, and a picture if the robot can be simulated and drawn.

    Without a picture, tell is called with the reason. Raises like `inspect_policy`.
    """
    folder, files = local_folder(source), {}
    info = inspect_policy(folder)
    try:
        if info.robot_config is None:
            raise ValueError("the folder says no robot")
        files[PICTURE] = _walking(folder)
    except (OSError, ValueError, RuntimeError, ImportError, ArithmeticError) as error:
        tell(f"the page has no picture: {' '.join(str(error).split())}")
    return {README: model_card(info, repo_id, find_evaluation(info), picture=PICTURE in files).encode(), **files}


def model_card(
    info: PolicyInfo, repo_id: str, evaluation: Mapping[str, Any] | None = None, picture: bool = False
) -> str:
    """Write the card in Markdown: the robot and its task, the unchanged figures of the evaluation, and how to run it.

    picture says whether the file PICTURE exists.
    """
    robot, training = info.robot_config, info.training_info
    about = {
        "network": f"{info.policy_type}, {sum(math.prod(shape) for shape in info.weight_shapes.values()):,} weights"
    }
    if robot is not None:
        about |= {
            "robot": f"{robot.name}, {len(robot.joints)} joints",
            "control rate": f"{robot.control_freq_hz:g} Hz",
            "observation": f"{robot.state_dim} numbers: {', '.join(robot.observation_terms)}",
            "gains": f"kp {_range(robot.joint_array('kp'))}, kd {_range(robot.joint_array('kd'))}",
        }
        if "history" in info.arguments:
            about["observation"] = f"the last {info.arguments['history']} of {about['observation']}"
    about |= {name: training[name] for name in ("task", "seed", "steps", "wall_s") if name in training}
    env = training.get("env")
    about |= {
        name: json.dumps(env[name]) for name in ("commands", "terrain") if isinstance(env, Mapping) and env.get(name)
    }
    title = training.get("name") or (robot.name if robot else repo_id.partition("/")[2])
    sections = [f"# {_text(title)}", "A policy that rfx trained with PPO, in MuJoCo."]
    sections += [f"![the robot, under this policy]({PICTURE})"] if picture else []
    sections += [_table(("", "this policy"), {"rfx": info.rfx_version, **about})]
    if evaluation:
        sections += ["## Evaluation", _table(("figure", "value"), _figures(evaluation))]
    sections += [
        "## Run it",
        "In a checkout of rfx:",
        "```sh\npip install -e '.[hub]'\n"
        f"rfx inspect hf://{repo_id}\nrfx deploy hf://{repo_id} --robot sim\npython -m train.evaluate policy=hf://{repo_id}\n```",
        "They say which commit that was; `@COMMIT` behind the source asks for the same one again. "
        "Loading runs no code from this repository: it holds JSON and safetensors.",
    ]
    return FRONT + "\n" + "\n\n".join(sections) + "\n"


def find_evaluation(info: PolicyInfo) -> Mapping[str, Any] | None:
    """Find the figures of a policy's evaluation.

    They come from evaluation.json beside the policy folder. If that file is missing or names another policy, they are
    the figures that training wrote into the folder.
    """
    path = info.path.parent / "evaluation.json"
    try:
        evaluation = json.loads(path.read_text())
        if isinstance(evaluation, dict) and Path(str(evaluation.get("policy", info.path))).name == info.path.name:
            return evaluation
    except (OSError, ValueError):
        pass
    evaluation = info.training_info.get("evaluation")
    return evaluation if isinstance(evaluation, dict) else None


def _walking(folder: Path) -> bytes:
    """Draw the robot while it walks under the policy, as PNG."""
    from rfx.check.show import draw
    from rfx.drivers.sim import SimRobot
    from rfx.loading.loaded_policy import load_policy

    policy = load_policy(folder)
    with SimRobot(policy.robot_config) as robot, tempfile.TemporaryDirectory() as temporary:
        robot.command(WALK_M_S, 0.0, 0.0)
        for _ in range(round(WALK_S * policy.robot_config.control_freq_hz)):
            robot.act(policy(robot.observe()))
        path = Path(temporary) / PICTURE
        draw(policy.robot_config, path, robot.physics.data.qpos)
        return path.read_bytes()


def _figures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of an evaluation, without comparisons to other policies; groups of numbers, like commands, as JSON."""
    numbers = {
        name: f"{value:.4g}" if isinstance(value, float) else value
        for name, value in evaluation.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return numbers | {name: json.dumps(evaluation[name]) for name in ("commands",) if evaluation.get(name)}


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    return "\n".join(lines + [f"| {_text(name)} | {_text(value)} |" for name, value in rows.items()])


def _range(values: Any) -> str:
    return f"{values.min():g}" if values.min() == values.max() else f"{values.min():g} to {values.max():g}"


def _text(value: Any) -> str:
    """Return a value from the folder as Markdown that shows as plain text."""
    return "".join(
        "\\" + character if character in "\\`*_[]|#" else character
        for character in html.escape(printable(value), quote=False)
    )
