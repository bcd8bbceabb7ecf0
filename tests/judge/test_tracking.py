"""Reached against commanded velocity: on a robot whose errors are known, and what comes of it in scores, tables and
files.
"""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from envs.legged.config import EnvConfig
from rfx import GO2_CONFIG
from train.judge.evaluation import evaluate
from train.judge.play import evaluation_env
from train.judge.targets import evaluation_targets
from train.judge.tracking import Curve, command_ranges, track

TASK = EnvConfig.load("go2")
RANGES = {"uniform_velocity": {"vx": (-0.6, 1.0), "vy": (-0.4, 0.4), "yaw_rate": (-0.8, 0.8)}}


class Sluggish:
    """An environment of robots that take half a second, and then reach 1.3 times vx above 0.3 m/s, vy as asked, and
    turn by 0.1 rad/s too much.

    Robot i is besides faster by 0.01 * (-1) ** (i // 21), which is noise between the robots of a point. Robots of falls
    never stand for a second.
    """

    step_s = 0.02

    def __init__(self, num_envs, falls=()):
        self.num_envs, self.config, self.falls = num_envs, SimpleNamespace(commands=RANGES), list(falls)
        robot = SimpleNamespace(
            velocity_command=np.zeros((num_envs, 3), np.float32), base_angular_velocity_b=np.zeros((num_envs, 3))
        )
        self.state = SimpleNamespace(
            robot=robot, base_linear_velocity_b=np.zeros((num_envs, 3)), step=np.zeros(num_envs, int)
        )
        self.pushed = False

    def reset(self, seed):
        return {"state": np.zeros((self.num_envs, 1))}, {}

    def spread_pushes(self):
        self.pushed = True

    def step(self, actions):
        state, command = self.state, self.state.robot.velocity_command
        state.step += 1
        state.step[self.falls] = 0
        settled = (state.step > 25)[:, None]
        asked = np.where(settled, command, 9.0)  # before that far off
        aside = 0.01 * (-1.0) ** (np.arange(self.num_envs) // 21)
        state.base_linear_velocity_b[:, 0] = np.where(asked[:, 0] > 0.3, 1.3, 1.0) * asked[:, 0] + aside
        state.base_linear_velocity_b[:, 1] = asked[:, 1]
        state.robot.base_angular_velocity_b[:, 2] = asked[:, 2] + 0.1
        none = np.zeros(self.num_envs, bool)
        return {"state": np.zeros((self.num_envs, 1))}, none, none, none, {}


def test_the_curve_is_what_the_robot_reaches_and_its_worst_point_is_not_averaged_away():
    env = Sluggish(42)
    curves = track(lambda observation: None, env, seed=0)
    vx, vy, yaw_rate = (curves[axis] for axis in ("vx", "vy", "yaw_rate"))
    np.testing.assert_allclose(vx.command, [-0.6, -1 / 3, -0.2 / 3, 0.2, 1.4 / 3, 2.2 / 3, 1.0], atol=1e-6)
    np.testing.assert_allclose(vx.reached, [-0.6, -1 / 3, -0.2 / 3, 0.2, 1.82 / 3, 2.86 / 3, 1.3], atol=1e-6)
    assert vx.worst == pytest.approx(0.3, abs=1e-6) and np.mean(np.abs(vx.reached - vx.command)) < 0.1
    assert vy.worst == pytest.approx(0.0, abs=1e-6) and yaw_rate.worst == pytest.approx(0.1, abs=1e-6)
    np.testing.assert_allclose(vx.standard_error, 0.01, rtol=1e-4)  # of 1.01 and 0.99: 0.01414 / sqrt(2)
    assert vx.worst_upper_95 == pytest.approx(0.3 + 1.64485 * 0.01, abs=1e-5)
    assert not env.pushed, "pushes would hide what is systematic"


def test_where_no_robot_stands_nothing_is_claimed():
    curve = track(lambda observation: None, Sluggish(21, falls=[6]), seed=0)["vx"]  # the one that is asked for 1 m/s
    assert (
        math.isnan(curve.reached[6])
        and curve.worst == pytest.approx(0.3 * 2.2 / 3 + 0.01, abs=1e-6)
        and curve.to_dict()["reached"][6] is None
    )
    assert math.isnan(curve.worst_upper_95)  # one robot a point bounds nothing


def test_few_robots_have_fewer_commands_and_none_have_none():
    assert [len(track(lambda observation: None, Sluggish(num), seed=0)["vy"].command) for num in (3, 8, 20, 64)] == [
        1,
        2,
        6,
        7,
    ]
    assert track(lambda observation: None, Sluggish(2), seed=0) == {}


def test_ranges_are_those_of_the_task():
    assert command_ranges(RANGES) == {"vx": (-0.6, 1.0), "vy": (-0.4, 0.4), "yaw_rate": (-0.8, 0.8)}
    assert command_ranges({"own": {"term": "walk_to", "vx": [0.0, 2.0], "goal_m": 3.0}}) == {"vx": (0.0, 2.0)}


@pytest.fixture(scope="module")
def standing():
    env = evaluation_env(TASK, GO2_CONFIG, num_envs=21, threads=1)
    return evaluate(lambda observation: np.zeros((21, 12), np.float32), env, seed=0, duration_s=1.4, tracking=True)


def test_a_robot_that_stands_misses_the_fastest_command_by_all_of_it(standing):
    assert standing.worst_vx == pytest.approx(1.0, abs=0.02) and standing.worst_vy == pytest.approx(0.4, abs=0.02)
    assert standing.worst_yaw_rate == pytest.approx(0.8, abs=0.02)


def test_the_worst_counts_in_score_figures_targets_and_file(standing):
    without = dataclasses.replace(standing, tracking={})
    assert standing.score == pytest.approx(
        without.score + standing.worst_vx + standing.worst_vy + standing.worst_yaw_rate
    )
    shown = {figure.name: figure.value for figure in standing.figures}
    assert shown["worst_vx"] == standing.worst_vx and not {"worst_vx", "worst_vy"} & {
        figure.name for figure in without.figures
    }
    written = standing.to_dict()
    json.dumps(written, allow_nan=False)
    assert (
        written["worst_vx"] == standing.worst_vx
        and len(written["tracking"]["vx"]["reached"]) == 7
        and "tracking" not in without.to_dict()
    )
    good = Curve(command=np.array([0.0, 1.0]), reached=np.array([0.01, 0.97]), standard_error=np.array([0.01, 0.005]))
    limits = (0.02, 0.1, 0.1, 0.1)
    bad = evaluation_targets(standing, limits)[4]
    met = evaluation_targets(dataclasses.replace(standing, tracking={"vx": good}), limits)[4]
    assert (
        not bad.met
        and met.met
        and met.value == pytest.approx(0.03)
        and met.bound_95 == pytest.approx(0.03 + 1.64485 * 0.005, abs=1e-5)
    )
    assert len(evaluation_targets(without, limits)) == 4


def test_the_curve_is_drawn_with_what_was_not_measured_left_out(standing):
    pytest.importorskip("matplotlib", reason="extra viz is not installed")
    from train.judge.plots import tracking

    hole = track(lambda observation: None, Sluggish(21, falls=[6]), seed=0)
    suites = {
        "standing": SimpleNamespace(nominal=standing),
        "sluggish": SimpleNamespace(nominal=SimpleNamespace(tracking=hole)),
    }
    assert tracking(suites).startswith(b"\x89PNG") and tracking(
        {"none": SimpleNamespace(nominal=SimpleNamespace(tracking={}))}
    )
