"""`python -m train.evaluate policy=PATH`: measures how well a policy walks.

It plays the policy under nominal conditions, as trained, and in the worst corner, and writes a table, a JSON file and
a video. suite=full tests the policy in many more conditions and writes a report. suite=models tests it on robot models
with other physical figures.
"""

from __future__ import annotations

if __name__ == "__main__":
    from rfx.system.extras import exit_without
    from rfx.system.interrupt import leave_on_interrupt

    leave_on_interrupt()
    exit_without("train", "python -m train.evaluate")

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import rfx
from envs.legged.config import EnvConfig, TerrainConfig
from envs.legged.env import LeggedEnv
from envs.pictures.render import render_frames, write_video
from envs.settings.configs import CONFIGS
from rfx.drivers.base import base_addresses
from rfx.drivers.mjcf import load_model
from rfx.robot.config import RobotConfig
from rfx.settings.reader import read
from rfx.settings.terms import search_working_directory
from rfx.system.folders import replace_file
from train.judge.conditions import NOMINAL, conditions, fewer
from train.judge.evaluate_config import EvaluateConfig
from train.judge.evaluation import Evaluation, check_duration, evaluate
from train.judge.gym import evaluate_gym, gym_policy
from train.judge.output import beside, check_writable, names_of
from train.judge.play import Act, PolicyAct, evaluation_env, evaluation_seed, load, task_of
from train.judge.targets import WALKING, evaluation_targets, targets_table
from train.judge.tracking import HOLD_S
from train.runs.resume import use_modules_of
from train.task.errors import bad_input, exit_on_bad_command_line, exit_on_error
from train.task.task import figures_table

VIDEO_FPS_HZ = 25.0
SIGHT_M = 6.0  # half width of the terrain shown around the robot in a video


def run(config: EvaluateConfig, console: Console) -> Evaluation:
    """Evaluate as config says, print the table and write the files; returns the nominal evaluation.

    Raises InputError for a policy, model or path that cannot be used.
    """
    with bad_input():
        policies = {path: load(path) for path in (config.policy, config.compare) if path}
        names = names_of(list(policies))
        policy = policies[config.policy]
        task = EnvConfig.load(config.task) if config.task else task_of(policy.training_info, policy.robot_config.name)
        terrain = config.task and task.terrain and task.terrain.for_evaluation(evaluation_seed(config.seed))
        mjcf = None if config.suite else config.mjcf  # the suite plays the other model as one of its conditions
        task = dataclasses.replace(task, timestep_s=config.timestep_s or task.timestep_s, mjcf=mjcf or task.mjcf)
        envs = {
            path: condition_envs(config, task, loaded.robot_config, terrain or None)
            for path, loaded in policies.items()
        }
        if config.suite and config.mjcf:
            load_model(policy.robot_config, config.mjcf)  # raises an error now, rather than after the evaluation
        check_duration(envs[config.policy][NOMINAL], config.duration_s)
        output = Path(config.output) if config.output else beside(config)
        check_writable(output, config.video, output.parent / "report" / "walk.mp4" if config.suite == "full" else None)

    film = Film(envs[config.policy][NOMINAL]) if config.video else None
    evaluations = {
        path: {
            name: evaluate_with_bar(
                config,
                PolicyAct(policies[path]),
                env,
                name,
                console,
                film.record if film and path == config.policy and name == NOMINAL else None,
            )
            for name, env in of_policy.items()
        }
        for path, of_policy in envs.items()
    }
    details = show(config, names, evaluations, console)
    figures = {
        path: figures_of(results) | {"policy": str(path), "mjcf": task.mjcf} for path, results in evaluations.items()
    }
    write_figures(output, config, figures)
    if config.suite == "full":
        report = run_suite(config, policies, names, task, evaluations, figures, output.parent, details, console)
        console.print(f"[dim]{report}[/]", highlight=False, soft_wrap=True)
    elif config.suite:
        run_models(config, policies, names, task, figures, console)
    write_figures(output, config, figures)
    console.print(f"[dim]{output}[/]", highlight=False, soft_wrap=True)
    if film:
        with bad_input(), console.status(f"writing {config.video}"):
            film.write(Path(config.video))
        console.print(f"[dim]{config.video}[/]", highlight=False, soft_wrap=True)
    return evaluations[config.policy][NOMINAL]


def condition_envs(
    config: EvaluateConfig, task: EnvConfig, robot: RobotConfig, terrain: TerrainConfig | None
) -> dict[str, LeggedEnv]:
    """The environments of all evaluations by name of the condition, the nominal one first."""

    def make(num_envs: int, **changes: Any) -> LeggedEnv:
        return evaluation_env(task, robot, num_envs=num_envs, threads=config.threads, terrain=terrain, **changes)

    nominal = make(config.num_envs)
    others = conditions(task, robot, float(nominal.simulation.mass_kg[0]))
    return {NOMINAL: nominal} | {name: make(fewer(config.num_envs), **changes) for name, changes in others.items()}


def show(
    config: EvaluateConfig,
    names: Mapping[str, str],
    evaluations: Mapping[str, Mapping[str, Evaluation]],
    console: Console,
) -> str:
    """Print the figures, with conditions side by side, and the targets. Returns in words how much was played."""
    columns = {
        name if len(evaluations) == 1 else f"{names[path]}, {name}": result.figures
        for path, results in evaluations.items()
        for name, result in results.items()
    }
    console.print(figures_table(columns), highlight=False)
    nominal = evaluations[config.policy][NOMINAL]
    details = (
        f"{config.num_envs} robots x {config.duration_s:g} s nominal, {fewer(config.num_envs)} each other condition, "
        f"physics step {1e3 * nominal.timestep_s:g} ms, seed {config.seed}"
    )
    console.print(f"[dim]{details}[/]", "", targets_table(evaluation_targets(nominal, WALKING)), "", highlight=False)
    return details


def figures_of(results: Mapping[str, Evaluation]) -> dict[str, Any]:
    """One policy's part of the JSON file: nominal figures, figures of the other conditions by name, and targets."""
    others = {name.replace(" ", "_"): result.to_dict() for name, result in results.items() if name != NOMINAL}
    return (
        results[NOMINAL].to_dict()
        | others
        | {"targets": [target.to_dict() for target in evaluation_targets(results[NOMINAL], WALKING)]}
    )


def write_figures(output: Path, config: EvaluateConfig, figures: dict[str, dict]) -> None:
    """Write the JSON file: the figures of the policy, and of the policy that it is compared with."""
    written = figures[config.policy] | ({"compare": figures[config.compare]} if config.compare else {})
    with bad_input():
        replace_file(output, (json.dumps(written, indent=2) + "\n").encode())


def evaluate_with_bar(
    config: EvaluateConfig,
    act: Act,
    env: LeggedEnv,
    condition: str,
    console: Console,
    record: Callable[[], None] | None,
) -> Evaluation:
    """Evaluate under one condition, with a progress bar; record, if given, is called after every control step."""
    bar = Progress(
        TextColumn(f"{condition}: {env.num_envs} robots, {config.duration_s:g} s"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        held_s = min(HOLD_S, config.duration_s)  # time for the held commands, which come after the random ones
        task = bar.add_task("", total=round(config.duration_s / env.step_s) + round(held_s / env.step_s))

        def after_step() -> None:
            bar.advance(task)
            if record:
                record()

        return evaluate(act, env, seed=config.seed, duration_s=config.duration_s, tracking=True, after_step=after_step)


def run_suite(
    config: EvaluateConfig,
    policies: dict[str, rfx.LoadedPolicy],
    names: dict[str, str],
    task: EnvConfig,
    evaluations: dict[str, dict[str, Evaluation]],
    figures: dict[str, dict],
    folder: Path,
    details: str,
    console: Console,
) -> Path:
    """Play the suite, add its results to the figures, and write the report into folder. Returns the report's path."""
    from train.judge.report import Judged, film, write_report  # imported here because only the suite needs them
    from train.judge.suite import Runner

    judged = {}
    with console.status("") as status:
        for path, policy in policies.items():
            runner = Runner(
                PolicyAct(policy),
                task,
                policy.robot_config,
                num_envs=config.num_envs,
                duration_s=config.duration_s,
                seed=config.seed,
                threads=config.threads,
                tell=lambda condition, name=names[path]: status.update(f"{name}: {condition}"),
            )
            suite = runner.run(evaluations[path][NOMINAL], (config.mjcf,) if config.mjcf else ())
            figures[path]["suite"] = suite.to_dict()
            status.update(f"{names[path]}: video")
            judged[names[path]] = Judged(
                path=path,
                training_info=policy.training_info,
                suite=suite,
                conditions=evaluations[path],
                **film(PolicyAct(policy), task, policy.robot_config),
            )
    with bad_input():
        return write_report(folder, judged, details)


def run_models(
    config: EvaluateConfig,
    policies: dict[str, rfx.LoadedPolicy],
    names: dict[str, str],
    task: EnvConfig,
    figures: dict[str, dict],
    console: Console,
) -> None:
    """Play every policy on robot models with other figures, print the table, and add the results to figures."""
    from train.judge.models import Models, models_table  # imported here because only this suite needs them

    for path, policy in policies.items():
        with console.status("") as status, bad_input():
            models = Models(
                PolicyAct(policy),
                task,
                policy.robot_config,
                num_envs=config.num_envs,
                duration_s=config.duration_s,
                seed=config.seed,
                threads=config.threads,
                tell=lambda line, name=names[path]: status.update(f"{name}: {line}"),
            )
            results = models.run()
        figures[path]["models"] = {
            name: {f"{timestep_ms:g}": result.to_dict() for timestep_ms, result in of_model.items()}
            for name, of_model in results.items()
        }
        console.print(names[path] if len(policies) > 1 else "", models_table(results), "", highlight=False)


class Film:
    """Records the motion of an environment's first robot, for a video drawn afterwards."""

    def __init__(self, env: LeggedEnv):
        self._env, self._qpos = env, env.simulation.batch.bind("qpos")
        self._every, self._step = max(1, round(1.0 / (env.step_s * VIDEO_FPS_HZ))), 0
        self._frames: list[tuple[np.ndarray, ...]] = []

    def record(self) -> None:
        """Record pose, command and velocity, at the frame rate of the video."""
        if self._step % self._every == 0:
            state = self._env.state
            velocity = np.append(state.base_linear_velocity_b[0, :2], state.robot.base_angular_velocity_b[0, 2])
            self._frames.append((self._qpos[0].copy(), state.robot.velocity_command[0].copy(), velocity))
        self._step += 1

    def write(self, path: Path) -> None:
        """Draw and write the video. Raises ImportError or RuntimeError with a message that says what is missing."""
        qpos, command, velocity = map(np.array, zip(*self._frames))
        ground = self._env.simulation.ground
        if ground is not None:  # keeps only the terrain near the robot: to draw all of it takes seconds per picture
            way = qpos[:, base_addresses(self._env.simulation.model).position][:, :2]
            ground = ground.crop(way.min(axis=0) - SIGHT_M, way.max(axis=0) + SIGHT_M)
        model = load_model(self._env.robot, self._env.config.mjcf, visual=True, ground=ground)
        frames = render_frames(model, qpos, width=854, height=480, commanded_velocity=command, actual_velocity=velocity)
        write_video(path, frames, 1.0 / (self._every * self._env.step_s))


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="evaluate")
def _run(values: DictConfig) -> None:
    with exit_on_error():
        with bad_input():
            config = read(EvaluateConfig, OmegaConf.to_container(values, resolve=True)).inside_runs()
            for path in filter(None, (config.policy, config.compare)):
                use_modules_of(Path(path).resolve().parent, print)
            gym = gym_policy(config.policy)
        evaluate_gym(gym, config, Console()) if gym else run(config, Console())


def main() -> None:
    """Entry point of the command."""
    search_working_directory()
    with exit_on_bad_command_line("evaluate"):
        _run()


if __name__ == "__main__":
    main()
