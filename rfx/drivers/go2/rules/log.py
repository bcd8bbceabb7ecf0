"""Logs of a run as JSON lines, after one line of header.

One log has every tick of the last seconds before a stop; another has the whole run, fifty times a second.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rfx.drivers.go2.rules.mailbox import Phase, command_dtype, mailboxes, state_dtype
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.realtime import Clock
from rfx.robot.config import RobotConfig

FORMAT = "rfx-go2-log"
VERSION = 2
STATE_FIELDS = (
    "joint_position",
    "joint_velocity",
    "joint_torque",
    "gyroscope",
    "accelerometer",
    "quaternion",
    "temperature",
    "sent",
)
COMMAND_FIELDS = ("target", "action", "velocity_command", "observation")
NUMBERS = ("time_s", "state_time_s", "step", "step_time_s", "kp", "kd", "battery")
RUN_RATE_HZ = 50.0
RUN_BYTES, RUN_FILES = 32_000_000, 8  # the newest files of the whole run are kept; each holds about five minutes


class Log:
    """A ring of the last num_rows ticks."""

    def __init__(self, config: RobotConfig, limits: SafetyLimits, num_rows: int):
        self._config, self._limits = config, limits
        self._rows = np.zeros(
            num_rows, np.dtype([("time_s", "f8"), ("state", state_dtype(config)), ("command", command_dtype(config))])
        )
        self._rows[...] = np.zeros((), self._rows.dtype)  # allocate the memory now, not tick by tick
        self._count = 0

    def add(self, now_s: float, state: np.ndarray, command: np.ndarray) -> None:
        """Record one tick."""
        self._rows[self._count % len(self._rows)] = (now_s, state, command)
        self._count += 1

    def write(self, path: Path, reason: str, timing: dict[str, Any]) -> None:
        """Write the recorded ticks to path, oldest first."""
        first = max(0, self._count - len(self._rows))
        rows = [self._rows[index % len(self._rows)] for index in range(first, self._count)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            file.write(_header(self._config, self._limits, reason, timing))
            last_step = -1
            for row in rows:
                file.write(_line(row["time_s"], row["state"], row["command"], row["command"]["step"] != last_step))
                last_step = row["command"]["step"]


class Recorder:
    """Writes the whole run from its own thread.

    The thread reads the messages between the two processes and disturbs neither of them. PATH.jsonl has the last
    seconds; the run goes to PATH-run.jsonl. When that file has grown to RUN_BYTES, it becomes PATH-run.1.jsonl, and so
    on up to RUN_FILES files; then the oldest file is deleted.
    """

    def __init__(self, path: Path, memory: mmap.mmap, config: RobotConfig, limits: SafetyLimits, clock: Clock):
        self.path, self._clock = run_path(path), clock
        self._states, self._commands = mailboxes(memory, config)
        self._config, self._limits = config, limits
        self._is_ended = False
        self._thread = clock.thread(self._run, "rfx-go2-recorder")
        self._thread.start()

    def close(self) -> None:
        """Stop writing before the next moment of the recording."""
        self._is_ended = True
        self._thread.join()

    def _run(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                with self.path.open("w", buffering=1) as file:
                    self._fill(file)
                if self._is_ended:  # checked here, so that a newest file always exists after a rotation
                    return
                self._rotate()
        except OSError as error:
            print(f"go2: the run is recorded no further: {error}", file=sys.stderr, flush=True)

    def _fill(self, file: TextIO) -> None:
        size, last_step = file.write(_header(self._config, self._limits, "", {})), -1
        while size < RUN_BYTES:
            self._clock.sleep(1.0 / RUN_RATE_HZ)
            if self._is_ended:
                return
            state, command = self._states.read(), self._commands.read()
            if state["time_s"] > 0.0:  # before the first LowState there is nothing to record
                size += file.write(_line(self._clock.now(), state, command, command["step"] != last_step))
                last_step = command["step"]

    def _rotate(self) -> None:
        for number in range(RUN_FILES - 2, -1, -1):
            older, newer = (
                self.path.with_name(f"{self.path.stem}{f'.{n}' if n else ''}{self.path.suffix}")
                for n in (number + 1, number)
            )
            if newer.exists():
                newer.replace(older)


def _header(config: RobotConfig, limits: SafetyLimits, reason: str, timing: dict[str, Any]) -> str:
    return (
        json.dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "reason": reason,
                "timing": timing,
                "robot_config": config.to_dict(),
                "limits": dataclasses.asdict(limits),
            }
        )
        + "\n"
    )


def _line(time_s: float, state: np.void, command: np.void, new_step: bool) -> str:
    """Format one moment; the policy's observation and action appear only in the first line of their step."""
    line = {
        "time_s": round(float(time_s), 6),
        "phase": Phase(state["phase"]).name,
        "state_time_s": round(float(state["time_s"]), 6),
        "step": int(command["step"]),
        "step_time_s": round(float(command["time_s"]), 6),
        "kp": float(state["kp"]),
        "kd": float(state["kd"]),
        "battery": int(state["battery"]),
        "remote": state["remote"].tobytes().hex(),
    }
    line |= {name: _numbers(state[name]) for name in STATE_FIELDS}
    if new_step:
        line |= {name: _numbers(command[name]) for name in COMMAND_FIELDS}
    return json.dumps(line) + "\n"


def _numbers(values: np.ndarray) -> list[float | None]:
    return [round(value, 7) if np.isfinite(value) else None for value in values.tolist()]  # JSON has no nan


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A log that was read back: its header, and one array over ticks (T, ...) for each field.

    Arrays are nan where a tick has no value.
    """

    reason: str
    timing: dict[str, Any]
    config: RobotConfig
    phase: list[str]  # (T,)
    remote: list[bytes]  # (T,), the remote control's 40 bytes
    arrays: dict[str, np.ndarray]  # time_s (T,), joint_position (T, num_joints), ...

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read the log at path. Raises FileNotFoundError, or ValueError unless it is a log of this version."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no log at {path}")
        lines = path.read_text().splitlines(keepends=True)
        if len(lines) > 1 and not lines[-1].endswith("\n"):
            lines.pop()  # the process that wrote it was killed in the middle of a line
        try:
            header, *rows = map(json.loads, lines)
            if (header["format"], header["version"]) != (FORMAT, VERSION):
                raise ValueError
            arrays = {}
            for name in (*NUMBERS, *STATE_FIELDS, *COMMAND_FIELDS):
                width = max((len(row[name]) for row in rows if isinstance(row.get(name), list)), default=0)
                missing = [np.nan] * width if width else np.nan
                arrays[name] = np.array([row.get(name, missing) for row in rows], float)
            return cls(
                reason=header["reason"],
                timing=header["timing"],
                config=RobotConfig.from_dict(header["robot_config"]),
                phase=[row["phase"] for row in rows],
                arrays=arrays,
                remote=[bytes.fromhex(row["remote"]) for row in rows],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no rfx Go2 log of version {VERSION}") from error


def default_path() -> Path:
    """Default path of a log: a new file in the user's state folder."""
    folder = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "rfx"
    return folder / f"go2-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"


def unused_path(path: Path) -> Path:
    """Return path if neither it nor its run exists yet, or else the first unused one of PATH-2, PATH-3, ..."""
    number, unused = 1, path
    while unused.exists() or run_path(unused).exists():
        number += 1
        unused = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return unused


def run_path(path: Path) -> Path:
    """Path of the log of the whole run, for the log of its last seconds at path."""
    return path.with_name(f"{path.stem}-run{path.suffix}")
