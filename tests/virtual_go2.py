"""A Go2, its sender and its guard in virtual time: the driver's own code on a bus in memory, before the emulated robot.

`VirtualGo2` is the bench: `go2()` makes drivers, `emulator` takes the emulator's commands, `wire` has every LowCmd that
was written. How a fault is tested: bring the robot to where it should strike, note clock.now(), strike, let time pass,
and judge the wire (`damps_ms`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from memory_bus import Network
from virtual_clock import VirtualClock, VirtualProcess

from rfx.drivers.go2.driver.connection import StartedSender
from rfx.drivers.go2.driver.driver import Go2
from rfx.drivers.go2.emulator.emulator import STEP_S, Emulator
from rfx.drivers.go2.rules.mailbox import Phase, create_memory, mailboxes
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.go2.sender.guard import Guard, keep_watch
from rfx.drivers.go2.sender.sender import Sender, SenderOptions
from rfx.drivers.go2.wire import messages
from rfx.drivers.go2.wire.bus import LOW_CMD
from rfx.drivers.session import Session

TICK_MS = 2.5  # of the sender
BEAT_MS = 12.5  # between two words of the sender to its guard: 10 ms or a tick more
QUICK = SafetyLimits(stand_s=0.3, settle_s=0.1, damping_s=0.2)


class VirtualChannel:
    """One end of a channel between two processes."""

    def __init__(self, clock: VirtualClock, process: VirtualProcess):
        self.clock, self.data, self.other, self.is_closed = clock, b"", None, False
        process.on_end.append(self.close)

    @classmethod
    def pair(
        cls, clock: VirtualClock, one: VirtualProcess, other: VirtualProcess
    ) -> tuple[VirtualChannel, VirtualChannel]:
        ends = cls(clock, one), cls(clock, other)
        ends[0].other, ends[1].other = ends[1], ends[0]
        return ends

    def send(self, data: bytes) -> bool:
        self.clock.check()
        self.other.data += data
        return not self.other.is_closed

    def receive(self, deadline_s: float) -> bytes | None:
        self.clock.wait(lambda: self.data or self.other.is_closed, deadline_s)
        data, self.data = self.data, b""
        return data or (b"" if self.other.is_closed else None)

    def close(self) -> None:
        self.is_closed = True


class VirtualBell:
    """Both ends of the doorbell."""

    def __init__(self, clock: VirtualClock):
        self.clock, self.is_rung = clock, False

    def ring(self) -> None:
        self.is_rung = True

    def close(self) -> None:
        pass

    def wait_until(self, deadline_s: float) -> bool:
        self.clock.wait(lambda: self.is_rung, deadline_s)
        rung, self.is_rung = self.is_rung, False
        return rung


class VirtualWatch:
    """A process as another one sees it."""

    def __init__(self, process: VirtualProcess):
        self.process, self.kill = process, process.kill

    def is_alive(self) -> bool:
        return self.process.returncode is None

    def is_stopped(self) -> bool:
        return self.process.is_stopped


class Wire:
    """Every LowCmd that these processes wrote: times, whose, and whether it damps all twelve motors."""

    def __init__(self, network: Network, *processes: str):
        self._processes = processes
        self.time_s: list[float] = []
        self.process: list[str] = []
        self.records: list[np.ndarray] = []
        network.listeners.append(self._note)

    def _note(self, time_s: float, topic: str, writer: Any, sample: Any) -> None:
        if topic == LOW_CMD and writer.bus.process.name in self._processes:
            self.time_s.append(time_s), self.process.append(writer.bus.process.name), self.records.append(sample.record)

    def clear(self) -> None:
        self.time_s.clear(), self.process.clear(), self.records.clear()

    @property
    def motors(self) -> np.ndarray:
        """(T, 20) motor commands."""
        return np.array([record["motor_cmd"] for record in self.records], messages.MotorCmd).reshape(
            -1, messages.NUM_SLOTS
        )

    @property
    def damping(self) -> np.ndarray:
        """Which messages damp all twelve motors: no position gain, no torque, no wanted velocity. (T,), bool."""
        legs = self.motors[:, :12]
        return ((legs["kp"] == 0) & (legs["tau"] == 0) & (legs["dq"] == 0) & (legs["kd"] > 0) & (legs["kd"] < 10)).all(
            axis=1
        )

    @property
    def stiff(self) -> np.ndarray:
        """Indices of the messages that do not damp."""
        return np.flatnonzero(~self.damping)

    def writers(self, since_s: float = 0.0) -> set[str]:
        """Who has written."""
        return {process for process, time_s in zip(self.process, self.time_s) if time_s >= since_s}

    def damps_ms(self, fault_s: float, damping_s: float) -> float:
        """ms from a fault to the first LowCmd that damps.

        It was under way before; nothing stiff follows, and damping goes on for long enough.
        """
        times, damping = np.array(self.time_s), self.damping
        before = times < fault_s
        assert before.any() and not damping[before][-1], "it was not under way when the fault came"
        first = self.stiff[-1] + 1
        assert first < len(times), "it never damps"
        assert times[-1] - times[first] >= damping_s - 0.003 and np.diff(times[first:]).max() <= 0.003
        return 1e3 * (times[first] - fault_s)


class VirtualGo2:
    """An emulated robot in virtual time, and everything that drives it. A context manager."""

    def __init__(self, folder: Path, *, sport: bool = False, limits: SafetyLimits = QUICK, log_s: float = 0.2):
        self.folder, self.limits, self.log_s = folder, limits, log_s
        self.clock = VirtualClock()
        self.network = Network(self.clock)
        self.wire = Wire(self.network, "sender", "guard")
        self.sender = self.guard = None  # the processes that were started last
        self._robots: list[Go2] = []
        self._sport = sport

    def __enter__(self) -> VirtualGo2:
        self.clock.__enter__()
        self.robot_process = self.clock.process(self._emulate, "robot")
        self.clock.sleep(0.01)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.clock.__exit__(*exception)

    def ask(self, line: str) -> dict[str, Any]:
        """One of the emulator's commands."""
        return self.emulator.command(line)

    def go2(self, **options: Any) -> Go2:
        """A driver of this robot, that is not connected yet."""
        options = {"limits": self.limits, "log_path": self.folder / "log.jsonl"} | options
        return Go2(clock=self.clock, start=self._start_sender, **options)

    def session(self, robot: Go2, policy: Callable[[Any], Any]) -> Session:
        return Session(robot, policy, warmup_s=0.0, clock=self.clock)

    def walk(self, policy: Callable[[Any], Any] | None = None, **options: Any) -> tuple[Go2, Session]:
        """A robot that has made ten steps of a policy, by default one that asks for the default pose."""
        robot = self.go2(**options)
        session = self.session(robot, policy or still)
        session.start()
        self.clock.wait_for(lambda: session.step_count >= 10 or not session.is_running)
        if not session.is_running:
            session.stop()  # says why
        return robot, session

    def policy_process(self, steps: float = math.inf) -> VirtualProcess:
        """A process that walks for so many steps, of which it has made .steps, then lies down and ends."""

        def live(process: VirtualProcess) -> None:
            process.robot = self.go2()
            try:
                with process.robot as robot:
                    robot.reset()
                    while process.steps < steps:
                        robot.observe()
                        robot.act(still(None))
                        process.steps += 1
                        self.clock.sleep(0.02)
            except (RuntimeError, ConnectionError):  # it was damped
                pass

        process = self.clock.process(live, "policy")
        process.steps = 0
        return process

    def finish(self, robot: Go2, session: Session) -> str:
        """End a session that fails of itself. Returns why."""
        self.clock.wait_for(lambda: not session.is_running, 5.0)
        try:
            session.stop()
        except RuntimeError as error:
            return str(error)
        finally:
            robot.close()
            self.clock.sleep(0.5)  # for a guard that damps after all else
        raise AssertionError("it did not fail")

    def wait_for_phase(self, robot: Go2, phase: Phase, timeout_s: float = 60.0) -> None:
        self.clock.wait_for(lambda: robot._connection is not None and robot._connection.phase == phase, timeout_s)

    def _emulate(self, process: VirtualProcess) -> None:
        self.emulator = Emulator(self.network.bus(process), self.clock, sport=self._sport)
        while True:
            self.emulator.step()
            self.clock.sleep(STEP_S)

    def _start_sender(self, config: Any, options: dict[str, Any]) -> StartedSender:
        descriptor, memory = create_memory(config)
        os.close(descriptor)
        bell, driver = VirtualBell(self.clock), self.clock.local.thread.process
        options = SenderOptions(**options, log_s=self.log_s, memory=0, doorbell=0, driver_pid=0)
        self.sender = self.clock.process(
            lambda process: self._send(process, options, mailboxes(memory, config), bell, driver), "sender"
        )
        return StartedSender(process=self.sender, memory=memory, doorbell=bell)

    def _send(
        self, process: VirtualProcess, options: SenderOptions, boxes: Any, bell: VirtualBell, driver: VirtualProcess
    ) -> None:
        limits = SafetyLimits(**options.limits)

        def watch(guard_process: VirtualProcess) -> None:
            keep_watch(
                guard_process.end,
                VirtualWatch(process),
                self.network.bus(guard_process),
                limits.damping_kd,
                limits.damping_s,
                limits.guard_timeout_s,
                self.clock,
            )

        self.guard = self.clock.process(watch, "guard")
        end, self.guard.end = VirtualChannel.pair(self.clock, process, self.guard)
        guard = Guard(end, self.guard, limits.guard_timeout_s, self.clock)
        states, commands = boxes
        sender = Sender(
            options,
            states=states,
            commands=commands,
            doorbell=bell,
            driver=VirtualWatch(driver),
            guard=guard,
            bus=self.network.bus(process),
            clock=self.clock,
        )
        process.on_terminate = lambda: sender.interrupt(15)
        try:
            sender.run()
        except (OSError, RuntimeError):  # told to the driver
            guard.dismiss()


def still(observation: Any) -> np.ndarray:
    """A policy that asks for the default pose."""
    return np.zeros((1, 12), np.float32)
