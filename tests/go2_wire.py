"""What the tests of the real wire share: emulator and rfx deploy in processes of their own, and a listener that notes
every LowCmd.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rfx
from rfx.drivers.go2.driver.driver import Go2
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.session import Session

ROOT = Path(__file__).parents[1]
DROP_M_S = 0.3
STANDING_M, LYING_M = 0.2, 0.13
SETTLE_S = 1.0  # after a change of command, before errors count: as in train/judge/evaluation.py
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


class EmulatorProcess:
    """`rfx emulate-go2` in a DDS domain of its own."""

    def __init__(self, *options: str):
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
        from rfx.drivers.go2.wire.bus import LOW_CMD
        from rfx.drivers.go2.wire.dds import DdsBus
        from rfx.drivers.go2.wire.idl import LowCmd_

        self._bus = DdsBus(domain, "lo")
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


class Watcher:
    """Notes the emulated robot's height, tilt and lowest joint gains over time, from a thread of its own."""

    def __init__(self, emulator):
        self.emulator, self.lock = emulator, threading.Lock()
        self.rows, self.ended = [], threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def ask(self, line):
        with self.lock:
            return self.emulator.ask(line)

    def tap(self, *buttons, seconds=0.15):
        """Press and let go."""
        self.ask(f"press {' '.join(buttons)}")
        time.sleep(seconds)
        self.ask("press")

    def _run(self):
        while not self.ended.wait(0.01):
            pose = self.ask("pose")
            w, x, y, z = pose["quaternion"]
            self.rows.append(
                (
                    pose["time_ns"] / 1e9,
                    pose["position"][2],
                    np.arccos(np.clip(1 - 2 * (x * x + y * y), -1, 1)),
                    pose["velocity"][2],
                )
            )

    def close(self):
        self.ended.set()
        self.thread.join()

    @property
    def height(self):
        return self.rows[-1][1]


class Deployed:
    """`rfx deploy` in a process of its own, and what it says."""

    def __init__(self, emulator, policy, log, *arguments):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "rfx.commands.cli",
                "deploy",
                policy,
                "--robot",
                "go2",
                "--interface",
                "lo",
                "--domain",
                str(emulator.domain),
                "--log",
                str(log),
                *arguments,
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines, self.said_s = [], []  # what it said, and when, by time.time()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.said_s.append(time.time())
            self.lines.append(line.strip())

    def wait_for(self, line, count=1, timeout_s=30.0):
        deadline_s = time.monotonic() + timeout_s
        while sum(said.startswith(line) for said in self.lines) < count:
            assert time.monotonic() < deadline_s and self.process.poll() is None, (
                self.lines,
                self.process.poll() and self.process.stderr.read(),
            )
            time.sleep(0.01)

    def finish(self, number=signal.SIGINT):
        """Interrupt it, or with None wait for its own end. Returns its status and its standard error."""
        if number is not None:
            self.process.send_signal(number)
        error = self.process.stderr.read()
        self.process.wait(timeout=30.0)
        self.reader.join()
        return self.process.returncode, error

    def kill(self):
        """Kill it, and wait for its sender and guard, which damp for a while: to the next one they are another
        publisher.
        """
        if self.process.poll() is None:
            left = descendants(self.process.pid)
            self.process.kill()
            self.process.wait()
            deadline_s = time.monotonic() + 30.0
            while any(map(is_alive, left)) and time.monotonic() < deadline_s:
                time.sleep(0.01)


def check_gentle(rows, name, record_property):
    """No drop faster than DROP_M_S over any 50 ms, and never far from level."""
    times, heights, tilts, _ = np.array(rows).T
    later = np.searchsorted(times, times + 0.05)
    kept = later < len(times)
    speed = (heights[later[kept]] - heights[kept]) / (times[later[kept]] - times[kept])
    print(
        f"{name}: height {heights.max():.3f} to {heights.min():.3f} m, fastest drop {-speed.min():.3f} m/s, greatest tilt {tilts.max():.3f} rad"
    )
    record_property("fastest_drop_m_s", round(float(-speed.min()), 3))
    assert -speed.min() < DROP_M_S and tilts.max() < 0.35


def train(folder: Path, *overrides: str) -> Path:
    """Train into folder, as a user does. Returns the policy folder."""
    subprocess.run(
        [sys.executable, "-m", "train", "+robot=go2", f"hydra.run.dir={folder}", *overrides],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder / "policy"


def base_velocity(pose: dict) -> np.ndarray:
    """vx, vy (m/s) and yaw rate (rad/s) in the base frame, from the emulator's own state."""
    w, x, y, z = pose["quaternion"]
    forward = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    left = np.array([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)])
    return np.array([forward @ pose["velocity"], left @ pose["velocity"], pose["angular_velocity"][2]])


def drive(
    policy: Path, commands: list[tuple[float, tuple[float, float, float]]], log_path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Walk the robot behind DDS through commands of (seconds, velocity).

    Returns wanted and measured velocity, (T, 3) each, where settled.
    """
    wanted, measured = [], []
    with (
        EmulatorProcess() as emulator,
        Go2(domain=emulator.domain, limits=SafetyLimits(damping_s=0.3), log_path=log_path) as robot,
    ):
        session = Session(robot, rfx.load_policy(policy, robot.config))
        robot.command(*commands[0][1])
        session.start()
        while session.is_running and session.step_count == 0:
            time.sleep(0.01)
        due = time.monotonic()
        for seconds, command in commands:
            robot.command(*command)
            for step in range(round(seconds / 0.02)):
                due += 0.02
                time.sleep(max(0.0, due - time.monotonic()))
                pose = emulator.ask("pose")
                if step * 0.02 >= SETTLE_S:
                    wanted.append(command), measured.append(base_velocity(pose))
        session.stop()
        print(session.stats, "LowState to LowCmd (s)", robot.latency_s())
    return np.array(wanted), np.array(measured)
