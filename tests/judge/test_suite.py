"""The full evaluation: conditions are what they say, figures equal those known by hand, and the report holds all of
it.
"""

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
from rfx.robot.files import find_mjcf
from train.commands.evaluate import names_of, run
from train.judge import pushes as pushes_module
from train.judge import showcase, suite
from train.judge.crossings import Crossings
from train.judge.evaluate_config import EvaluateConfig
from train.judge.evaluation import evaluate
from train.judge.play import evaluation_env
from train.judge.pushes import DIRECTIONS, PHASES, Pushes
from train.judge.report import Judged, page
from train.judge.suite import SWEEPS, Grid, Runner, Suite, targets
from train.task.errors import InputError

TASK = EnvConfig.load("go2", timestep_s=0.005)


def stand(observation: np.ndarray) -> np.ndarray:
    return np.zeros((len(observation), 12), np.float32)


def throw_over(observation: np.ndarray) -> np.ndarray:
    """Legs away on one side."""
    return np.tile(np.array([-1, 1, 1, -1, -1, -1] * 2, np.float32), (len(observation), 1))


def runner(act=stand, num_envs=32, duration_s=1.2, **options) -> Runner:  # a quarter of them, 8, plays most conditions
    return Runner(act, TASK, GO2_CONFIG, num_envs=num_envs, duration_s=duration_s, seed=0, **options)


@pytest.mark.parametrize(
    ("sweep", "value", "expected"),
    [
        ("friction", 0.4, lambda env: env.simulation.batch.get_model(1).geom("floor").friction[0] == 0.4),
        (
            "payload",
            3.0,
            lambda env: env.simulation.batch.get_model(1).body("base").mass[0] == pytest.approx(6.921 + 3.0),
        ),
        ("damping", 2.0, lambda env: (env.simulation.batch.get_model(1).dof_damping[6:] == 2.0).all()),
        ("latency", 20.0, lambda env: (env.simulation.latency == 4).all()),
        ("latency", 5.0, lambda env: (env.simulation.latency == 1).all()),
        ("timestep", 1.0, lambda env: env.simulation.model.opt.timestep == 0.001 and env.simulation.num_substeps == 20),
    ],
)
def test_a_condition_makes_robots_that_differ_as_it_says(sweep, value, expected):
    env = runner()._env(**SWEEPS[sweep].task(value))
    env.reset(seed=0)
    assert expected(env)
    assert env.sensing.state.joint_position is not None and not env.config.noise and not env.config.pushes


@pytest.mark.parametrize("name", ["friction", "payload", "damping", "latency", "timestep"])
def test_at_its_nominal_value_a_condition_is_the_nominal_evaluation_to_the_bit(name):
    nominal = evaluate(stand, evaluation_env(TASK, GO2_CONFIG, num_envs=8), seed=0, duration_s=1.2)
    value = 5.0 if name == "timestep" else SWEEPS[name].nominal
    assert value in SWEEPS[name].values
    changes = SWEEPS[name].task(value)
    assert dataclasses.replace(runner()._evaluate("", **changes), disturbed=False) == nominal


@pytest.mark.parametrize("timestep_s", [0.005, 0.01])
def test_no_condition_is_played_twice_and_none_is_the_nominal_one_again(timestep_s):
    """26 values: at 5 ms one of each sweep is nominal; at 10 ms four, and no latency is what the physics step of 5 ms
    is.
    """
    told, task = [], dataclasses.replace(TASK, timestep_s=timestep_s)
    nominal = evaluate(stand, evaluation_env(task, GO2_CONFIG, num_envs=1), seed=0, duration_s=0.02)
    results = Runner(stand, task, GO2_CONFIG, num_envs=4, duration_s=0.02, seed=0, tell=told.append).sweeps(nominal)
    assert len(told) == len(set(told)) == 21 and sum(map(len, results.values())) == 26
    assert (
        results["friction"][3] is nominal is results["payload"][0] is results["damping"][0]
        and results["latency"][0] is results["timestep"][3]
    )
    assert (results["latency"][0] is nominal) == (timestep_s == 0.005) and (results["timestep"][4] is nominal) == (
        timestep_s == 0.01
    )
    assert [result.timestep_s for result in results["timestep"]] == pytest.approx([0.001, 0.002, 0.004, 0.005, 0.01])


def test_a_standing_robots_errors_over_the_grid_are_the_commands(monkeypatch):
    monkeypatch.setattr(suite, "GRID_S", 1.5)
    grid = runner(num_envs=4 * 170).grid()
    assert grid.vx[3] == 0.0 == grid.yaw_rate[4]  # exactly: a robot that is told to stand has no gait clock
    assert (
        grid.error_vx.shape == (9, 9)
        and grid.vx[[0, -1]].tolist() == [-0.6, 1.0]
        and grid.yaw_rate[[0, -1]].tolist() == [-0.8, 0.8]
    )
    np.testing.assert_allclose(grid.error_vx, np.tile(np.abs(grid.vx)[:, None], (1, 9)), atol=0.03)
    np.testing.assert_allclose(grid.error_yaw_rate, np.tile(np.abs(grid.yaw_rate), (9, 1)), atol=0.05)
    assert (grid.error_vy < 0.03).all() and not grid.falls_per_episode.any()


def test_a_robot_that_never_stands_has_no_errors_and_many_falls(monkeypatch):
    monkeypatch.setattr(suite, "GRID_S", 1.0)
    monkeypatch.setattr(suite, "GRID_SIZE", 2)
    grid = runner(throw_over).grid()
    assert np.isnan(grid.error_vx).all() and (grid.falls_per_episode >= 10).all()  # one of two robots in 1 s, or more


def test_pushes_come_from_around_the_robot_at_all_phases_and_have_the_size_they_say(monkeypatch):
    """64 robots, each at a phase and towards a side of its own."""
    pushed = []
    push = Simulation.push

    def recorded(self, ids, change):
        heading = np.zeros((len(ids), 9))
        for row, qpos in zip(heading, self.batch.qpos[ids]):
            mujoco.mju_quat2Mat(row, qpos[3:7])
        forwards = heading.reshape(-1, 3, 3)[:, :2, 0]
        angle = np.arctan2(change[:, 1], change[:, 0]) - np.arctan2(forwards[:, 1], forwards[:, 0])
        pushed.extend(zip(np.exp(1j * angle), self.state.robot.gait_phase[ids] / (2 * np.pi)))
        np.testing.assert_allclose(np.linalg.norm(change, axis=1), 0.6)
        push(self, ids, change)

    monkeypatch.setattr(Simulation, "push", recorded)
    monkeypatch.setattr(pushes_module, "WALK_S", 1.2)
    monkeypatch.setattr(pushes_module, "RECOVER_S", 0.1)
    counts, survived = runner(num_envs=256)._pushed(0.6)
    sides = {(round(8 * np.angle(turn) / (2 * np.pi)) % 8, round(8 * (phase % 1)) % 8) for turn, phase in pushed}
    assert len(pushed) == 64 and sides == {(side, phase) for side in range(8) for phase in range(8)}
    assert (
        max(min(abs(8 * phase - k) for k in range(9)) for _, phase in pushed) <= 0.2 + 1e-3
    )  # a cycle of 20 control steps, in eighths
    assert counts.shape == (PHASES, DIRECTIONS) and (counts == 1).all() and (survived == 1).all()


def test_pushes_strike_robots_that_differ_and_sense_as_in_training_and_no_other_push_does(monkeypatch):
    struck = []
    monkeypatch.setattr(suite, "measure_pushes", lambda env, steps, speed: struck.append(env.config))
    runner(num_envs=64)._pushed(1.0)
    assert (
        struck[0].randomize
        and struck[0].randomization == TASK.randomization
        and struck[0].noise == TASK.noise
        and not struck[0].pushes
    )
    assert struck[0].num_envs == 64 and struck[0].commands["uniform_velocity"]["zero_share"] == 0.0


def test_pushes_grow_until_hardly_a_robot_survives(monkeypatch):
    survival = {0.2: 20, 0.4: 18, 0.6: 1}
    one = runner()
    monkeypatch.setattr(
        one,
        "_pushed",
        lambda speed: (np.full((PHASES, DIRECTIONS), 20), np.full((PHASES, DIRECTIONS), survival[round(speed, 3)])),
    )
    result = one.pushes()
    assert result.speed_m_s.tolist() == [0.2, 0.4, 0.6]
    assert result.share(0.4) == pytest.approx(0.9) and result.share(0.8) == result.share_lower_95(0.8) == 0.0
    assert 0.88 < result.share_lower_95(0.4) < 0.9  # of 1280


def test_the_worst_phase_and_side_are_found():
    pushed, survived = np.full((1, PHASES, DIRECTIONS), 4), np.full((1, PHASES, DIRECTIONS), 4)
    survived[0, 3, :] = 3  # a bad phase, 3/8 of the cycle; and to the left a worse cell
    survived[0, 5, 2], survived[0, 6, 2], survived[0, 7, 2] = 0, 1, 1
    result = Pushes(speed_m_s=np.array([0.8]), pushed=pushed, survived=survived)
    worst = result.worst(0.8)
    assert worst["phase"] == {"cycles": 3 / 8, "share": 0.75}
    assert worst["direction"] == {"towards": "left", "share": pytest.approx((32 - 1 - 4 - 3 - 3) / 32)}
    assert worst["cell"] == {"cycles": 5 / 8, "towards": "left", "share": 0.0, "robots": 4}
    assert result.worst(1.0) == {} and json.loads(json.dumps(result.to_dict(0.8)))["worst"]["speed_m_s"] == 0.8


def test_large_pushes_fell_a_standing_robot(monkeypatch):
    monkeypatch.setattr(pushes_module, "WALK_S", 1.2)
    monkeypatch.setattr(pushes_module, "RECOVER_S", 2.0)
    pushed, survived = runner(num_envs=256)._pushed(3.0)
    assert pushed.sum() == 64 and survived[:, [2, 6]].sum() == 0  # from the sides


def break_down(monkeypatch, at: int) -> None:
    """From control step `at` on, the simulation of robot 0 diverges."""
    step, count = Simulation.step, iter(range(10**6))

    def broken_step(self, action):
        if next(count) >= at:
            self.batch.qvel[0, 0] = np.nan
        return step(self, action)

    monkeypatch.setattr(Simulation, "step", broken_step)


def test_a_simulation_that_diverges_is_a_fall_everywhere(monkeypatch):
    monkeypatch.setattr(suite, "STAND_S", 0.5)
    for name, short in {"WALK_S": 1.2, "RECOVER_S": 0.1}.items():
        monkeypatch.setattr(pushes_module, name, short)
    with monkeypatch.context() as broken:
        break_down(broken, at=60)
        result = evaluate(stand, evaluation_env(TASK, GO2_CONFIG, num_envs=4), seed=0, duration_s=1.4)
    assert result.falls == result.failed_simulations == 10  # it is begun anew at each of the last ten steps
    assert (
        result.falls_per_episode == pytest.approx(10 / (4 * 1.4 / 20))
        and result.score > 2 * result.falls_per_episode > 60
    )
    with monkeypatch.context() as broken:
        break_down(broken, at=62)  # two steps after the first robots are pushed
        pushed, survived = runner(num_envs=256)._pushed(0.2)
    assert (pushed - survived).sum() == 1 and pushed.sum() == 64
    with monkeypatch.context() as broken:
        break_down(broken, at=70)
        assert runner(num_envs=64).drift()[0] == math.inf  # one of 16 is more than 5%


def test_drift_is_how_far_the_base_went_and_infinite_after_a_fall(monkeypatch):
    monkeypatch.setattr(suite, "STAND_S", 1.0)
    drift, bound = runner().drift()
    assert 0.0 < drift < 0.05 and bound == math.inf  # eight robots bound no 95th percentile
    assert runner(throw_over).drift() == (math.inf, math.inf)
    drift, bound = runner(num_envs=4 * 64).drift()
    assert 0.0 < drift <= bound < 0.05


CROSSINGS = Crossings(
    kinds=("rough", "gaps"),
    falls=np.array([[0.1, 0.0], [0.2, 0.0], [0.1, 0.2]]),
    crossed=np.array([[0.9, 1], [0.8, 1], [0, 0]]),
    error=np.array([[0.1, 0.1], [0.2, 0.1], [np.nan, 0.3]]),
    vx=0.6,
    robots_per_tile=8,
)


def made_up(falls=0, survived=64, error=0.01) -> Suite:
    """Of 1024 robots for 20 s."""
    plain = evaluate(stand, evaluation_env(TASK, GO2_CONFIG, num_envs=1), seed=0, duration_s=0.1)
    nominal = dataclasses.replace(
        plain,
        num_envs=1024,
        duration_s=20.0,
        falls=falls,
        error_vx=error,
        error_vx_upper_95=1.1 * error,
        error_vy=0.01,
        error_vy_upper_95=0.011,
        error_yaw_rate=0.01,
        error_yaw_rate_upper_95=0.011,
    )
    cells = np.full((9, 9), 0.1)
    grid = Grid(
        vx=np.linspace(-0.6, 1, 9),
        yaw_rate=np.linspace(-0.8, 0.8, 9),
        error_vx=cells,
        error_vy=cells,
        error_yaw_rate=cells,
        falls_per_episode=cells,
    )
    speed = np.arange(1, 8) * 0.2
    shape = (7, PHASES, DIRECTIONS)
    return Suite(
        nominal=nominal,
        sweeps={
            name: tuple(dataclasses.replace(nominal, falls=30) for _ in sweep.values) for name, sweep in SWEEPS.items()
        },
        grid=grid,
        pushes=Pushes(speed_m_s=speed, pushed=np.full(shape, 64), survived=np.full(shape, survived)),
        drift_m=0.04,
        drift_upper_95_m=0.049,
        models={"other<b>.xml": nominal},
        crossings=CROSSINGS,
    )


def test_targets_are_the_projects_and_met_by_the_bound_not_by_the_figure():
    assert [target.limit for target in targets(made_up())] == [
        0.005,
        0.035,
        0.035,
        0.05,
        0.05,
        0.05,
        0.05,
        0.05,
        0.06,
        0.97,
        0.05,
    ]
    assert all(target.met for target in targets(made_up(falls=1)))  # 4.74 of 1024 at most
    damped = "error vx with a joint damping of 2 N m s/rad"
    missed = {target.name for target in targets(made_up(falls=2, survived=63, error=math.nan)) if not target.met}
    assert missed == {
        "falls",
        "error vx",
        damped,
    }  # two falls are 0.002 an episode, but 6.3 of 1024 cannot be excluded; 0.984 of 4096 are enough
    missed = {target.name: target for target in targets(made_up(survived=62, error=0.034)) if not target.met}
    assert (
        missed.keys() == {"survives pushes of 1 m/s", "error vx"}
        and missed["error vx"].value < missed["error vx"].limit
    )
    assert missed["survives pushes of 1 m/s"].value == 62 / 64 < 0.97


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
    judged = Judged(
        path="runs/<i>/policy",
        training_info={"seed": 3, "steps": 1_000_000},
        suite=made_up(error=math.nan),
        video=None,
        conditions={"nominal": made_up().nominal, "as <trained>": made_up(falls=7).nominal},
        why="no <GL>",
    )
    policies = {"one<u>": judged, "two": dataclasses.replace(judged, video=b"film")}
    html = page(
        policies, dict.fromkeys(("tracking", "commands", "sweeps", "pushes", "terrain"), b"picture"), "16 robots"
    )
    sources = Sources()
    sources.feed(html)
    assert not sources.open and len(sources.loaded) == 6
    assert [tag for tag, _ in sources.loaded] == ["video", *["img"] * 5]
    for _, source in sources.loaded:
        assert base64.b64decode(re.fullmatch(r"data:[a-z0-9/]+;base64,(.+)", source)[1]) in (b"film", b"picture")
    for text in (
        "one<u>",
        "other<b>.xml",
        "no <GL>",
        "1,000,000",
        "falls at 20 ms latency",
        "16 robots",
        "two, as <trained>",
        "worst phase and side",
    ):
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
        actor.save(
            folder / name / "policy", robot_config=GO2_CONFIG, normalizer=normalizer, training_info={"seed": seed}
        )
    return folder


@pytest.mark.e2e
def test_two_policies_go_through_the_whole_suite_into_one_report(policies, monkeypatch):
    pytest.importorskip("matplotlib", reason="extra viz is not installed")
    pytest.importorskip("imageio_ffmpeg", reason="extra viz is not installed")
    for name, short in {"GRID_S": 0.1, "STAND_S": 0.1, "SETTLE_S": 0.04, "MAX_SPEED_M_S": 0.8, "CROSS_S": 0.1}.items():
        monkeypatch.setattr(suite, name, short)
    for name, short in {"WALK_S": 0.1, "RECOVER_S": 0.1, "LEAST_S": 0.0}.items():
        monkeypatch.setattr(pushes_module, name, short)
    monkeypatch.setattr("train.judge.evaluation.SETTLE_S", 0.04)
    monkeypatch.setattr(showcase, "SCRIPT", ((0.2, (1, 0, 0)),))
    other_model = policies / "other.xml"
    other_model.write_text(find_mjcf(GO2_CONFIG).read_text().replace('mass="6.921"', 'mass="7.5"'))
    output = policies / "out" / "evaluation.json"
    run(
        EvaluateConfig(
            policy=str(policies / "first" / "policy"),
            compare=str(policies / "second" / "policy"),
            suite="full",
            num_envs=2,
            duration_s=0.1,
            mjcf=str(other_model),
            output=str(output),
        ),
        Console(quiet=True),
    )
    figures = json.loads(output.read_text())
    for part in (figures, figures["compare"]):
        assert part["as_trained"]["disturbed"] and part["worst_corner"]["num_envs"] == 1 and len(part["targets"]) == 4
        assert part["suite"]["sweeps"].keys() == SWEEPS.keys() and len(part["suite"]["targets"]) == 11
        assert (
            np.shape(part["suite"]["terrain"]["falls"]) == (10, 6) and part["suite"]["terrain"]["levels_passed"] == 0
        )  # in 0.1 s
        assert np.shape(part["suite"]["grid"]["error_vx"]) == (9, 9) and list(part["suite"]["models"]) == [
            str(other_model)
        ]
    assert figures["policy"] != figures["compare"]["policy"]
    html = (output.parent / "report.html").read_text()
    assert "first" in html and "second" in html and "falls at friction 0.4" in html
    pictures = {path.name: path.read_bytes() for path in (output.parent / "report").iterdir()}
    assert {"tracking.png", "commands.png", "sweeps.png", "pushes.png", "terrain.png"} <= pictures.keys()
    for name, data in pictures.items():
        assert data.startswith(b"\x89PNG") if name.endswith(".png") else data[4:8] == b"ftyp"
        assert base64.b64encode(data).decode() in html


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"suite": "half"}, "suite is 'half': it must be full or models"),
        ({"compare": "absent"}, "absent"),
        ({"suite": "full", "task": "go2_rough"}, "task is 'go2_rough': leave it out with suite"),
    ],
)
def test_a_wrong_suite_or_comparison_is_refused(policies, changed, words):
    given = {"policy": str(policies / "first" / "policy"), "num_envs": 1, "duration_s": 0.1, **changed}
    with pytest.raises((ValueError, InputError), match=words):
        run(EvaluateConfig(**given), Console(quiet=True))
