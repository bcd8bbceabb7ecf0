"""The evaluation: its figures against a plain loop over what happened, its seeds, and the command line."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from envs.settings.configs import CONFIGS, compose
from measure.claims import read_groups
from rfx import GO2_CONFIG, ObservationNormalizer, load_policy
from rfx.nn import ActorCritic
from train.commands.evaluate import run
from train.judge.bounds import rate_upper
from train.judge.conditions import as_trained, conditions, worst_corner
from train.judge.evaluate_config import EvaluateConfig
from train.judge.evaluation import Evaluation, evaluate
from train.judge.output import beside
from train.judge.play import EPISODE_S, evaluation_env, evaluation_seed
from train.judge.suite import DAMPED_ERROR_VX, DEPLOYED, TARGET_PUSH_SHARE
from train.judge.targets import TRACKING, WALKING
from train.task.config import TrainConfig
from train.tasks.legged import LeggedTask

TASK = EnvConfig.load("go2")


class Recorded:
    """Everything that an evaluation of num_envs robots went through, step by step."""

    def __init__(self, env: LeggedEnv):
        self.env, self.steps, self.terminated, self.mass_kg = env, [], [], []
        step = env.step

        def recording_step(actions: np.ndarray):
            result = step(actions)
            state = env.state
            self.mass_kg.append(env.simulation.mass_kg.copy())
            self.terminated.append(result[2].copy())
            self.steps.append(
                {
                    "done": result[2] | result[3],
                    "command": state.robot.velocity_command.copy(),
                    "velocity": np.column_stack(
                        (state.base_linear_velocity_b[:, :2], state.robot.base_angular_velocity_b[:, 2])
                    ),
                    "power": np.abs(state.joint_torque * state.robot.joint_velocity).sum(axis=1),
                    "action": state.robot.last_action.copy(),
                    "foot_speed": np.hypot(state.foot_velocity_w[..., 0], state.foot_velocity_w[..., 1]),
                    "contact": state.foot_contact.copy(),
                }
            )
            return result

        env.step = recording_step


def stumble(observation: np.ndarray) -> np.ndarray:
    """Kicks with the gait clock: it moves, slips and falls now and then."""
    clock = observation[:, 45:46]
    return np.clip(0.9 * clock * np.array([0.8, 1, -1, 0.8, -1, 1, 0.8, -1, 1, 0.8, 1, -1], np.float32), -1, 1)


def test_figures_equal_those_of_a_plain_loop_over_the_record() -> None:
    env = evaluation_env(TASK, GO2_CONFIG, num_envs=6, threads=1)
    record, first_command = Recorded(env), []
    reset = env.reset

    def recording_reset(**options):
        result = reset(**options)
        first_command.append(env.state.robot.velocity_command.copy())
        return result

    env.reset = recording_reset
    evaluation = evaluate(stumble, env, seed=3, duration_s=6.0)
    assert len(record.steps) == 300

    errors, powers, changes, slips, moving_power, moving_speed = [], [], [], [], 0.0, 0.0
    for robot in range(6):
        settled_since, command = 0, first_command[0][robot]
        for t, step in enumerate(record.steps, 1):
            if step["done"][robot] or (step["command"][robot] != command).any():
                settled_since, command = t, step["command"][robot]
            if t - settled_since <= 50:  # 1 s at 50 Hz
                continue
            errors.append(np.abs(step["velocity"][robot] - command))
            powers.append(step["power"][robot])
            changes.append(np.abs(step["action"][robot] - record.steps[t - 2]["action"][robot]).mean())
            slips += step["foot_speed"][robot][step["contact"][robot]].tolist()
            if command.any():
                moving_power += step["power"][robot]
                moving_speed += math.hypot(*step["velocity"][robot][:2])
    assert 50 < len(errors) < 6 * 300
    expected = np.mean(errors, axis=0)
    got = [evaluation.error_vx, evaluation.error_vy, evaluation.error_yaw_rate]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert evaluation.power_w == pytest.approx(np.mean(powers), rel=1e-4)
    assert evaluation.action_change == pytest.approx(np.mean(changes), rel=1e-4)
    assert evaluation.foot_slip_m_s == pytest.approx(np.mean(slips), rel=1e-4)
    mass_kg = env.simulation.model.body_mass.sum()
    assert 14.0 < mass_kg < 16.5  # Unitree: about 15 kg
    assert evaluation.cost_of_transport == pytest.approx(moving_power / (9.81 * mass_kg * moving_speed), rel=1e-4)
    falls = np.sum(record.terminated)
    assert falls > 0
    assert evaluation.falls_per_episode == pytest.approx(falls / (6 * 6.0 / EPISODE_S))
    assert evaluation.falls == falls and evaluation.failed_simulations == 0 and not evaluation.disturbed
    assert evaluation.score == pytest.approx(2 * evaluation.falls_per_episode + sum(got), rel=1e-6)


def test_cost_of_transport_divides_by_what_each_robot_weighs_payload_included() -> None:
    """A robot that begins anew carries another payload."""
    env = evaluation_env(
        TASK, GO2_CONFIG, num_envs=4, threads=1, randomize=True, randomization={"payload": {"range_kg": (1.0, 5.0)}}
    )
    env.reset(seed=0)
    own = [env.simulation.batch.get_model(i).body_mass.sum() for i in range(4)]
    np.testing.assert_allclose(env.simulation.mass_kg, own)
    assert min(own) > env.simulation.model.body_mass.sum() + 1.0 and np.ptp(own) > 0.1
    record = Recorded(env)
    evaluation = evaluate(stumble, env, seed=3, duration_s=3.0)
    power = weight_speed = 0.0
    for robot in range(4):
        since = 0
        for t, step in enumerate(record.steps, 1):
            if step["done"][robot]:
                since = t
            if t - since > 50 and step["command"][robot].any():
                power += step["power"][robot]
                weight_speed += 9.81 * record.mass_kg[t - 1][robot] * math.hypot(*step["velocity"][robot][:2])
    assert weight_speed > 0 and evaluation.cost_of_transport == pytest.approx(power / weight_speed, rel=1e-4)


def test_bounds_are_what_other_evaluations_keep() -> None:
    """Robots that stand miss their commands by chance alone: of 16 evaluations about one has a bound below the mean
    over all.
    """
    results = [
        evaluate(
            lambda o: np.zeros((len(o), 12), np.float32),
            evaluation_env(TASK, GO2_CONFIG, num_envs=16, threads=1),
            seed=seed,
            duration_s=1.1,
        )
        for seed in range(16)
    ]
    truth = np.mean([result.error_vx for result in results])
    below = sum(result.error_vx_upper_95 < truth for result in results)
    assert below <= 3  # expected 0.8; more than 3 has a chance of 1%
    assert all(result.error_vx < result.error_vx_upper_95 < result.error_vx + 0.15 for result in results)


def test_as_trained_has_all_that_training_has_and_the_corner_all_that_is_bad_at_once() -> None:
    robust = evaluation_env(TASK, GO2_CONFIG, num_envs=64, threads=1, **as_trained(TASK))
    for name in (
        "randomize",
        "randomization",
        "noise",
        "pushes",
        "push_interval_s",
        "commands",
        "resets",
        "terminations",
        "timestep_s",
    ):
        assert getattr(robust.config, name) == getattr(TASK, name), name
    robust.reset(seed=0)
    assert (
        robust.simulation.latency.any()
        and np.ptp(robust.simulation.mass_kg) > 0.5
        and not robust.sensing.state is robust.state.robot
    )
    before = robust._push_steps.copy()
    assert before.min() >= 5.0 / robust.step_s
    robust.spread_pushes()
    assert (
        robust._push_steps.min() < 1.5 / robust.step_s
        and (robust._push_steps <= before).all()
        and (robust._push_steps >= 1).all()
    )

    env = evaluation_env(TASK, GO2_CONFIG, num_envs=32, threads=1, **worst_corner(GO2_CONFIG, 15.0))
    env.reset(seed=0)
    model, nominal = env.simulation.batch.get_model(3), env.simulation.model
    assert model.geom("floor").friction[0] == 0.4 and model.body("base").mass[0] == pytest.approx(
        nominal.body("base").mass[0] + 3.0
    )
    np.testing.assert_allclose(model.actuator_forcerange, 0.85 * nominal.actuator_forcerange)
    assert (
        (env.simulation.latency * nominal.opt.timestep == pytest.approx(0.02))
        and not env.config.noise
        and not env.config.pushes
    )
    tilt = np.arccos((np.trace(env.sensing.imu_rotation, axis1=1, axis2=2) - 1) / 2)
    np.testing.assert_allclose(tilt, 0.035 * math.sqrt(3), rtol=1e-3)
    assert (
        len({tuple(np.sign(rotation[[2, 0, 1], [1, 2, 0]])) for rotation in env.sensing.imu_rotation}) == 8
    )  # to all sides
    calm = EnvConfig.load("go2", randomize=False)
    assert conditions(calm, GO2_CONFIG, 15.0).keys() == {"worst corner"} and conditions(
        TASK, GO2_CONFIG, 15.0
    ).keys() == {"as trained", "worst corner"}


def test_the_run_chooses_on_the_task_as_trained_with_enough_of_it_that_one_fall_does_not_decide() -> None:
    values = compose("robot", "go2")
    config = TrainConfig.from_dict(
        {
            "robot": "go2",
            "env": values["env"],
            "trainer": values["trainer"],
            "policy": values["policy"],
            "ppo": values["ppo"],
        }
    )
    task, settings = LeggedTask(config), config.trainer
    for env, seconds in ((task._training_env, settings.evaluation_s), (task._final_env, settings.final_evaluation_s)):
        assert (
            env.config.randomize
            and env.config.randomization == config.env.randomization
            and env.config.pushes == config.env.pushes
        )
        assert 2.0 / (env.num_envs * seconds / EPISODE_S) < 0.04  # of the score: what a fall weighs
    looks = settings.total_steps // settings.evaluate_every
    steps = 50 * (
        looks * settings.evaluation_envs * settings.evaluation_s
        + 2 * settings.final_evaluation_envs * settings.final_evaluation_s
    )
    assert steps <= 50 * (
        4 * 64 * 8 + 2 * 256 * 10
    )  # what it cost when it was chosen on 25 nominal episodes: 358,400 steps at most


def test_the_targets_are_those_of_the_results() -> None:
    """Its tables are made from measure/figures.yaml."""
    groups = read_groups()
    target, falls, error = (groups["default"].lines[-1][i] for i in (0, 2, 3))
    assert target == "target" and (float(falls), *[float(error.removesuffix(" each"))] * 3) == WALKING
    target, _, falls, errors, damped, pushed, *_ = groups["deploy"].lines[-1]
    assert target == "target" and (float(falls), *map(float, errors.split(", "))) == DEPLOYED
    assert float(damped) == DAMPED_ERROR_VX and float(pushed.rstrip("%")) / 100 == TARGET_PUSH_SHARE


def test_the_default_evaluation_is_large_enough_to_meet_every_target() -> None:
    """No fall must be enough, and one must not spoil it."""
    episodes = EvaluateConfig(policy="p").num_envs * EvaluateConfig(policy="p").duration_s / EPISODE_S
    assert (
        rate_upper(0, episodes) < rate_upper(1, episodes) < min(WALKING[0], DEPLOYED[0])
        and rate_upper(0, 256) > DEPLOYED[0]
    )
    assert yaml.safe_load((CONFIGS / "evaluate.yaml").read_text())["num_envs"] == EvaluateConfig(policy="p").num_envs


def test_a_robot_that_throws_itself_over_is_seen_to_fall_and_nothing_else_is_claimed() -> None:
    env = evaluation_env(TASK, GO2_CONFIG, num_envs=4, threads=1)
    legs_away_on_one_side = np.tile(np.array([-1, 1, 1, -1, -1, -1] * 2, np.float32), (4, 1))
    record = Recorded(env)
    evaluation = evaluate(lambda observation: legs_away_on_one_side, env, seed=0, duration_s=4.0)
    assert evaluation.falls_per_episode == np.sum(record.terminated) / 0.8 > 1
    json.dumps(evaluation.to_dict(), allow_nan=False)
    evaluation = evaluate(
        lambda observation: legs_away_on_one_side, env, seed=0, duration_s=0.9
    )  # nobody can stand for a second
    values = evaluation.to_dict()
    json.dumps(values, allow_nan=False)
    assert math.isnan(evaluation.error_vx) and math.isnan(evaluation.error_vx_upper_95)
    assert values["error_vx"] is None and evaluation.score == math.inf and values["score"] is None


def test_a_robot_that_stands_misses_the_commands_by_what_they_ask_and_slips_little() -> None:
    env = evaluation_env(
        TASK, GO2_CONFIG, num_envs=128, threads=1
    )  # means of some 160 commands: standard errors of 0.024, 0.01, 0.02
    evaluation = evaluate(lambda observation: np.zeros((128, 12), np.float32), env, seed=0, duration_s=4.0)
    # |uniform(-0.6, 1)| has mean (0.18 + 0.5) / 1.6 = 0.425; a tenth of the commands is zero. vy: 0.2 x 0.9, yaw rate
    # 0.4 x 0.9.
    assert evaluation.falls_per_episode == 0
    assert evaluation.error_vx == pytest.approx(0.9 * 0.425, abs=0.08)
    assert evaluation.error_vy == pytest.approx(0.9 * 0.2, abs=0.05)
    assert evaluation.error_yaw_rate == pytest.approx(0.9 * 0.4, abs=0.08)
    assert evaluation.power_w < 5 and evaluation.action_change == 0 and evaluation.foot_slip_m_s < 0.02


def test_the_seed_decides_everything_and_threads_nothing() -> None:
    def play(seed: int, threads: int) -> Evaluation:
        return evaluate(
            stumble, evaluation_env(TASK, GO2_CONFIG, num_envs=8, threads=threads), seed=seed, duration_s=2.0
        )

    assert play(5, 1) == play(5, 2) != play(6, 1)
    robust = [
        evaluate(
            stumble,
            evaluation_env(TASK, GO2_CONFIG, num_envs=8, threads=threads, **as_trained(TASK)),
            seed=5,
            duration_s=2.0,
        )
        for threads in (1, 2)
    ]
    assert robust[0] == robust[1] != play(5, 1)


def test_seeds_are_not_those_of_training() -> None:
    for seed in range(20):
        training = {int(child.generate_state(1)[0]) for child in np.random.SeedSequence(seed).spawn(8)}
        assert evaluation_seed(seed) not in training | {seed}


def test_nothing_of_the_task_but_commands_resets_and_terminations_is_played() -> None:
    config = evaluation_env(TASK, GO2_CONFIG, num_envs=2, timestep_s=0.002).config
    assert (
        config.commands == TASK.commands and config.resets == TASK.resets and config.terminations == TASK.terminations
    )
    assert config == EnvConfig(
        num_envs=2,
        timestep_s=0.002,
        episode_length_s=20.0,
        command_interval_s=TASK.command_interval_s,
        commands=TASK.commands,
        resets=TASK.resets,
        terminations=TASK.terminations,
    )


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    normalizer = ObservationNormalizer(48)
    normalizer.update(np.random.default_rng(0).normal(size=(100, 48)).astype(np.float32))
    actor = ActorCritic(48, 12, [16], rng=np.random.default_rng(1)).actor()
    return actor.save(
        tmp_path_factory.mktemp("run") / "policy", robot_config=GO2_CONFIG, normalizer=normalizer, training_info={}
    )


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "train.evaluate", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=subprocess_environment(),
    )


def subprocess_environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


@pytest.mark.e2e
def test_the_command_writes_what_the_function_returns(policy_folder: Path) -> None:
    done = command(
        f"policy={policy_folder}",
        "num_envs=8",
        "duration_s=2",
        "timestep_s=0.002",
        "threads=1",
        folder=policy_folder.parent,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((policy_folder.parent / "evaluation_8x2s_seed_0_2ms.json").read_text())
    policy = load_policy(policy_folder)
    env = evaluation_env(TASK, GO2_CONFIG, num_envs=8, timestep_s=0.002)
    expected = evaluate(
        lambda observation: policy({"state": observation}), env, seed=0, duration_s=2.0, tracking=True
    ).to_dict()
    assert {name: written[name] for name in expected} == json.loads(json.dumps(expected))
    assert "falls" in done.stdout and "error yaw rate" in done.stdout and "physics step 2 ms" in done.stdout
    assert "as trained" in done.stdout and "worst corner" in done.stdout and "missed" in done.stdout
    assert written["as_trained"]["disturbed"] and written["as_trained"]["num_envs"] == 2 and not written["disturbed"]
    assert [target["limit"] for target in written["targets"]] == [*WALKING, TRACKING, TRACKING, TRACKING] and written[
        "targets"
    ][0]["met"] is False  # 8 x 2 s prove little


def test_each_evaluation_has_a_file_of_its_own_and_none_is_that_of_the_run(policy_folder: Path) -> None:
    given = [
        {},
        {"num_envs": 32},
        {"duration_s": 4.0},
        {"seed": 1},
        {"timestep_s": 0.002},
        {"mjcf": "menagerie:unitree_go1"},
        {"mjcf": "a/heavy.xml"},
        {"task": "go2_rough"},
        {"compare": "runs/other/policy"},
        {"compare": "hf://someone/walker"},
    ]
    names = [beside(EvaluateConfig(policy=str(policy_folder), **changed)) for changed in given]
    assert len({*names}) == len(given) and all(
        name.parent == policy_folder.parent and name.name != "evaluation.json" for name in names
    )
    assert names[1].name == "evaluation_32x20s_seed_0.json" and names[6].name == "evaluation_1024x20s_seed_0_heavy.json"
    assert beside(EvaluateConfig(policy="hf://someone/walker")).parent == Path()
    runs_folder = EvaluateConfig(policy=str(policy_folder.parent)).inside_runs()
    assert runs_folder.policy == str(policy_folder) and beside(runs_folder) == names[0]


def test_an_evaluation_that_is_interrupted_or_cannot_be_written_leaves_what_was_there(
    policy_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    output, before = tmp_path / "e.json", '{"falls": 0}'
    output.write_text(before)
    config = EvaluateConfig(policy=str(policy_folder), num_envs=1, duration_s=1.1, threads=1, output=str(output))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("train.commands.evaluate.evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, Console(quiet=True))
    assert output.read_text() == before and [path.name for path in tmp_path.iterdir()] == ["e.json"]


@pytest.mark.e2e
def test_another_task_is_named_by_its_file(policy_folder: Path, tmp_path: Path) -> None:
    done = command(
        f"policy={policy_folder}",
        "task=go2_rough",
        "num_envs=2",
        "duration_s=1.1",
        "threads=1",
        f"output={tmp_path}/e.json",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "e.json").read_text())["num_envs"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["policy=POLICY", "task=go2_ruff"], "unknown robot 'go2_ruff': did you mean 'go2_rough'?"),
        ([], "no policy given: policy=PATH"),
        (["policy=nowhere"], "nowhere"),
        (["policy=."], "rfx_config.json"),
        (["policy=POLICY", "timestep_s=0.003"], "0.003"),
        (["policy=POLICY", "mjcf=none.xml"], "none.xml"),
        (["policy=POLICY", "num_envs=0"], "num_envs"),
        (["policy=POLICY", "num_envs=1", "duration_s=1"], "duration_s is 1: errors count from 1 s"),
        (["policy=POLICY", "num_env=1"], "did you mean 'num_envs'?"),
        (["policy=POLICY", "output=/proc/none/evaluation.json"], "/proc/none"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, policy_folder, monkeypatch, capsys) -> None:
    from train.commands.evaluate import _run
    from train.task.errors import exit_on_bad_command_line

    monkeypatch.setattr(sys, "argv", ["evaluate", *(a.replace("POLICY", str(policy_folder)) for a in arguments)])
    with pytest.raises(SystemExit) as stop, exit_on_bad_command_line("evaluate"):
        _run()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error
    assert error.startswith("error: ") and error.count("\n") == 1
