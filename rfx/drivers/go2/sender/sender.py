"""The process that talks to the robot: up to 500 times a second it reads LowState, checks safety and sends LowCmd.

The driver starts it.

The sender holds and interpolates the policy's targets, so the motors' rate does not depend on the policy's. It outlives
the policy's process: when that process stalls, stops, crashes or is killed, the sender damps. Whatever ends the sender,
it first sends damping for a while. If the sender is itself killed or stopped, a guard process damps. The sender has its
own session, so the terminal's Ctrl-C reaches only the policy's process, which then asks for damping.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfx.drivers.go2.rules.controller import Controller
from rfx.drivers.go2.rules.log import Log
from rfx.drivers.go2.rules.mailbox import (
    REASON_SIZE,
    Doorbell,
    Mailbox,
    Phase,
    Request,
    WaitingBell,
    mailboxes,
    state_dtype,
)
from rfx.drivers.go2.rules.safety import SafetyLimits, Snapshot, smoothed_speed
from rfx.drivers.go2.sender.guard import Guard
from rfx.drivers.go2.sender.link import Link
from rfx.drivers.go2.sender.switcher import select_controller
from rfx.drivers.go2.wire import remote
from rfx.drivers.go2.wire.bus import LOOPBACK, Bus
from rfx.drivers.go2.wire.dds import DdsBus
from rfx.drivers.realtime import WALL_CLOCK, Clock, ProcessWatch, Watch, lock_memory, realtime_priority
from rfx.robot.config import RobotConfig

PRIORITY = 30  # above the policy's loop
MAX_RATE_HZ = 500.0  # a Go2 should be sent 200 to 500 commands a second


@dataclass(frozen=True, kw_only=True)
class SenderOptions:
    """Options from the driver, passed to the sender as JSON on its command line."""

    config: dict[str, Any]
    limits: dict[str, Any]
    domain: int
    interface: str
    memory: int  # file descriptor
    doorbell: int  # file descriptor
    driver_pid: int
    log_path: str
    rate_hz: float = 400.0  # rate of ticks; each policy step adds two, which makes MAX_RATE_HZ at 50 Hz
    log_s: float = 5.0
    motion_switcher: bool = True
    silent_publishers: int = 0  # this many other publishers of rt/lowcmd are tolerated as long as they send nothing
    # Name of the robot's own controller that takes the motors at the end; "" means the one that released them.
    restore: str | None = None


class Sender:
    """The loop between the mailboxes, the controller and the link."""

    def __init__(
        self,
        options: SenderOptions,
        *,
        states: Mailbox,
        commands: Mailbox,
        doorbell: WaitingBell,
        driver: Watch,
        guard: Guard,
        bus: Bus,
        clock: Clock,
    ):
        self.options, self._guard, self._clock = options, guard, clock
        self.config, self.limits = RobotConfig.from_dict(options.config), SafetyLimits(**options.limits)
        self._states, self._commands, self._doorbell, self._driver = states, commands, doorbell, driver
        self._controller = Controller(self.config, self.limits)
        self._link = Link(
            self.config,
            bus,
            clock,
            is_simulator=options.interface == LOOPBACK,
            silent_publishers=options.silent_publishers,
        )
        self._log = Log(self.config, self.limits, int(options.log_s * MAX_RATE_HZ))
        self._command = self._commands.read()
        self._signal = self._guard_failure = ""
        self._latencies_s: list[float] = []
        self._max_gap_s = self._last_sent_s = 0.0
        self._last_step, self._last_now_s = 0, clock.now()
        self._speed = np.zeros(len(self.config.joints), np.float32)

    def run(self, prepare: Callable[[], None] = lambda: None) -> str:
        """Take over the robot, serve the driver until it is done or something is wrong, damp, write the log.

        prepare is called before the first command; after it this process must not be late. Returns what was wrong, or
        "". Raises ConnectionError, TimeoutError or RuntimeError if the robot cannot be taken over.
        """
        limits = self.limits
        try:
            released = self._link.take_over(
                motion_switcher=self.options.motion_switcher, limits=limits, check=self._check_wanted
            )
            self._link.state["released"] = released.encode()[:40]
            prepare()
            self._link.trust(self._guard.arm(self._check_wanted))
        except (OSError, RuntimeError) as error:
            self._controller.fail(self._clock.now(), str(error))
            self._guard.dismiss()
            self._report(Phase.DONE)
            raise
        try:
            self._loop()
        # The robot must be damped after any error. If that fails too, the guard damps.
        except BaseException as error:
            self._controller.fail(self._clock.now(), f"the sender failed: {error!r}")
            self._damp_blindly()
        self._guard.dismiss()
        self._write_log()
        if self.options.restore is not None and not self._controller.reason:
            self._restore(self.options.restore or released)
        self._report(Phase.DONE)
        return self._controller.reason

    def interrupt(self, number: int) -> None:
        """Damp, then end: this process got a signal to end."""
        self._signal = f"the sender was sent {signal.Signals(number).name}"

    def _check_wanted(self) -> None:
        """Tell the driver that this process works, and check whether it still should; nothing moves yet."""
        if self._signal or not self._driver.is_alive():
            raise ConnectionError(self._signal or "the policy's process is gone")
        if Request(self._commands.read()["request"]) == Request.CLOSE:
            raise ConnectionError("it was closed while connecting")
        self._report(Phase.CONNECTING)

    def _loop(self) -> None:
        due_s = self._clock.now()
        while not self._is_done(self._clock.now()):
            self._tick()
            due_s = max(due_s + 1.0 / self.options.rate_hz, self._clock.now())
            if self._doorbell.wait_until(due_s):  # a command is sent at once
                due_s = self._clock.now()

    def _tick(self) -> None:
        self._link.receive()
        self._command = self._commands.read()
        step = int(self._command["step"])
        now = self._snapshot()
        target = self._controller.step(now, Request(self._command["request"]), step)
        if (
            late_s := self._clock.now() - now.now_s
        ) > self.limits.guard_timeout_s:  # this process stood still: the target is old
            self._controller.fail(self._clock.now(), f"the sender stood still for {late_s * 1e3:.0f} ms")
            target = self._controller.damping()
        self._link.send(target)
        self._guard_failure = self._guard.beat()
        sent_s = self._clock.now()
        if self._controller.phase == Phase.POLICY and step != self._last_step:
            self._last_step = step
            self._link.state["latency_s"] = sent_s - self._command["state_time_s"]
            self._latencies_s.append(float(self._link.state["latency_s"]))
        if self._last_sent_s:
            self._max_gap_s = max(self._max_gap_s, sent_s - self._last_sent_s)
        self._last_sent_s = sent_s
        state = self._link.state
        state["sent"], state["kp"], state["kd"] = target.position, target.kp[0], target.kd[0]
        self._report(self._controller.phase)
        self._log.add(now.now_s, state, self._command)

    def _snapshot(self) -> Snapshot:
        state, command, request = self._link.state, self._command, Request(self._command["request"])
        now_s = self._clock.now()
        self._speed = smoothed_speed(self._speed, state["joint_velocity"], now_s - self._last_now_s, self.limits)
        self._last_now_s = now_s
        others = self._link.other_publishers()
        failure = command["reason"].decode(errors="replace") if request == Request.FAIL else self._signal
        return Snapshot(
            now_s=now_s,
            phase=self._controller.phase,
            phase_since_s=self._controller.phase_since_s,
            state_time_s=float(state["time_s"]),
            joint_position=state["joint_position"],
            joint_velocity=state["joint_velocity"],
            joint_speed=self._speed,
            temperature=state["temperature"],
            gyroscope=state["gyroscope"],
            quaternion=state["quaternion"],
            buttons=remote.buttons(state["remote"].tobytes()),
            other_publishers=others,
            other_names=self._link.names_of_others() if others else "",
            driver_alive=request == Request.CLOSE or self._driver.is_alive(),
            driver_stopped=self._driver.is_stopped(),
            driver_failure=failure,
            policy_time_s=float(command["time_s"]),
            target=command["target"],
            num_damaged=self._link.num_damaged,
            battery=int(state["battery"]),
            guard_failure=self._guard_failure,
        )

    def _is_done(self, now_s: float) -> bool:
        """Whether damping has been sent for long enough to end."""
        controller = self._controller
        leaving = controller.phase == Phase.FAULT or (
            controller.phase == Phase.IDLE and self._command["request"] == Request.CLOSE
        )
        return leaving and now_s - controller.phase_since_s > self.limits.damping_s

    def _damp_blindly(self) -> None:
        end_s = self._clock.now() + self.limits.damping_s
        while self._clock.now() < end_s:
            self._link.send(self._controller.damping())
            self._guard.beat()
            self._report(self._controller.phase)  # without reports the driver would kill this process
            self._clock.sleep(1.0 / self.options.rate_hz)

    def _restore(self, name: str) -> None:
        self._link.leave()
        try:
            if not name:
                raise RuntimeError("it had let go before this run, and --restore needs its name")
            select_controller(self._link.bus, self._clock, name)
            self._link.state["is_restored"] = True
        except (TimeoutError, RuntimeError) as error:
            self._controller.reason = (
                f"the robot was left without its own controller, which did not take the motors again ({error}): "
                "select it in Unitree's app, or start the robot again"
            )

    def _report(self, phase: Phase) -> None:
        state = self._link.state
        state["alive_s"], state["phase"] = self._clock.now(), phase
        state["reason"] = self._controller.reason.encode()[:REASON_SIZE]
        self._states.write(state)

    def _write_log(self) -> None:
        p50, p99 = np.percentile(self._latencies_s, (50, 99)).tolist() if self._latencies_s else (None, None)
        timing = {"latency_p50_s": p50, "latency_p99_s": p99, "max_send_gap_s": self._max_gap_s}
        try:
            self._log.write(Path(self.options.log_path), self._controller.reason or "closed", timing)
        except OSError as error:
            print(f"go2: no log: {error}", file=sys.stderr, flush=True)


def main() -> None:
    options = SenderOptions(**json.loads(sys.argv[1]))
    config, limits = RobotConfig.from_dict(options.config), SafetyLimits(**options.limits)
    states, commands = mailboxes(mmap.mmap(options.memory, 0), config)
    # The guard starts before the priority is raised. Otherwise it would inherit the priority, and its two seconds of
    # imports would let nothing else run.
    guard = Guard.start(options.domain, options.interface, limits.damping_kd, limits.damping_s, limits.guard_timeout_s)
    status = ""
    with realtime_priority(PRIORITY):  # the DDS threads inherit it
        try:
            doorbell, driver, bus = Doorbell(options.doorbell), ProcessWatch(options.driver_pid), _join(options, states)
            sender = Sender(
                options,
                states=states,
                commands=commands,
                doorbell=doorbell,
                driver=driver,
                guard=guard,
                bus=bus,
                clock=WALL_CLOCK,
            )
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda received, frame: sender.interrupt(received))
            if reason := sender.run(prepare=_hold_still):
                status = f"damped and stopped: {reason}; log: {options.log_path}"
        except (OSError, RuntimeError) as error:  # the driver was told, if possible
            guard.dismiss()
            status = str(error)
    if status:
        print(f"go2: {status}", file=sys.stderr, flush=True)
    os._exit(bool(status))  # DDS threads that still receive would crash while the interpreter shuts down


def _join(options: SenderOptions, states: Mailbox) -> Bus:
    """Join the robot's domain. If that fails, tell the driver and raise ConnectionError."""
    try:
        return DdsBus(options.domain, options.interface)
    except ConnectionError as error:
        state = np.zeros((), state_dtype(RobotConfig.from_dict(options.config)))
        state["phase"], state["reason"] = Phase.DONE, str(error).encode()[:REASON_SIZE]
        states.write(state)
        raise


def _hold_still() -> None:
    """Lock this process's memory and switch garbage collection off: nothing in the loop makes cycles."""
    lock_memory()
    gc.collect()
    gc.freeze()
    gc.disable()


if __name__ == "__main__":
    main()
