"""One training run: the iterations, regular evaluations and checkpoints, and the choice of the final policy.

The final policy is the better of the best one so far and the last one.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from rfx.system.output import lasting_output
from rfx.system.outside import OutsideError
from rfx.system.signals import stopping_signals
from train.ppo.errors import TrainingBroken
from train.runs.best import BestPolicy
from train.runs.callbacks import Callback, Callbacks
from train.runs.diagnosis import check_updates
from train.runs.disk import Writes
from train.runs.lock import sole_process
from train.runs.loggers import Logger, find_loggers
from train.runs.metrics import MetricsTable
from train.runs.progress import Progress, clock, millions, progress
from train.runs.resume import RunCheckpoints, find_run, load_run, start_from
from train.runs.trainer import Trainer
from train.task.config import TrainConfig
from train.task.errors import bad_input
from train.task.task import figures_table


@lasting_output()
def train(
    config: TrainConfig,
    folder: Path,
    console: Console | None = None,
    callbacks: Iterable[Callback | Callable] = (),
    overrides: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train into folder: `policy/`, `evaluation.json`, `metrics.csv` and the files of the config's loggers.

    With config.resume, folder is that run's folder, and the run goes on from its newest checkpoint. overrides are those
    of the command line, for the run's record. Returns, as JSON types, exit_code, seed, steps, wall_s, env_steps_per_s,
    fingerprint of the weights, evaluation, figures, policy, and a status:

    - "finished": all steps are done.
    - "ended": a callback ended the run early.
    - "stopped": SIGINT, SIGTERM or SIGHUP; a checkpoint and the best policy so far are on disk.
    - "pruned": a callback gave up on the run; the same files are on disk.
    - "failed": an error; the training had no sound data left to learn from.

    Raises InputError for a configuration that cannot be run.
    """
    began, console, total_steps = time.monotonic(), console or Console(), whole_iterations(config)

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with ExitStack() as stack:
        with bad_input():
            callbacks = Callbacks(callbacks)
            logger_types = find_loggers(config.loggers)
            stack.enter_context(sole_process(folder))
        state, changed = load_run(config, folder, total_steps, tell)
        with bad_input():
            trainer = stack.enter_context(closing(Trainer(config)))
        if config.start_from and not state:  # before any file is written, because the network may not fit
            source = find_run(config.start_from, folder.parent, "start_from")
            steps = start_from(trainer, source, tell)
        with bad_input():
            writes = Writes(tell)
            table = MetricsTable(folder, state.get("run.metric_rows", 0))
            loggers: list[Logger] = [table]
            for logger_type in logger_types:
                loggers.append(logger_type(folder, config, state.get("steps", 0)))
                stack.callback(_close, loggers[-1], writes)
        console.print(_headline(config, folder), highlight=False, soft_wrap=True)
        if config.policy.network:
            console.print(
                f"[dim]{escape(config.policy.network)} trains in plain tinygrad, several times slower than "
                "rfx's own networks[/]",
                highlight=False,
                soft_wrap=True,
            )
        if note := getattr(trainer.task, "note", None):
            console.print(f"[dim]{note}[/]", highlight=False, soft_wrap=True)
        if config.start_from and not state:
            console.print(
                f"[dim]begins with the network of {_short(source)}, after {millions(steps)} steps[/]",
                highlight=False,
                soft_wrap=True,
            )
        with progress(total_steps, trainer.task.shown, console, began) as display, StopSignal(display) as stop:
            writes.tell = lambda line: display.message(escape(line))
            trainer.collector.tell = writes.tell
            best = BestPolicy(trainer, folder, display, writes)
            saved = RunCheckpoints(folder, trainer, best, table, display, writes)
            saved.begin(state, changed, overrides)
            loop = Loop(trainer, best, saved, loggers, display, writes, stop, callbacks)
            failure = loop.run(total_steps)
        writes.tell = tell
        status = (
            "failed"
            if failure
            else "stopped"
            if stop.signal
            else "finished"
            if trainer.steps >= total_steps
            else "pruned"
            if callbacks.ended_by.gives_up
            else "ended"
        )
        digest = saved.end(finished=status == "finished")
    _report(best, status, failure, trainer.steps, display.elapsed_s, console)
    judged = best.judgement
    return {
        "status": status,
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
    """The iterations of one run, and the evaluations, metrics and checkpoints between them.

    speeds: environment steps/s of each iteration.
    """

    def __init__(
        self,
        trainer: Trainer,
        best: BestPolicy,
        saved: RunCheckpoints,
        loggers: Sequence[Logger],
        display: Progress,
        writes: Writes,
        stop: StopSignal,
        callbacks: Callbacks,
    ):
        self.speeds: list[float] = []
        self._trainer, self._best, self._saved, self._loggers, self._callbacks = (
            trainer,
            best,
            saved,
            loggers,
            callbacks,
        )
        self._display, self._writes, self._stop = display, writes, stop

    def run(self, total_steps: int) -> str | None:
        """Train to total_steps, or until a callback ends the run, and choose the policy; a stop signal ends it earlier.

        Returns the reason if training broke.
        """
        self._display.status("first iteration: compiling kernels, which later runs take from a cache")
        try:
            while self._trainer.steps < total_steps and not self._stop.signal and not self._callbacks.ended_by:
                self._iterate(total_steps)
            self._saved.save()
            self._stop.check()
            if self._trainer.steps < total_steps and self._callbacks.ended_by.gives_up:
                self._best.save_unless_saved()
                return None
            self._write(self._best.consider(self._stop.check).metrics())
            self._best.choose(self._stop.check)
        except Stopped:
            self._best.save_unless_saved()
        except (TrainingBroken, OutsideError) as error:
            return str(error)
        except (KeyboardInterrupt, Exception):  # Ctrl-C also reaches a running compiler, which then fails
            if not self._stop.signal:
                raise
        return None

    def _iterate(self, total_steps: int) -> None:
        trainer = self._trainer
        metrics = trainer.iterate()
        check_updates(trainer, metrics, self._best.folder)
        self._saved.note_beginning()
        self.speeds.append(metrics["time/env_steps_per_s"])
        every, judgement = trainer.config.trainer.evaluate_every, None
        if trainer.due(every) and trainer.steps < total_steps:
            judgement = self._best.consider()
            metrics |= judgement.metrics()
        self._write(metrics)
        self._display.update(trainer.steps, metrics)
        if not self._stop.signal:
            self._display.status("training")
        self._saved.save_if_due()
        if judgement:  # steps are the same of runs whose iterations differ in length, so that they can be compared
            self._callbacks.on_evaluation(trainer.steps // every * every, judgement)
        self._callbacks.on_iteration(trainer.steps, metrics)

    def _write(self, metrics: dict[str, float]) -> None:
        for logger in self._loggers:
            with self._writes.attempt("the metrics"):
                logger.log(self._trainer.steps, metrics)


def whole_iterations(config: TrainConfig) -> int:
    """Environment steps of the run: total_steps, rounded up to whole iterations."""
    per_iteration = config.env.num_envs * config.trainer.rollout_steps
    return math.ceil(config.trainer.total_steps / per_iteration) * per_iteration


class Stopped(Exception):
    """The user asked the run to stop; its state is worth saving."""


class StopSignal:
    """Turns the first SIGINT, SIGTERM or SIGHUP (the terminal closed) into a flag, so that an iteration ends whole.

    A second signal stops the process at once, except SIGHUP, which both the shell and the kernel send. An ignored
    SIGHUP, as under nohup, stays ignored. Signals reach only a process's main thread, so the class does nothing in
    other threads. A context manager.
    """

    def __init__(self, display: Progress):
        self.signal = 0
        self._display = display
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in stopping_signals() if threading.current_thread() is threading.main_thread() else ():
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises Stopped if a signal has come; for work that may be left unfinished."""
        if self.signal:
            raise Stopped

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.signal and number == signal.SIGHUP:
            return
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        self._display.status("stopping after this iteration (Ctrl-C again: at once)")


def _close(logger: Logger, writes: Writes) -> None:
    with writes.attempt("the metrics"):
        logger.close()


def _headline(config: TrainConfig, folder: Path) -> str:
    policy = config.policy
    layers = "-".join(map(str, policy.hidden)) + ("" if policy.activation == "tanh" else f" {policy.activation}")
    network = policy.network or layers
    return (
        f"[bold]{config.title}[/], seed {config.seed}: {config.env.num_envs:,} environments, network {escape(network)}, "
        f"{millions(config.trainer.total_steps)} steps\n[dim]in {_short(folder)}[/]"
    )


def _report(best: BestPolicy, status: str, failure: str | None, steps: int, seconds: float, console: Console) -> None:
    folder = _short(best.folder)
    how = {
        "failed": "Failed",
        "stopped": "Stopped",
        "pruned": "Given up",
        "ended": "Ended by a callback",
        "finished": "Done",
    }[status]
    console.print(f"\n{how} after {millions(steps)} steps, {clock(seconds)}.", highlight=False)
    if failure:
        console.print(f"error: {failure}", markup=False, highlight=False, soft_wrap=True)
    if status in ("stopped", "failed") and steps:
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
    """The path relative to the current folder if it lies in it, else unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
