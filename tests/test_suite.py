"""The full evaluation: conditions are what they say, figures equal those known by hand, and the report holds all of it."""

import base64
import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import mujoco
import numpy as np
import pytest
from rich.console import Console

from envs.legged.config import EnvConfig
from envs.legged.simulation import Simulation
from rfx import GO2_CONFIG, ObservationNormalizer
from rfx.nn import ActorCritic
from rfx.robot_files import find_mjcf
from train.judge import showcase, suite
from train.judge.crossings import Crossings
from train.errors import InputError
from train.evaluate import EvaluateConfig, names_of, run
from train.judge.evaluation import evaluate
from train.judge.play import evaluation_env
from train.judge.report import Judged, page
from train.judge.suite import DIRECTIONS, SWEEPS, Grid, Pushes, Runner, Suite, targets

TASK = EnvConfig.load("go2", timestep_s=0.005)


def stand(observation: np.ndarray) -> np.ndarray:
    return np.zeros((len(observation), 12), np.float32)


def throw_over(observation: np.ndarray) -> np.ndarray:
    """Legs away on one side."""
    return np.tile(np.array([-1, 1, 1, -1, -1, -1] * 2, np.float32), (len(observation), 1))


def runner(act=stand, num_envs=8, duration_s=1.2, **options) -> Runner:
    return Runner(act, TASK, GO2_CONFIG, num_envs=num_envs, duration_s=duration_s, seed=0, **options)


@pytest.mark.parametrize(("sweep", "value", "expected"), [
    ("friction", 0.4, lambda env: env.simulation.batch.get_model(1).geom("floor").friction[0] == 0.4),
    ("payload", 3.0, lambda env: env.simulation.batch.get_model(1).body("base").mass[0] == pytest.approx(6.921 + 3.0)),
    ("latency", 20.0, lambda env: (env.simulation.latency == 4).all()),
    ("latency", 5.0, lambda env: (env.simulation.latency == 1).all()),
    ("timestep", 1.0, lambda env: env.simulation.model.opt.timestep == 0.001 and env.simulation.num_substeps == 20),
])
def test_a_condition_makes_robots_that_differ_as_it_says(sweep, value, expected):
    env = runner()._env(**SWEEPS[sweep].task(value))
    env.reset(seed=0)
    assert expected(env)
    assert env.sensing.state.joint_position is not None and not env.config.noise and not env.config.pushes


@pytest.mark.parametrize("name", ["friction", "payload", "latency", "timestep"])
def test_at_its_nominal_value_a_condition_is_the_nominal_evaluation_to_the_bit(name):
    nominal = evaluate(stand, evaluation_env(TASK, GO2_CONFIG, num_envs=8), seed=0, duration_s=1.2)
    value = 5.0 if name == "timestep" else SWEEPS[name].nominal
    assert value in SWEEPS[name].values
    assert runner()._evaluate("", **SWEEPS[name].task(value)) == nominal


def test_a_standing_robots_errors_over_the_grid_are_the_commands(monkeypatch):
    monkeypatch.setattr(suite, "GRID_S", 1.5)
    grid = runner(num_envs=170).grid()
    assert grid.error_vx.shape == (9, 9) and grid.vx[[0, -1]].tolist() == [-0.6, 1.0] and grid.yaw_rate[[0, -1]].tolist() == [-0.8, 0.8]
    np.testing.assert_allclose(grid.error_vx, np.tile(np.abs(grid.vx)[:, None], (1, 9)), atol=0.03)
    np.testing.assert_allclose(grid.error_yaw_rate, np.tile(np.abs(grid.yaw_rate), (9, 1)), atol=0.05)
    assert (grid.error_vy < 0.03).all() and not grid.falls_per_episode.any()


def test_a_robot_that_never_stands_has_no_errors_and_many_falls(monkeypatch):
    monkeypatch.setattr(suite, "GRID_S", 1.0)
    monkeypatch.setattr(suite, "GRID_SIZE", 2)
    grid = runner(throw_over).grid()
    assert np.isnan(grid.error_vx).all() and (grid.falls_per_episode >= 10).all()  # one of two robots in 1 s, or more


def test_pushes_come_from_around_the_robot_and_have_the_size_they_say(monkeypatch):
    pushed = []
    push = Simulation.push

    def recorded(self, ids, change):
        heading = np.zeros((len(ids), 9))
        for row, qpos in zip(heading, self.batch.qpos[ids]):
            mujoco.mju_quat2Mat(row, qpos[3:7])
        forwards = heading.reshape(-1, 3, 3)[:, :2, 0]
        pushed.append((np.arctan2(change[:, 1], change[:, 0]) - np.arctan2(forwards[:, 1], forwards[:, 0]), np.linalg.norm(change, axis=1)))
        push(self, ids, change)

    monkeypatch.setattr(Simulation, "push", recorded)
    monkeypatch.setattr(suite, "WALK_S", 1.2)
    monkeypatch.setattr(suite, "RECOVER_S", 0.1)
    survived = runner(num_envs=16)._survived(0.6)
    (angle, size), = pushed
    np.testing.assert_allclose(np.exp(1j * angle), np.exp(2j * np.pi * (np.arange(16) % 8) / 8), atol=1e-6)
    np.testing.assert_allclose(size, 0.6)
    assert survived.tolist() == [1.0] * 8


def test_pushes_grow_until_hardly_a_robot_survives(monkeypatch):
    survival = {0.2: 1.0, 0.4: 0.9, 0.6: 0.04}
    one = runner()
    monkeypatch.setattr(one, "_survived", lambda speed: np.full(DIRECTIONS, survival[round(speed, 3)]))
    result = one.pushes()
    assert result.speed_m_s.tolist() == [0.2, 0.4, 0.6]
    assert result.share(0.4) == pytest.approx(0.9) and result.share(0.8) == 0.0


def test_large_pushes_fell_a_standing_robot(monkeypatch):
    monkeypatch.setattr(suite, "WALK_S", 1.2)
    monkeypatch.setattr(suite, "RECOVER_S", 2.0)
    survived = runner(num_envs=16)._survived(3.0)
    assert survived[[2, 6]].max() == 0.0  # from the sides


def test_drift_is_how_far_the_base_went_and_infinite_after_a_fall(monkeypatch):
    monkeypatch.setattr(suite, "STAND_S", 1.0)
    assert 0.0 < runner().drift() < 0.05
    assert runner(throw_over).drift() == math.inf


CROSSINGS = Crossings(kinds=("rough", "gaps"), falls=np.array([[0.1, 0.0], [0.2, 0.0], [0.1, 0.2]]),
                      crossed=np.array([[0.9, 1], [0.8, 1], [0, 0]]), error=np.array([[0.1, 0.1], [0.2, 0.1], [np.nan, 0.3]]),
                      vx=0.6, robots_per_tile=8)


def made_up(falls=0.0, survived=1.0, error=0.01) -> Suite:
    plain = evaluate(stand, evaluation_env(TASK, GO2_CONFIG, num_envs=1), seed=0, duration_s=0.1)
    nominal = dataclasses.replace(plain, falls_per_episode=falls, error_vx=error, error_vy=0.01, error_yaw_rate=0.01)
    cells = np.full((9, 9), 0.1)
    grid = Grid(vx=np.linspace(-0.6, 1, 9), yaw_rate=np.linspace(-0.8, 0.8, 9), error_vx=cells, error_vy=cells, error_yaw_rate=cells,
                falls_per_episode=cells)
    speed = np.arange(1, 8) * 0.2
    return Suite(nominal=nominal, sweeps={name: tuple(dataclasses.replace(nominal, falls_per_episode=0.04) for _ in sweep.values)
                                          for name, sweep in SWEEPS.items()},
                 grid=grid, pushes=Pushes(speed_m_s=speed, survived=np.full((7, DIRECTIONS), survived)), drift_m=0.049,
                 models={"other<b>.xml": nominal}, crossings=CROSSINGS)


def test_targets_are_the_projects_and_a_figure_that_is_missing_meets_none():
    assert [target.limit for target in targets(made_up())] == [0.005, 0.05, 0.05, 0.08, 0.05, 0.05, 0.05, 0.05, 0.95, 0.05]
    assert all(target.met for target in targets(made_up()))
    missed = {target.name for target in targets(made_up(falls=0.006, survived=0.94, error=math.nan)) if not target.met}
    assert missed == {"falls", "survives pushes of 0.8 m/s", "error vx"}


class Sources(HTMLParser):
    """Opened and closed elements, and everything that is loaded."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.open += [tag] if tag not in ("meta", "img", "link", "br") else []
        self.loaded += [(tag, value) for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_escapes_what_it_is_given_and_loads_nothing():
    judged = Judged(path="runs/<i>/policy", training_info={"seed": 3, "steps": 1_000_000}, suite=made_up(error=math.nan), video=None,
                    why="no <GL>")
    policies = {"one<u>": judged, "two": dataclasses.replace(judged, video=b"film")}
    html = page(policies, dict.fromkeys(("commands", "sweeps", "pushes", "terrain"), b"picture"), "16 robots")
    sources = Sources()
    sources.feed(html)
    assert not sources.open and len(sources.loaded) == 5
    assert [tag for tag, _ in sources.loaded] == ["video", "img", "img", "img", "img"]
    for _, source in sources.loaded:
        assert base64.b64decode(re.fullmatch(r"data:[a-z0-9/]+;base64,(.+)", source)[1]) in (b"film", b"picture")
    for text in ("one<u>", "other<b>.xml", "no <GL>", "1,000,000", "falls at 20 ms latency", "16 robots"):
        assert text in " ".join(sources.text)
    assert "nan" not in " ".join(sources.text) and "Infinity" not in html


def test_short_names_are_of_the_runs_unless_these_are_equal():
    assert names_of(["runs/a/policy", "runs/b/policy"]) == {"runs/a/policy": "a", "runs/b/policy": "b"}
    assert names_of(["x/a/policy", "y/a/policy"]) == {"x/a/policy": "x/a/policy", "y/a/policy": "y/a/policy"}
    assert names_of(["hf://owner/name"]) == {"hf://owner/name": "hf://owner/name"}


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder, normalizer = tmp_path_factory.mktemp("runs"), ObservationNormalizer(48)
    normalizer.update(np.random.default_rng(0).normal(size=(100, 48)).astype(np.float32))
    for seed, name in enumerate(("first", "second")):
        actor = ActorCritic(48, 12, [16], rng=np.random.default_rng(seed)).actor()
        actor.save(folder / name / "policy", robot_config=GO2_CONFIG, normalizer=normalizer, training_info={"seed": seed})
    return folder


def test_two_policies_go_through_the_whole_suite_into_one_report(policies, monkeypatch):
    pytest.importorskip("matplotlib", reason="extra viz is not installed")
    pytest.importorskip("imageio_ffmpeg", reason="extra viz is not installed")
    for name, short in {"GRID_S": 0.1, "WALK_S": 0.1, "RECOVER_S": 0.1, "STAND_S": 0.1, "SETTLE_S": 0.04, "MAX_PUSH_M_S": 0.8,
                        "CROSS_S": 0.1}.items():
        monkeypatch.setattr(suite, name, short)
    monkeypatch.setattr(showcase, "SCRIPT", ((0.2, (1, 0, 0)),))
    other_model = policies / "other.xml"
    other_model.write_text(find_mjcf(GO2_CONFIG).read_text().replace('mass="6.921"', 'mass="7.5"'))
    output = policies / "out" / "evaluation.json"
    run(EvaluateConfig(policy=str(policies / "first" / "policy"), compare=str(policies / "second" / "policy"), suite="full", num_envs=2,
                       duration_s=0.1, mjcf=str(other_model), output=str(output)), Console(quiet=True))
    figures = json.loads(output.read_text())
    for part in (figures, figures["compare"]):
        assert part["suite"]["sweeps"].keys() == SWEEPS.keys() and len(part["suite"]["targets"]) == 10
        assert np.shape(part["suite"]["terrain"]["falls"]) == (10, 6) and part["suite"]["terrain"]["levels_passed"] == 0  # in 0.1 s
        assert np.shape(part["suite"]["grid"]["error_vx"]) == (9, 9) and list(part["suite"]["models"]) == [str(other_model)]
    assert figures["policy"] != figures["compare"]["policy"]
    html = (output.parent / "report.html").read_text()
    assert "first" in html and "second" in html and "falls at friction 0.4" in html
    pictures = {path.name: path.read_bytes() for path in (output.parent / "report").iterdir()}
    assert {"commands.png", "sweeps.png", "pushes.png", "terrain.png"} <= pictures.keys()
    for name, data in pictures.items():
        assert data.startswith(b"\x89PNG") if name.endswith(".png") else data[4:8] == b"ftyp"
        assert base64.b64encode(data).decode() in html


@pytest.mark.parametrize(("changed", "words"), [({"suite": "half"}, "suite is 'half': it must be full"), ({"compare": "absent"}, "absent"),
                                                 ({"suite": "full", "task": "go2_rough"}, "task is 'go2_rough': leave it out with suite")])
def test_a_wrong_suite_or_comparison_is_refused(policies, changed, words):
    given = {"policy": str(policies / "first" / "policy"), "num_envs": 1, "duration_s": 0.1, **changed}
    with pytest.raises((ValueError, InputError), match=words):
        run(EvaluateConfig(**given), Console(quiet=True))
