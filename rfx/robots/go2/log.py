"""The last seconds before a stop, as JSON lines: one header, then one line for every tick of the sender."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfx.config import RobotConfig
from rfx.robots.go2.controller import MotorTarget
from rfx.robots.go2.mailbox import Phase, command_dtype, state_dtype
from rfx.robots.go2.safety import SafetyLimits

FORMAT = "rfx-go2-log"
VERSION = 1
STATE_FIELDS = ("joint_position", "joint_velocity", "joint_torque", "gyroscope", "quaternion", "temperature")
COMMAND_FIELDS = ("target", "action", "observation")


class Log:
    """A ring of the last num_rows ticks."""

    def __init__(self, config: RobotConfig, limits: SafetyLimits, num_rows: int):
        self._config, self._limits = config, limits
        num = len(config.joints)
        self._rows = np.zeros(num_rows, np.dtype([
            ("time_s", "f8"), ("phase", "u1"), ("state", state_dtype(config)), ("command", command_dtype(config)), ("sent", "f4", num),
            ("kp", "f4"), ("kd", "f4")]))
        self._count = 0

    def add(self, now_s: float, phase: Phase, state: np.ndarray, command: np.ndarray, sent: MotorTarget) -> None:
        """Note one tick."""
        self._rows[self._count % len(self._rows)] = (now_s, phase, state, command, sent.position, sent.kp[0], sent.kd[0])
        self._count += 1

    def write(self, path: Path, reason: str, timing: dict[str, Any]) -> None:
        """Write what the ring holds to path, oldest tick first."""
        first = max(0, self._count - len(self._rows))
        rows = [self._rows[index % len(self._rows)] for index in range(first, self._count)]
        header = {"format": FORMAT, "version": VERSION, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "reason": reason, "timing": timing,
                  "robot_config": self._config.to_dict(), "limits": dataclasses.asdict(self._limits)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            file.write(json.dumps(header) + "\n")
            last_step = -1
            for row in rows:
                file.write(json.dumps(_line(row, row["command"]["step"] != last_step)) + "\n")
                last_step = row["command"]["step"]


def _line(row: np.void, new_step: bool) -> dict[str, Any]:
    """One tick as JSON types; what the policy saw and did stands only where its step first appears."""
    state, command = row["state"], row["command"]
    line = {"time_s": round(float(row["time_s"]), 6), "phase": Phase(row["phase"]).name, "state_time_s": round(float(state["time_s"]), 6),
            "step": int(command["step"]), "step_time_s": round(float(command["time_s"]), 6),
            "sent": _numbers(row["sent"]), "kp": float(row["kp"]), "kd": float(row["kd"])}
    line |= {name: _numbers(state[name]) for name in STATE_FIELDS}
    if new_step:
        line |= {name: _numbers(command[name]) for name in COMMAND_FIELDS}
    return line


def _numbers(values: np.ndarray) -> list[float | None]:
    return [round(value, 7) if np.isfinite(value) else None for value in values.tolist()]  # JSON has no nan


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A log that was read back: its header, and per field one array over ticks (T, ...), nan where a tick had no value."""

    reason: str
    timing: dict[str, Any]
    config: RobotConfig
    phase: list[str]  # (T,)
    arrays: dict[str, np.ndarray]  # time_s (T,), joint_position (T, num_joints), ...

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read the log at path. Raises FileNotFoundError, or ValueError for a file that is no log of this version."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no log at {path}")
        lines = path.read_text().splitlines()
        try:
            header, *rows = map(json.loads, lines)
            if (header["format"], header["version"]) != (FORMAT, VERSION):
                raise ValueError
            arrays = {}
            for name in ("time_s", "state_time_s", "step", "step_time_s", "kp", "kd", "sent", *STATE_FIELDS, *COMMAND_FIELDS):
                width = max((len(row[name]) for row in rows if isinstance(row.get(name), list)), default=0)
                missing = [np.nan] * width if width else np.nan
                arrays[name] = np.array([row.get(name, missing) for row in rows], float)
            return cls(reason=header["reason"], timing=header["timing"], config=RobotConfig.from_dict(header["robot_config"]),
                       phase=[row["phase"] for row in rows], arrays=arrays)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no rfx Go2 log of version {VERSION}") from error


def default_path() -> Path:
    """Where a log goes when nobody says otherwise: a new file in the user's state folder."""
    folder = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "rfx"
    return folder / f"go2-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"


def free_path(path: Path) -> Path:
    """path, or where that is taken the first free one of path-2, path-3, ...: a log is never overwritten."""
    paths = (path if number == 1 else path.with_stem(f"{path.stem}-{number}") for number in itertools.count(1))
    return next(candidate for candidate in paths if not candidate.exists())
