"""`python -m train.evaluate policy=PATH`: how well a policy walks, as a table, as evaluation.json, as a video. `--help` tells more."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import rfx
from envs.config import CONFIGS, EnvConfig
from envs.go2 import Go2Env
from envs.render import render_frames, write_video
from rfx.robots.mjcf import load_model
from train.config import build
from train.errors import bad_input, exit_on_bad_command_line, exit_on_error
from train.evaluation import Evaluation, evaluate, evaluation_env, evaluation_table

VIDEO_FPS_HZ = 25.0
TASK_KEYS = ("timestep_s", "command_interval_s", "mjcf", "commands", "resets", "terminations")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `configs/evaluate.yaml` says."""

    policy: str | None = None
    num_envs: int = 256
    duration_s: float = 20.0
    seed: int = 0
    threads: int = 0
    timestep_s: float | None = None
    mjcf: str | None = None
    output: str | None = None
    video: str | None = None

    def __post_init__(self) -> None:
        if self.policy is None:
            raise ValueError("no policy given: policy=PATH, of a policy folder such as runs/DATE_TIME/policy")
        if self.num_envs < 1 or not self.duration_s > 0 or self.seed < 0 or self.threads < 0:
            raise ValueError(f"num_envs {self.num_envs}, duration_s {self.duration_s}, seed {self.seed}, threads {self.threads}: "
                             f"the first two must be positive, the others 0 or more")
        if self.video and importlib.util.find_spec("imageio_ffmpeg") is None:
            raise ValueError(f"video is {self.video!r}, which needs imageio-ffmpeg: pip install 'rfx[viz]'")


def run(config: EvaluateConfig, console: Console) -> Evaluation:
    """Evaluate as config says, print the table, write the files. Raises InputError for a policy, model or path that cannot be used."""
    with bad_input():
        policy = rfx.load_policy(config.policy)
        robot = policy.robot_config
        if robot is None:
            raise ValueError(f"{config.policy} does not say which robot it is for: save it with robot_config")
        env = evaluation_env(task_of(policy.training_info, robot.name), robot, num_envs=config.num_envs, threads=config.threads,
                             timestep_s=config.timestep_s, mjcf=config.mjcf)
        output = Path(config.output) if config.output else _beside(config.policy)
        for path in filter(None, (output, config.video and Path(config.video))):
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()  # noqa: SIM115  (fails now, rather than after playing)

    film = Film(env) if config.video else None
    bar = Progress(TextColumn(f"{config.num_envs} robots, {config.duration_s:g} s"), BarColumn(), TimeRemainingColumn(), console=console,
                   transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("", total=round(config.duration_s / env.step_s))

        def after_step() -> None:
            bar.advance(task)
            if film:
                film.record()

        evaluation = evaluate(lambda observation: policy({"state": observation}), env, seed=config.seed, duration_s=config.duration_s,
                              after_step=after_step)
    console.print(evaluation_table({"": evaluation}), highlight=False)
    details = (f"{config.num_envs} robots x {config.duration_s:g} s, physics step {1e3 * evaluation.timestep_s:g} ms, "
               f"seed {config.seed}")
    console.print(f"[dim]{details}\n{output}[/]", highlight=False, soft_wrap=True)
    output.write_text(json.dumps(evaluation.to_dict() | {"policy": str(config.policy), "mjcf": config.mjcf}, indent=2) + "\n")
    if film:
        with bad_input(), console.status(f"writing {config.video}"):
            film.write(Path(config.video), config.mjcf)
        console.print(f"[dim]{config.video}[/]", highlight=False, soft_wrap=True)
    return evaluation


def task_of(training_info: dict[str, Any], robot: str) -> EnvConfig:
    """The task that a policy was trained for, as its folder says; without that the robot's default one.

    Raises ValueError for a task with terms or values that this rfx does not have.
    """
    task = training_info.get("task")
    if task is None:
        return EnvConfig.load(robot)
    return build(EnvConfig, {key: task[key] for key in TASK_KEYS if key in task}, "training_info.task")


class Film:
    """Records the first robot of an environment, to be drawn afterwards."""

    def __init__(self, env: Go2Env):
        self._env, self._qpos = env, env.simulation.batch.bind("qpos")
        self._every, self._step = max(1, round(1.0 / (env.step_s * VIDEO_FPS_HZ))), 0
        self._frames: list[tuple[np.ndarray, ...]] = []

    def record(self) -> None:
        """Note pose, command and velocity, as often as the video needs."""
        if self._step % self._every == 0:
            state = self._env.state
            velocity = np.append(state.base_linear_velocity_b[0, :2], state.robot.base_angular_velocity_b[0, 2])
            self._frames.append((self._qpos[0].copy(), state.robot.velocity_command[0].copy(), velocity))
        self._step += 1

    def write(self, path: Path, mjcf: str | None) -> None:
        """Draw and write the video. Raises ImportError or RuntimeError that say what is missing."""
        qpos, command, velocity = map(np.array, zip(*self._frames))
        model = load_model(self._env.robot, mjcf or self._env.config.mjcf, visual=True)
        frames = render_frames(model, qpos, width=854, height=480, commanded_velocity=command, actual_velocity=velocity)
        write_video(path, frames, 1.0 / (self._every * self._env.step_s))


def _beside(policy: str) -> Path:
    """evaluation.json in the folder that holds the policy folder; in the current one for a policy from elsewhere."""
    return (Path() if policy.startswith("hf://") else Path(policy).parent) / "evaluation.json"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="evaluate")
def _run(values: DictConfig) -> None:
    with exit_on_error():
        with bad_input():
            config = build(EvaluateConfig, OmegaConf.to_container(values, resolve=True))
        run(config, Console())


if __name__ == "__main__":
    with exit_on_bad_command_line("evaluate"):
        _run()
