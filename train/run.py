"""One training run: iterate, evaluate now and then, keep the best policy on disk, and choose between the best and the last at the end."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

import rfx
from rfx.state import Array
from train.config import TrainConfig
from train.errors import bad_input
from train.evaluation import Evaluation, evaluate, evaluation_env, evaluation_table
from train.metrics import MetricsWriter
from train.progress import Progress, clock, millions, progress
from train.trainer import Trainer

TRAINING_SEED, FINAL_SEED = 1, 0  # of the evaluations; the final one is what `python -m train.evaluate` does by default


def train(config: TrainConfig, folder: Path, console: Console | None = None) -> dict[str, Any]:
    """Train into folder, which ends with `policy/`, `evaluation.json` and TensorBoard's events.

    Returns status "finished" or "stopped" (by SIGINT or SIGTERM, with the best policy so far on disk), exit_code, seed, steps, wall_s,
    env_steps_per_s, evaluation and policy, as JSON types. Raises InputError for a configuration that cannot be run.
    """
    began, console = time.monotonic(), console or Console()
    with bad_input():
        trainer = Trainer(config)
        folder.mkdir(parents=True, exist_ok=True)
        writer = MetricsWriter(folder)
    best, speeds, total_steps = BestPolicy(trainer, folder, began), [], whole_iterations(config)
    console.print(_headline(config, folder), highlight=False, soft_wrap=True)
    with writer, progress(total_steps, trainer.env.step_s, console) as display, StopSignal(display) as stop:
        display.status("first iteration: compiling kernels, which later runs take from a cache")
        next_evaluation = config.trainer.evaluate_every
        try:
            while trainer.steps < total_steps and not stop.signal:
                metrics = trainer.iterate()
                speeds.append(metrics["time/env_steps_per_s"])
                if next_evaluation <= trainer.steps < total_steps:
                    next_evaluation += config.trainer.evaluate_every
                    metrics |= best.consider(display, stop)
                writer.write(metrics, trainer.steps)
                display.update(trainer.steps, metrics)
                display.status("training")
            if stop.signal:
                raise Stopped
            writer.write(best.consider(display, stop), trainer.steps)
            best.choose(display, stop)
        except Stopped:
            best.save_unless_saved()
        except (KeyboardInterrupt, Exception):  # Ctrl-C reaches a compiler at work too, which then fails
            if not stop.signal:
                raise
    _report(best, stop.signal, trainer.steps, time.monotonic() - began, console)
    return {"status": "stopped" if stop.signal else "finished", "exit_code": 128 + stop.signal if stop.signal else 0,
            "seed": config.seed, "steps": trainer.steps, "wall_s": time.monotonic() - began,
            "env_steps_per_s": statistics.median(speeds) if speeds else None,
            "evaluation": best.evaluation.to_dict() if best.evaluation else None, "policy": str(best.path) if best.saved else None}


def whole_iterations(config: TrainConfig) -> int:
    """Environment steps of the run: total_steps, rounded up to iterations."""
    per_iteration = config.env.num_envs * config.trainer.rollout_steps
    return math.ceil(config.trainer.total_steps / per_iteration) * per_iteration


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A policy as it was after some steps, with weights and statistics of its own."""

    policy: rfx.LoadedPolicy
    steps: int

    @classmethod
    def of(cls, trainer: Trainer) -> Snapshot:
        """The trainer's policy as it is now."""
        normalizer = rfx.ObservationNormalizer.from_dict(trainer.normalizer.to_dict())
        return cls(policy=rfx.LoadedPolicy(trainer.policy.actor(), robot_config=trainer.robot, normalizer=normalizer), steps=trainer.steps)

    def act(self, observation: Array) -> Array:
        """Deterministic actions (N, num_joints) for observations (N, max_state_dim)."""
        return self.policy({"state": observation})


class BestPolicy:
    """The best policy so far, as judged by short evaluations: in memory, and in folder/policy."""

    def __init__(self, trainer: Trainer, folder: Path, began: float):
        self.trainer, self.folder, self.path, self.began = trainer, folder, folder / "policy", began
        self.evaluation: Evaluation | None = None  # of the policy that is on disk
        self.saved: Snapshot | None = None
        self._last: Snapshot | None = None
        self._env = self._new_env(trainer.config.trainer.evaluation_envs)

    def consider(self, display: Progress, stop: StopSignal) -> dict[str, float]:
        """Evaluate the policy as it is now, and save it if it is the best so far. Returns metrics by tag."""
        display.status("evaluating")
        self._last = Snapshot.of(self.trainer)
        evaluation = evaluate(self._last.act, self._env, seed=TRAINING_SEED, duration_s=self.trainer.config.trainer.evaluation_s,
                              after_step=stop.check)
        better = self.evaluation is None or evaluation.score <= self.evaluation.score
        if better:
            self._save(self._last, evaluation)
        display.message(f"[dim]evaluated at[/] {millions(self._last.steps):>7}  {_errors(evaluation)}  [dim]{'saved' if better else ''}[/]")
        return {f"evaluation/{name}": value for name, value in evaluation.to_dict().items() if isinstance(value, (int, float))}

    def choose(self, display: Progress, stop: StopSignal) -> None:
        """Judge the best and the last policy by a longer evaluation with more robots, and save the better one with its figures."""
        settings = self.trainer.config.trainer
        env = self._new_env(settings.final_evaluation_envs)
        candidates = [self.saved] if self.saved is self._last else [self.saved, self._last]
        evaluations = []
        for candidate in candidates:
            display.status(f"final evaluation of the policy from {millions(candidate.steps)} steps")
            evaluations.append(evaluate(candidate.act, env, seed=FINAL_SEED, duration_s=settings.final_evaluation_s, after_step=stop.check))
        evaluation, candidate = min(zip(evaluations, candidates), key=lambda pair: pair[0].score)
        self._save(candidate, evaluation)
        (self.folder / "evaluation.json").write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n")

    def save_unless_saved(self) -> None:
        """Save the policy as it is now if none was saved yet: better than nothing."""
        if self.saved is None:
            self._save(Snapshot.of(self.trainer), None)

    def _save(self, snapshot: Snapshot, evaluation: Evaluation | None) -> None:
        config = self.trainer.config
        info = {"robot": config.robot, "seed": config.seed, "steps": snapshot.steps, "wall_s": round(time.monotonic() - self.began, 1),
                "evaluation": evaluation.to_dict() if evaluation else None, "task": dataclasses.asdict(config.env)}
        policy = snapshot.policy
        policy.policy.save(self.path, robot_config=policy.robot_config, normalizer=policy.normalizer, training_info=info)
        self.saved, self.evaluation = snapshot, evaluation

    def _new_env(self, num_envs: int):
        config = self.trainer.config
        return evaluation_env(config.env, self.trainer.robot, num_envs=num_envs, threads=config.threads)


class Stopped(Exception):
    """The user asked the run to stop, and it is in a state worth saving."""


class StopSignal:
    """Turns the first SIGINT or SIGTERM into a flag, so that an iteration ends whole; the second stops at once. A context manager."""

    def __init__(self, display: Progress):
        self.signal = 0
        self._display = display
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises Stopped if a signal has come: for work that need not be finished."""
        if self.signal:
            raise Stopped

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        self._display.status("stopping after this iteration (Ctrl-C again: at once)")


def _headline(config: TrainConfig, folder: Path) -> str:
    hidden = "-".join(map(str, config.policy.hidden))
    return (f"[bold]{config.robot}[/], seed {config.seed}: {config.env.num_envs:,} environments, network {hidden}, "
            f"{millions(config.trainer.total_steps)} steps\n[dim]in {_short(folder)}[/]")


def _errors(evaluation: Evaluation) -> str:
    return (f"falls {evaluation.falls_per_episode:.2f}  error vx {evaluation.error_vx:.3f}  vy {evaluation.error_vy:.3f}  "
            f"yaw rate {evaluation.error_yaw_rate:.3f}")


def _report(best: BestPolicy, stopped: int, steps: int, seconds: float, console: Console) -> None:
    console.print(f"\n{'Stopped' if stopped else 'Done'} after {millions(steps)} steps, {clock(seconds)}.", highlight=False)
    if best.saved is None:
        console.print("No policy was saved.")
        return
    path = _short(best.path)
    console.print(f"Policy  [bold]{path}[/]  [dim]from {millions(best.saved.steps)} steps[/]\n", highlight=False, soft_wrap=True)
    if best.evaluation:
        table = evaluation_table({"": best.evaluation})
        console.print(table, f"[dim]{best.evaluation.num_envs} robots x {best.evaluation.duration_s:g} s, deterministic[/]\n", highlight=False)
    else:
        console.print("It was not evaluated yet.\n")
    console.print(f"evaluate  python -m train.evaluate policy={path}\ndeploy    rfx deploy {path} --robot sim", highlight=False, soft_wrap=True)


def _short(path: Path) -> Path:
    """The path relative to the current folder, where it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
