"""Loggers: where the metrics of a run go beside metrics.csv. `logger` in a run's configuration names them."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rfx.settings.terms import find_foreign, is_foreign, nearest
from rfx.system.extras import missing

if TYPE_CHECKING:
    from train.task.config import TrainConfig

WANDB_ID = "wandb_id"  # file in a run's folder: a run that goes on is the same run there
FLUSH_EVERY_S = 2.0
WANDB_TIMEOUT_S = 30.0


class Logger(Protocol):
    """Takes the metrics of one run. A class of your own is named MODULE:NAME.

    It is made once a run, or once a continuation of one, with the run's folder, its configuration, and the steps that
    lie behind it: 0, or those of the checkpoint that it goes on from. What it was told of later steps is told again.
    """

    def __init__(self, folder: Path, config: TrainConfig, steps: int): ...

    def log(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Take metrics by tag, after that many environment steps. An OSError is told once, and training goes on."""

    def close(self) -> None:
        """The run has ended, in whichever way."""


class TensorBoardLogger:
    """TensorBoard's events in the run's folder: `tensorboard --logdir runs` shows them.

    Each continuation writes a file of its own, which tells TensorBoard to forget what it read of later steps. Records
    are written here and not by tensorboardX's thread, so that a full disk is an OSError; after one, and where the file
    was removed, a new file begins.
    """

    def __init__(self, folder: Path, config: TrainConfig, steps: int):
        self._folder, self._writer, self._last_flush_s = folder, None, 0.0
        self._begin(steps)

    def log(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Write one event with all metrics. Raises OSError."""
        if self._writer is None or not self._path.exists():
            self._begin(steps - 1)
        event = self._event_type(step=steps, wall_time=time.time())
        for tag, value in metrics.items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._write(event)

    def close(self) -> None:
        """Write what is still in memory. Raises OSError."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, steps: int) -> None:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        self._event_type = Event
        self._path = self._folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        self._writer = RecordWriter(str(self._path))
        self._write(Event(file_version="brain.Event:2", wall_time=time.time()))
        if steps > 0:
            self._write(Event(step=steps + 1, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))

    def _write(self, event: Any) -> None:
        try:
            self._writer.write(event.SerializeToString())
            if time.monotonic() - self._last_flush_s >= FLUSH_EVERY_S:
                self._last_flush_s = time.monotonic()
                self._writer.flush()  # forces it to the disk, which takes milliseconds
        except OSError:
            with suppress(OSError):
                self._writer.close()
            self._writer = None
            raise


class WandbLogger:
    """A run at Weights & Biases, in the project rfx or that of WANDB_PROJECT. WANDB_MODE=offline writes into folder."""

    def __init__(self, folder: Path, config: TrainConfig, steps: int):
        import wandb

        path = folder / WANDB_ID
        if not path.exists():
            path.write_text(secrets.token_hex(4))
        settings = wandb.Settings(console="off", silent=True, init_timeout=WANDB_TIMEOUT_S)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "rfx"),
                name=f"{config.title} {folder.name}",
                id=path.read_text(),
                resume="allow",
                dir=folder,
                config=dataclasses.asdict(config),
                settings=settings,
            )
        except wandb.Error as error:
            raise ValueError(
                f"logger=wandb cannot begin: {' '.join(str(error).split())}; WANDB_MODE=offline does without network "
                "and account"
            ) from error

    def log(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Hand the metrics over to wandb's own process, which sends them."""
        self._run.log(dict(metrics), step=steps)

    def close(self) -> None:
        """Wait until all is sent, or written."""
        self._run.finish()


LOGGERS = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger}
TABLE = "csv"  # names metrics.csv, which every run has


def find_loggers(names: Sequence[str]) -> list[type[Logger]]:
    """The loggers that names mean, without the table.

    Raises ValueError for an unknown one, ModuleNotFoundError where its extra is not installed.
    """
    for name in names:
        if not is_foreign(name) and name not in (*LOGGERS, TABLE):
            raise ValueError(f"logger is {name!r}: {nearest(name, (*LOGGERS, TABLE))} MODULE:NAME is one of your own")
        if name == "wandb" and importlib.util.find_spec("wandb") is None:
            raise missing("logger=wandb", "wandb")
    return [LOGGERS.get(name) or find_foreign(name) for name in names if name != TABLE]
