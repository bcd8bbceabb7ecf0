"""One training run: iterate, evaluate and save now and then, and choose between the best policy and the last at the
end.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from rfx.system.output import lasting_output
from rfx.system.signals import stopping_signals
from train.ppo.errors import TrainingBroken
from train.runs.best import BestPolicy
from train.runs.diagnosis import check_updates
from train.runs.disk import Writes
from train.runs.lock import sole_process
from train.runs.metrics import MetricsWriter
from train.runs.progress import Progress, clock, millions, progress
from train.runs.resume import RunCheckpoints, find_run, load_run, start_from
from train.runs.trainer import Trainer
from train.task.config import TrainConfig
from train.task.errors import bad_input
from train.task.task import figures_table

Watch = Callable[
    [int, Mapping[str, float]], bool
]  # shown environment steps and an evaluation, it says whether to give the run up


@lasting_output()
def train(
    config: TrainConfig,
    folder: Path,
    console: Console | None = None,
    watch: Watch | None = None,
    overrides: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train into folder, which ends with `policy/`, `evaluation.json` and TensorBoard's events.

    With config.resume, folder is that run's, and it goes on from its newest checkpoint. watch is shown every
    evaluation but the final one, and may say that the run is to be given up. overrides are what a command line said
    of the run, for its record. Returns status "finished", "stopped" (by SIGINT, SIGTERM or SIGHUP, with a checkpoint and
    the best policy so far on disk), "pruned" (given up, the same) or "failed" (with an error: nothing sound was
    left to learn from), exit_code, seed, steps, wall_s, env_steps_per_s, fingerprint of the weights, evaluation,
    figures and policy, as JSON types. Raises InputError for a configuration that cannot be run.
    """
    began, console, total_steps = time.monotonic(), console or Console(), whole_iterations(config)

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with ExitStack() as stack:
        with bad_input():
            stack.enter_context(sole_process(folder))
        state, changed = load_run(config, folder, total_steps, tell)
        with bad_input():
            trainer = stack.enter_context(closing(Trainer(config)))
            writer = MetricsWriter(folder, state.get("run.metrics"))
        console.print(_headline(config, folder), highlight=False, soft_wrap=True)
        if note := getattr(trainer.task, "note", None):
            console.print(f"[dim]{note}[/]", highlight=False, soft_wrap=True)
        if config.start_from and not state:
            source = find_run(config.start_from, folder.parent, "start_from")
            steps = start_from(trainer, source, tell)
            console.print(
                f"[dim]begins with the network of {_short(source)}, after {millions(steps)} steps[/]",
                highlight=False,
                soft_wrap=True,
            )
        with writer, progress(total_steps, trainer.task.shown, console, began) as display, StopSignal(display) as stop:
            writes = Writes(lambda line: display.message(escape(line)))
            trainer.collector.tell = writes.tell
            best = BestPolicy(trainer, folder, display, writes)
            saved = RunCheckpoints(folder, trainer, best, writer, display, writes)
            saved.begin(state, changed, overrides)
            loop = Loop(trainer, best, saved, writer, display, writes, stop, watch)
            failure = loop.run(total_steps)
        digest = saved.end(finished=not (stop.signal or failure or loop.pruned))
    _report(best, stop.signal, failure, loop.pruned, trainer.steps, display.elapsed_s, console)
    judged = best.judgement
    return {
        "status": "failed" if failure else "stopped" if stop.signal else "pruned" if loop.pruned else "finished",
        "exit_code": 1 if failure else 128 + stop.signal if stop.signal else 0,
        "error": failure,
        "seed": config.seed,
        "steps": trainer.steps,
        "wall_s": display.elapsed_s,
        "env_steps_per_s": statistics.median(loop.speeds) if loop.speeds else None,
        "fingerprint": digest,
        "evaluation": judged.to_dict() if judged else None,
        "figures": [dataclasses.asdict(figure) for figure in judged.figures] if judged else [],
        "policy": str(best.path) if best.saved and best.path.exists() else None,
    }


class Loop:
    """The iterations of one run, with what is looked at, written and saved between them. speeds: environment steps/s of
    each.
    """

    def __init__(
        self,
        trainer: Trainer,
        best: BestPolicy,
        saved: RunCheckpoints,
        writer: MetricsWriter,
        display: Progress,
        writes: Writes,
        stop: StopSignal,
        watch: Watch | None,
    ):
        self.speeds: list[float] = []
        self.pruned = False  # given up by watch
        self._watch = watch
        self._trainer, self._best, self._saved, self._writer = trainer, best, saved, writer
        self._display, self._writes, self._stop = display, writes, stop

    def run(self, total_steps: int) -> str | None:
        """Train to total_steps and choose the policy, or to a signal to stop. Returns why training broke, if it did."""
        self._display.status("first iteration: compiling kernels, which later runs take from a cache")
        try:
            while self._trainer.steps < total_steps and not self._stop.signal and not self.pruned:
                self._iterate(total_steps)
            self._saved.save()
            self._stop.check()
            if self.pruned:
                return None
            self._write(self._best.consider(self._stop.check))
            self._best.choose(self._stop.check)
        except Stopped:
            self._best.save_unless_saved()
        except TrainingBroken as error:
            return str(error)
        except (KeyboardInterrupt, Exception):  # Ctrl-C reaches a compiler at work too, which then fails
            if not self._stop.signal:
                raise
        return None

    def _iterate(self, total_steps: int) -> None:
        trainer = self._trainer
        metrics = trainer.iterate()
        check_updates(trainer, metrics, self._best.folder)
        self._saved.note_beginning()
        self.speeds.append(metrics["time/env_steps_per_s"])
        every = trainer.config.trainer.evaluate_every
        if trainer.due(every) and trainer.steps < total_steps:
            evaluation = self._best.consider()
            metrics |= evaluation
            when_due = (
                trainer.steps // every * every
            )  # the same of runs whose iterations differ in length, so that they can be compared
            self.pruned = self._watch is not None and self._watch(when_due, evaluation)
        self._write(metrics)
        self._display.update(trainer.steps, metrics)
        if not self._stop.signal:
            self._display.status("training")
        self._saved.save_if_due()

    def _write(self, metrics: dict[str, float]) -> None:
        with self._writes.attempt("the metrics"):
            self._writer.write(metrics, self._trainer.steps)


def whole_iterations(config: TrainConfig) -> int:
    """Environment steps of the run: total_steps, rounded up to iterations."""
    per_iteration = config.env.num_envs * config.trainer.rollout_steps
    return math.ceil(config.trainer.total_steps / per_iteration) * per_iteration


class Stopped(Exception):
    """The user asked the run to stop, and it is in a state worth saving."""


class StopSignal:
    """Turns the first SIGINT, SIGTERM or SIGHUP (the terminal is gone) into a flag, so that an iteration ends whole.

    A second one stops at once, but for SIGHUP, which shell and kernel both send. Where SIGHUP is ignored, as under
    nohup, it stays so. A context manager.
    """

    def __init__(self, display: Progress):
        self.signal = 0
        self._display = display
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in stopping_signals():
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
        if self.signal and number == signal.SIGHUP:
            return
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        self._display.status("stopping after this iteration (Ctrl-C again: at once)")


def _headline(config: TrainConfig, folder: Path) -> str:
    hidden = "-".join(map(str, config.policy.hidden))
    return (
        f"[bold]{config.title}[/], seed {config.seed}: {config.env.num_envs:,} environments, network {hidden}, "
        f"{millions(config.trainer.total_steps)} steps\n[dim]in {_short(folder)}[/]"
    )


def _report(
    best: BestPolicy, stopped: int, failure: str | None, pruned: bool, steps: int, seconds: float, console: Console
) -> None:
    folder = _short(best.folder)
    how = "Failed" if failure else "Stopped" if stopped else "Given up" if pruned else "Done"
    console.print(f"\n{how} after {millions(steps)} steps, {clock(seconds)}.", highlight=False)
    if failure:
        console.print(f"error: {failure}", markup=False, highlight=False, soft_wrap=True)
    if (stopped or failure) and steps:
        console.print(f"go on     python -m train resume={folder}", markup=False, highlight=False, soft_wrap=True)
    if best.saved is None or not best.path.exists():
        console.print("No policy was saved.")
        return
    path = _short(best.path)
    console.print(
        f"Policy  [bold]{path}[/]  [dim]from {millions(best.saved.steps)} steps[/]\n", highlight=False, soft_wrap=True
    )
    if best.judgement:
        console.print(figures_table({"": best.judgement.figures}), f"[dim]{best.judgement.note}[/]\n", highlight=False)
    else:
        console.print("It was not evaluated yet.\n")
    if best.onnx is not None and best.onnx.exists():
        console.print(f"{'ONNX':<10}{_short(best.onnx)}", markup=False, highlight=False, soft_wrap=True)
    for what, command in best.trainer.task.commands(path).items():
        console.print(f"{what:<10}{command}", markup=False, highlight=False, soft_wrap=True)


def _short(path: Path) -> Path:
    """The path relative to the current folder, where it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
