"""docs/policy_inputs.md says what the code does: columns, noise, normalizer, history and action."""

import re
from pathlib import Path

import numpy as np
import pytest

import rfx
from envs.legged.config import EnvConfig
from envs.settings.configs import compose
from rfx.robot.config import joint_targets
from rfx.robot.observe import observe, term_widths
from rfx.robot.state import RobotState

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "policy_inputs.md").read_text()
GO2 = rfx.load_robot("go2")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    table = re.search(r"^\|.*?(?=\n\n)", PAGE[PAGE.index(heading) :], re.MULTILINE | re.DOTALL)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_columns_are_those_of_the_terms():
    start, expected = 0, []
    for name, width in zip(GO2.observation_terms, term_widths(GO2)):
        expected.append((f"{start} to {start + width - 1}", f"`{name}`"))
        start += width
    padding = (f"{start} to {GO2.max_state_dim - 1}", "")
    assert [(columns, name) for columns, name, *_ in rows("## The observation")] == [*expected, padding]
    state = RobotState.zeros(GO2, 1)
    state.velocity_command[0] = 1.0, 2.0, 3.0
    assert observe(state)[0, 30:33].tolist() == [1, 2, 3] and not observe(state)[0, 48:].any()
    assert f"observed {GO2.control_freq_hz:g} times a second" in PAGE and f"{GO2.gait_freq_hz:g} Hz" in PAGE


def test_noise_and_commands_are_those_of_the_task():
    task = EnvConfig.load("go2")
    said = {name.strip("`"): float(noise) for _, name, _, _, noise in rows("## The observation") if noise}
    assert said == dict(task.noise)
    (command,) = task.commands.values()
    said = "{} to {} m/s forward, {} to {} m/s to the left and {} to {} rad/s"
    assert said.format(*command["vx"], *command["vy"], *command["yaw_rate"]) in PAGE


def test_the_normalizer_does_as_the_page_says():
    normalizer = rfx.ObservationNormalizer(2)
    data = np.float32([[1, 5], [3, 5], [8, 5]])
    normalizer.update(data)
    x = np.float32([[6, 7], [1e4, 5]])
    expected = np.clip(
        (x - data.mean(axis=0)) / [np.sqrt(data[:, 0].var() + 1e-8), 1.0], -10, 10
    )  # the second was constant
    np.testing.assert_allclose(normalizer.normalize(x), expected, rtol=1e-6)
    assert "variance + 1e-8), -10, 10)" in PAGE and normalizer.eps == 1e-8 and normalizer.clip == 10.0


def test_the_history_of_the_preset_is_what_the_page_says():
    assert compose("preset", "deploy")["policy"]["history"] == 3 and "`preset=deploy` has a history of 3" in PAGE
    assert compose("tasks", "legged")["policy"].get("history", 1) == 1


@pytest.mark.parametrize("joint", range(3))
def test_an_action_is_what_the_page_says(joint):
    default, lower, upper = rows("## The action")
    ends = [
        re.findall(r"-?[\d.]+", cells[joint + 1]) for cells in (lower, upper)
    ]  # of front and rear, where they differ
    for leg in range(4):
        index = 3 * leg + joint
        low, high = (float(end[min(leg // 2, len(end) - 1)]) for end in ends)
        for action in (-1.0, -0.2, 0.0, 0.3, 1.0):
            actions = np.zeros((1, 12), np.float32)
            actions[0, index] = action
            target = np.clip(float(default[joint + 1]) + 0.5 * action, low, high)
            assert joint_targets(GO2, actions)[0, index] == pytest.approx(target, abs=1e-6)
        assert [float(GO2.joint_range[end][index]) for end in (0, 1)] == pytest.approx([low, high], abs=1e-6)
    assert {GO2.joints[0].kp, GO2.joints[0].kd} == {
        35.0,
        0.5,
    } and "= 35 N m/rad x (target - position) - 0.5 N m s/rad" in PAGE
