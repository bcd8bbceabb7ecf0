"""Loggers send the metrics of a run to other places than metrics.csv. `logger` in the configuration names them."""

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

WANDB_ID = "wandb_id"  # file in the run's folder: a continued run keeps the same run at wandb
FLUSH_EVERY_S = 2.0
WANDB_TIMEOUT_S = 30.0


class Logger(Protocol):
    """Receives the metrics of one run. A class of your own is named MODULE:NAME.

    One instance is made for a run, and one for each continuation, with the run's folder, its configuration, and the
    steps before it: 0, or the steps of the checkpoint that it goes on from. Metrics of later steps are logged again.
    """

    def __init__(self, folder: Path, config: TrainConfig, steps: int): ...

    def log(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Log metrics by tag, after that many environment steps. An OSError is reported once, and training goes on."""

    def close(self) -> None:
        """Called when the run has ended for any reason."""


class TensorBoardLogger:
    """TensorBoard's events in the run's folder: `tensorboard --logdir runs` shows them.

    Each continuation writes a new file, which tells TensorBoard to drop the records of later steps. This class writes
    records itself, without tensorboardX's thread, so that a full disk raises an OSError. A new file begins after such
    an error, and if the file was removed.
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
        """Write the records that are still in memory. Raises OSError."""
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
                self._writer.flush()  # writes to the disk at once, which takes milliseconds
        except OSError:
            with suppress(OSError):
                self._writer.close()
            self._writer = None
            raise


class WandbLogger:
    """A run at Weights & Biases, in the project rfx or WANDB_PROJECT. WANDB_MODE=offline writes into the folder."""

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
        """Pass the metrics to wandb's own process, which sends them."""
        self._run.log(dict(metrics), step=steps)

    def close(self) -> None:
        """Wait until everything is sent or written."""
        self._run.finish()


LOGGERS = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger}
TABLE = "csv"  # name of metrics.csv, which every run has


def find_loggers(names: Sequence[str]) -> list[type[Logger]]:
    """The logger classes for these names, without the table metrics.csv.

    Raises ValueError for an unknown name, ModuleNotFoundError if the extra of a logger is not installed.
    """
    for name in names:
        if not is_foreign(name) and name not in (*LOGGERS, TABLE):
            raise ValueError(f"logger is {name!r}: {nearest(name, (*LOGGERS, TABLE))} MODULE:NAME is one of your own")
        if name == "wandb" and importlib.util.find_spec("wandb") is None:
            raise missing("logger=wandb", "wandb")
    return [LOGGERS.get(name) or find_foreign(name) for name in names if name != TABLE]
