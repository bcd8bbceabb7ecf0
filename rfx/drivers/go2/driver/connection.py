"""The driver's connection to the sender: the process, the mailboxes between them, and whether it works."""

from __future__ import annotations

import dataclasses
import importlib
import json
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rfx.drivers.go2.rules.log import Recorder
from rfx.drivers.go2.rules.mailbox import Bell, Doorbell, Phase, Request, command_dtype, create_memory, mailboxes
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.realtime import Clock
from rfx.robot.config import RobotConfig

REFRESH_S = 0.001
START_S = 30.0  # for the sender's interpreter and imports, on a busy machine
# Longest silence of the sender, by its last phase.
SILENT_S = {Phase.CONNECTING: 2.0, Phase.DONE: float("inf")}
SETTLED = (Phase.IDLE, Phase.FAULT, Phase.DONE)  # damped, or nothing is sent


class Process(Protocol):
    """The sender's process; subprocess.Popen is one."""

    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class StartedSender:
    """A sender's process, the memory that it shares with the driver (mailbox.mailboxes), and its doorbell."""

    process: Process
    memory: mmap.mmap
    doorbell: Bell


StartSender = Callable[[RobotConfig, dict[str, Any]], StartedSender]


def start_sender(config: RobotConfig, options: dict[str, Any]) -> StartedSender:
    """Start a sender in its own process. options: sender.SenderOptions without memory, doorbell and driver_pid."""
    descriptor, memory = create_memory(config)
    bell_end, our_end = os.pipe()
    options = options | {"memory": descriptor, "doorbell": bell_end, "driver_pid": os.getpid()}
    # PYTHONPATH lets the sender find rfx where this process found it. The sender multiplies no matrices. Each thread of
    # OpenBLAS would lock 32 MB. The system would need longer to free this memory before it closes the socket that tells
    # of a killed sender or guard.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "rfx.drivers.go2.sender.sender", json.dumps(options)],
        env=environment,
        pass_fds=(descriptor, bell_end),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(descriptor), os.close(bell_end)
    return StartedSender(process=process, memory=memory, doorbell=Doorbell(our_end))


def why_none_started() -> str:
    """Find the reason why a sender ended without a report."""
    try:
        importlib.import_module("rfx.drivers.go2.wire.dds")
    except ImportError as error:
        return str(error)
    return "the sender did not connect"


class Connection:
    """A sender that runs for one robot. It first takes over the robot. `command` is the record to send to it."""

    def __init__(
        self,
        config: RobotConfig,
        limits: SafetyLimits,
        log_path: Path,
        options: dict[str, Any],
        clock: Clock,
        start: StartSender,
    ):
        self.command = np.zeros((), command_dtype(config))
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()  # another thread than the stepping one may make a request
        self._began_s = clock.now()
        told = {"config": config.to_dict(), "limits": dataclasses.asdict(limits), "log_path": str(log_path)}
        started = start(config, options | told)
        self.process, self._doorbell = started.process, started.doorbell
        self._states, self._commands = mailboxes(started.memory, config)
        self.request(Request.IDLE)
        self._recorder = Recorder(log_path, started.memory, config, limits, clock)

    @property
    def phase(self) -> Phase:
        """The sender's phase, from its last report."""
        return Phase(self.state["phase"])

    @property
    def reason(self) -> str:
        """The reason for a fault or for lying down."""
        return self.state["reason"].decode(errors="replace")

    @property
    def state(self) -> np.void:
        """The sender's last report (mailbox.state_dtype)."""
        return self._states.read()

    @property
    def is_running(self) -> bool:
        """Whether the sender's process runs."""
        return self.process.poll() is None

    def request(self, request: Request) -> None:
        """Send the command record with this request at once."""
        with self._lock:
            self.command["time_s"], self.command["request"] = self._clock.now(), request
            self._commands.write(self.command)
        self._doorbell.ring()

    def newest_state(self) -> np.void:
        """Ask the sender for a new report on the robot and return it, or the last report if that takes too long."""
        state, until_s = self.state, self._clock.now() + REFRESH_S
        number = self._states.number
        self._doorbell.ring()
        while self._states.number == number and self._clock.now() < until_s:
            self._clock.sleep(0.0)
            state = self.state
        return state

    def check(self) -> None:
        """Kill a sender that was silent for too long, and raise RuntimeError.

        The silent sender could resume at any time. Its guard damps.
        """
        state = self.state
        heard_s, limit_s = float(state["alive_s"]), SILENT_S.get(Phase(state["phase"]), self._limits.guard_timeout_s)
        if not heard_s:
            heard_s, limit_s = self._began_s, START_S
        if (silent_s := self._clock.now() - heard_s) <= limit_s or not self.is_running:
            return
        self._clock.sleep(0.01)  # this process itself may have been stopped: a report that came meanwhile counts
        if float(self.state["alive_s"]) > heard_s or not self.is_running:
            return
        self.process.kill()
        self.process.wait()
        raise RuntimeError(f"the Go2's sender stood still for {silent_s * 1e3:.0f} ms and was killed; its guard damps")

    def wait_until_settled(self, timeout_s: float) -> None:
        """Wait until the robot is damped, or until the sender is gone or stands still: then the guard damps."""
        deadline_s = self._clock.now() + timeout_s
        while self.phase not in SETTLED and self.is_running and self._clock.now() < deadline_s:
            try:
                self.check()
            except RuntimeError:
                return
            self._clock.sleep(0.002)

    def close(self) -> None:
        """Let the sender damp for a while and end. If it does not end, terminate it, then kill it."""
        for end, wait_s in (
            (self.process.terminate, self._limits.damping_s + 15.0),
            (self.process.kill, 5.0),
            (lambda: None, None),
        ):
            try:  # the sender damps on SIGTERM too; after SIGKILL its guard damps
                self.process.wait(timeout=wait_s)
                break
            except subprocess.TimeoutExpired:
                end()
        self._doorbell.close()
        self._recorder.close()
