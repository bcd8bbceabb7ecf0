"""The process that talks to the robot: 500 times a second LowState in, safety rules, LowCmd out. The driver starts it.

It holds and interpolates the policy's targets, so the policy's rate never gates the motors', and it outlives the policy's process: when
that stalls, crashes or is killed, this one damps. Whatever ends it, it sends damping for a while first. It has a session of its own, so
the terminal's Ctrl-C reaches the policy's process only, which then asks for damping.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfx.config import RobotConfig
from rfx.robots.go2 import messages, remote
from rfx.robots.go2.bus import LOW_CMD, LOW_STATE, Bus
from rfx.robots.go2.controller import Controller, MotorTarget
from rfx.robots.go2.idl import LowCmd_, LowState_
from rfx.robots.go2.log import Log
from rfx.robots.go2.mailbox import Phase, Request, mailboxes, state_dtype
from rfx.robots.go2.safety import SafetyLimits, Snapshot
from rfx.robots.go2.switcher import release_sport_controller
from rfx.robots.realtime import realtime_priority, sleep_until

PRIORITY = 30  # above the policy's loop
CONNECT_S = 3.0  # for the first LowState
LISTEN_S = 0.3  # before the first command: another publisher may be there that discovery has not met yet


@dataclass(frozen=True, kw_only=True)
class SenderOptions:
    """What the driver tells the sender, as JSON on its command line."""

    config: dict[str, Any]
    limits: dict[str, Any]
    domain: int
    interface: str
    memory: int  # file descriptor
    driver_pid: int
    log_path: str
    rate_hz: float = 500.0
    log_s: float = 5.0
    motion_switcher: bool = True
    silent_publishers: int = 0  # this many other publishers of rt/lowcmd are tolerated as long as they send nothing


class Sender:
    """Everything the process holds."""

    def __init__(self, options: SenderOptions):
        self.options = options
        self.config, self.limits = RobotConfig.from_dict(options.config), SafetyLimits(**options.limits)
        self._num = len(self.config.joints)
        self._states, self._commands = mailboxes(mmap.mmap(options.memory, 0), self.config)
        self._state = np.zeros((), state_dtype(self.config))
        self._controller = Controller(self.config, self.limits)
        self._log = Log(self.config, self.limits, int(options.log_s * options.rate_hz))
        self._signal = ""
        self._latencies_s: list[float] = []
        self._max_gap_s = self._last_sent_s = 0.0
        self._last_step = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def run(self) -> None:
        """Connect, serve the driver until it is done or something is wrong, damp, write the log."""
        self._report(Phase.CONNECTING)
        self._connect()
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing in the loop makes cycles
        try:
            self._loop()
        except BaseException as error:  # the robot must be damped whatever this was
            self._controller.fail(time.monotonic(), f"the sender failed: {error!r}")
            self._damp_blindly()
        finally:
            reason = self._controller.reason or "closed"
            self._log.write(Path(self.options.log_path), reason, self._timing())
            self._report(Phase.DONE)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signal = f"the sender was sent {signal.Signals(number).name}"
        if not self._last_sent_s:  # nothing was commanded yet: just go
            raise ConnectionError(self._signal)

    def _connect(self) -> None:
        """Join the bus, wait for the robot, have its own controller let go, and make sure that nobody else commands the motors."""
        self._bus = Bus(self.options.domain, self.options.interface)
        self._low_states = self._bus.reader(LOW_STATE, LowState_)
        self._others = self._bus.reader(LOW_CMD, LowCmd_, depth=16, others_only=True)
        self._wait(self._receive, CONNECT_S, "no LowState from the robot: check cable, address, domain and interface")
        if self.options.motion_switcher:
            release_sport_controller(self._bus, self._wait_for_rest)
        self._wait(lambda: self._matched() <= self.options.silent_publishers, 2.0,
                   "another publisher of rt/lowcmd is there: stop the other controller")
        self._others.take(16)  # what the robot's own controller sent before it was released
        listen_until_s = time.monotonic() + LISTEN_S
        while time.monotonic() < listen_until_s:
            if self._other_publishers():
                raise ConnectionError("another publisher of rt/lowcmd appeared: stop the other controller")
            time.sleep(0.005)
        self._low_cmds = self._bus.writer(LOW_CMD, LowCmd_)
        self._low_cmd = messages.new_low_cmd()

    def _wait(self, condition: Any, timeout_s: float, message: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise ConnectionError(message)
            if os.getppid() != self.options.driver_pid:
                raise ConnectionError("the policy's process is gone")
            time.sleep(0.005)

    def _wait_for_rest(self) -> None:
        """Until no joint has moved for 0.3 s, but no longer than 8 s."""
        deadline_s = time.monotonic() + 8.0
        rest_since_s = time.monotonic()
        while time.monotonic() < deadline_s:
            self._receive()
            if np.abs(self._state["joint_velocity"]).max() > self.limits.rest_velocity_rad_s:
                rest_since_s = time.monotonic()
            if time.monotonic() - rest_since_s > 0.3:
                return
            time.sleep(0.01)

    def _loop(self) -> None:
        due_s = time.monotonic()
        while not self._is_done(time.monotonic()):
            self._tick()
            due_s = max(due_s + 1.0 / self.options.rate_hz, time.monotonic())
            sleep_until(due_s, spin_s=0.0)

    def _tick(self) -> None:
        self._receive()
        command = self._commands.read()
        now = self._snapshot(command)
        target = self._controller.step(now, Request(command["request"]), int(command["step"]))
        self._send(target)
        sent_s = time.monotonic()
        if self._controller.phase == Phase.POLICY and command["step"] != self._last_step:
            self._state["latency_s"] = sent_s - command["state_time_s"]
            self._latencies_s.append(float(self._state["latency_s"]))
            self._last_step = command["step"]
        if self._last_sent_s:
            self._max_gap_s = max(self._max_gap_s, sent_s - self._last_sent_s)
        self._last_sent_s = sent_s
        self._report(self._controller.phase)
        self._log.add(now.now_s, self._controller.phase, self._state, command, target)

    def _receive(self) -> bool:
        """Take the newest LowState into the state record. Returns whether there was an intact one."""
        try:
            samples = self._low_states.take(1)
        except ValueError:  # not a LowState
            return False
        if not samples or not hasattr(samples[0], "record") or not messages.is_intact(samples[0].record):
            return False
        low_state, state, num = samples[0].record, self._state, self._num
        motors, imu = low_state["motor_state"][:num], low_state["imu_state"]
        state["time_s"] = time.monotonic()
        state["joint_position"], state["joint_velocity"], state["joint_torque"] = motors["q"], motors["dq"], motors["tau_est"]
        state["temperature"], state["gyroscope"], state["quaternion"] = motors["temperature"], imu["gyroscope"], imu["quaternion"]
        state["remote"], state["battery"] = low_state["wireless_remote"], low_state["bms_state"]["soc"]
        return True

    def _other_publishers(self) -> int:
        """How many others publish rt/lowcmd: tolerated silent ones left out, until they send."""
        if self._others.take(16):
            return max(1, self._matched())
        return max(0, self._matched() - self.options.silent_publishers)

    def _matched(self) -> int:
        return len(self._others.get_matched_publications())

    def _snapshot(self, command: np.ndarray) -> Snapshot:
        state, request = self._state, Request(command["request"])
        failure = command["reason"].decode(errors="replace") if request == Request.FAIL else self._signal
        return Snapshot(
            now_s=time.monotonic(), phase=self._controller.phase, phase_since_s=self._controller.phase_since_s,
            state_time_s=float(state["time_s"]), joint_position=state["joint_position"], joint_velocity=state["joint_velocity"],
            temperature=state["temperature"], gyroscope=state["gyroscope"], quaternion=state["quaternion"],
            buttons=remote.buttons(state["remote"].tobytes()), other_publishers=self._other_publishers(),
            driver_alive=request == Request.CLOSE or os.getppid() == self.options.driver_pid, driver_failure=failure,
            policy_time_s=float(command["time_s"]), target=command["target"])

    def _send(self, target: MotorTarget) -> None:
        motors = self._low_cmd["motor_cmd"][:self._num]
        motors["q"], motors["kp"], motors["kd"], motors["dq"] = target.position, target.kp, target.kd, 0.0
        messages.seal(self._low_cmd)
        self._low_cmds.write(LowCmd_(self._low_cmd))

    def _report(self, phase: Phase) -> None:
        self._state["phase"], self._state["reason"] = phase, self._controller.reason.encode()[:240]
        self._states.write(self._state)

    def _is_done(self, now_s: float) -> bool:
        """Whether damping has been sent for long enough on the way out."""
        controller = self._controller
        closing = controller.phase == Phase.IDLE and self._commands.read()["request"] == Request.CLOSE
        leaving = closing or controller.phase == Phase.FAULT
        return leaving and now_s - controller.phase_since_s > self.limits.damping_s

    def _damp_blindly(self) -> None:
        zeros = np.zeros(self._num, np.float32)
        end_s = time.monotonic() + self.limits.damping_s
        while time.monotonic() < end_s:
            self._send(MotorTarget(position=zeros, kp=zeros, kd=zeros + np.float32(self.limits.damping_kd)))
            time.sleep(1.0 / self.options.rate_hz)

    def _timing(self) -> dict[str, float | None]:
        p50, p99 = np.percentile(self._latencies_s, (50, 99)) if self._latencies_s else (np.nan, np.nan)
        figures = {"latency_p50_s": p50, "latency_p99_s": p99, "max_send_gap_s": self._max_gap_s}
        return {name: None if np.isnan(value) else round(float(value), 6) for name, value in figures.items()}


def main() -> None:
    options = SenderOptions(**json.loads(sys.argv[1]))
    sender = Sender(options)
    try:
        with realtime_priority(PRIORITY):  # the DDS threads inherit it
            sender.run()
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        sender._controller.fail(time.monotonic(), str(error))
        sender._report(Phase.DONE)
        sys.exit(1)
    if sender._controller.reason:
        print(f"go2: damped and stopped: {sender._controller.reason}; log: {options.log_path}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
