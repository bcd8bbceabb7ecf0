"""What the Go2 tests share: an emulator in a process of its own, and a listener that notes every LowCmd on the wire."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
_candidates = itertools.count(os.getpid() * 7)


def free_domain() -> int:
    """A DDS domain that nobody on this machine uses: its first port is free. Domains 2 to 200."""
    while True:
        domain = 2 + next(_candidates) % 199
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", 7410 + 250 * domain))
                return domain
            except OSError:
                continue


class Turn:
    """One emulated robot on this machine at a time: two sets of real-time processes would starve each other on two
    cores.

    Emulators of one process share a turn. After PATIENCE_S it goes on without, as somebody may have left an old test
    hanging.
    """

    PATIENCE_S = 200.0
    path = Path(tempfile.gettempdir()) / "rfx-go2-tests.lock"
    num_users, file = 0, None

    @classmethod
    def take(cls) -> None:
        """Wait for it."""
        cls.num_users += 1
        if cls.num_users == 1:
            cls.file = cls.path.open("w")
            until_s = time.monotonic() + cls.PATIENCE_S
            while time.monotonic() < until_s:
                try:
                    return fcntl.flock(cls.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(0.1)

    @classmethod
    def give(cls) -> None:
        """Let the next one have it."""
        cls.num_users -= 1
        if cls.num_users == 0:
            cls.file.close()


class EmulatorProcess:
    """`rfx emulate-go2` in a DDS domain of its own."""

    def __init__(self, *options: str):
        Turn.take()
        self.domain = free_domain()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rfx.commands.cli", "emulate-go2", "--domain", str(self.domain), *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert json.loads(self.process.stdout.readline())["ready"]

    def ask(self, line: str) -> dict[str, Any]:
        """Send one command; its answer, with the time_ns at which it was carried out."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, answer
        return answer

    def __enter__(self) -> EmulatorProcess:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        Turn.give()


def is_alive(pid: int | None) -> bool:
    """Whether there is such a process, and not only what is left of it until somebody waits for it."""
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that these did."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(pid for child in children for pid in descendants(child))]


@dataclass(frozen=True, kw_only=True)
class Wire:
    """Every LowCmd seen, oldest first: arrays over messages (T, ...)."""

    time_ns: np.ndarray  # when the sender wrote it
    writer: np.ndarray
    q: np.ndarray  # (T, 20)
    dq: np.ndarray
    tau: np.ndarray
    kp: np.ndarray
    kd: np.ndarray
    mode: np.ndarray

    @property
    def damping(self) -> np.ndarray:
        """Which messages damp all twelve motors: no position gain, no torque, no wanted velocity. (T,), bool."""
        legs = slice(0, 12)
        return (
            (self.kp[:, legs] == 0)
            & (self.tau[:, legs] == 0)
            & (self.dq[:, legs] == 0)
            & (self.kd[:, legs] > 0)
            & (self.kd[:, legs] < 10)
        ).all(axis=1)

    def of(self, writer: int) -> Wire:
        """Only one writer's messages."""
        mine = self.writer == writer
        return Wire(**{name: array[mine] for name, array in vars(self).items()})


class Listener:
    """Joins a domain, in this process, and keeps what is published on rt/lowcmd."""

    def __init__(self, domain: int):
        from rfx.drivers.go2.wire.bus import LOW_CMD, Bus
        from rfx.drivers.go2.wire.idl import LowCmd_

        self._bus = Bus(domain, "lo")
        self._reader = self._bus.reader(LOW_CMD, LowCmd_, depth=50_000)

    def wait_for_writers(self, num: int, timeout_s: float = 10.0) -> None:
        """Until num writers were heard since the last take, which still gets what they wrote."""
        deadline_s = time.monotonic() + timeout_s
        while (
            len(
                {
                    sample.sample_info.publication_handle
                    for sample in self._reader.read(50_000)
                    if hasattr(sample, "record")
                }
            )
            < num
        ):
            assert time.monotonic() < deadline_s, f"fewer than {num} writers in {timeout_s:g} s"
            time.sleep(0.01)

    def take(self) -> Wire:
        """All messages since the last call. Every one must have an intact CRC."""
        from rfx.drivers.go2.wire import messages

        samples = [sample for sample in self._reader.take(50_000) if hasattr(sample, "record")]
        assert all(messages.is_intact(sample.record) for sample in samples)
        motors = np.array([sample.record["motor_cmd"] for sample in samples], messages.MotorCmd).reshape(
            -1, messages.NUM_SLOTS
        )
        return Wire(
            time_ns=np.array([sample.sample_info.source_timestamp for sample in samples], np.int64),
            writer=np.array([sample.sample_info.publication_handle for sample in samples], np.uint64),
            **{name: motors[name] for name in ("q", "dq", "tau", "kp", "kd", "mode")},
        )
