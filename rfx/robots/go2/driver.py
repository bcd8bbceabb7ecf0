"""The Go2 as a Robot: it fills the RobotState from what the sender reports, and hands the sender the policy's targets."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rfx.config import RobotConfig, joint_targets
from rfx.robots.go2.config import GO2_CONFIG
from rfx.robots.go2 import remote
from rfx.robots.go2.log import default_path, free_path
from rfx.robots.go2.mailbox import REASON_SIZE, Doorbell, Phase, Request, command_dtype, create_memory, mailboxes
from rfx.robots.go2.safety import MOVING, SafetyLimits
from rfx.robots.robot import SingleRobot, Stopped
from rfx.state import Array, advance, projected_gravity

LOOPBACK = "lo"
REFRESH_S = 0.001
STAND_S = 20.0
START_S = 45.0  # for the sender to start, and its guard to get ready, beside limits.take_over_s
RESPITE_S = 0.005  # for a sender that was away together with this process
ALWAYS_S = 2.0  # what a request takes at most beyond the motions that it asks for


class Go2(SingleRobot):
    """The Unitree Go2, real or behind `rfx emulate-go2`. The first reset connects; leaving the context damps and disconnects.

    interface is the network interface of the robot: its Ethernet, or "lo" for a simulator. domain is the DDS domain, by default 1 on
    loopback and 0 elsewhere. velocity_from is "api" (command) or "remote" (the sticks). log_path is where the last seconds are written;
    a file that is there already stays, and a number is appended.
    motion_switcher=False is for simulators that have none: nobody is asked to let go of the motors then.
    silent_publishers other publishers of rt/lowcmd are tolerated as long as they send nothing.

    Keep the robot on the ground, in the open, with somebody at its remote: L2+B damps.
    Raises ValueError for options that do not fit together.
    """

    def __init__(self, config: RobotConfig = GO2_CONFIG, *, interface: str = LOOPBACK, domain: int | None = None,
                 limits: SafetyLimits = SafetyLimits(), velocity_from: str = "api", log_path: str | Path | None = None,
                 motion_switcher: bool = True, silent_publishers: int = 0):
        super().__init__(config, limits.max_velocity_command)
        if velocity_from not in ("api", "remote"):
            raise ValueError(f"got velocity_from {velocity_from!r}; expected 'api' or 'remote'")
        if not motion_switcher and interface != LOOPBACK:
            raise ValueError(f"got motion_switcher=False on {interface!r}; a real robot's own controller must be released first")
        self.interface, self.domain = interface, (int(interface == LOOPBACK) if domain is None else domain)
        self.limits, self.velocity_from = limits, velocity_from
        self.log_path = self._wanted_log_path = Path(log_path) if log_path is not None else default_path()
        self._options = {"motion_switcher": motion_switcher, "silent_publishers": silent_publishers}
        self._process: subprocess.Popen | None = None
        self._command: np.ndarray
        self._failure = ""
        self._latencies_s: list[float] = []
        self._stop_asked, self._lock = threading.Event(), threading.Lock()

    def connect(self) -> None:
        """Start the sender and wait until it has the robot to itself and has damped it for limits.lead_s.

        Where this is not to be, nothing is left running. Raises ModuleNotFoundError without the extra `go2`, ConnectionError with the
        reason when the robot cannot be had, Stopped when stop was called meanwhile.
        """
        self._stop_asked.clear()
        self._connect()

    def _connect(self) -> None:
        if self._process is not None:
            raise RuntimeError("the Go2 is connected already")
        if importlib.util.find_spec("cyclonedds") is None:
            raise ModuleNotFoundError("the Go2 driver needs cyclonedds: pip install -e '.[go2]' in rfx's folder")
        self._failure, self._command = "", np.zeros((), command_dtype(self.config))
        self.log_path = free_path(self._wanted_log_path)
        self._latencies_s = []
        descriptor, memory = create_memory(self.config)
        bell_end, our_end = os.pipe()
        self._doorbell = Doorbell(our_end)
        options = {"config": self.config.to_dict(), "limits": dataclasses.asdict(self.limits), "domain": self.domain,
                   "interface": self.interface, "memory": descriptor, "doorbell": bell_end,
                   "driver_pid": os.getpid(), "log_path": str(self.log_path)}
        self._states, self._commands = mailboxes(memory, self.config)
        self._request(Request.IDLE)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # finds rfx wherever this process did
        self._process = subprocess.Popen([sys.executable, "-m", "rfx.robots.go2.sender", json.dumps(options | self._options)],
                                         env=environment, pass_fds=(descriptor, bell_end), stdin=subprocess.DEVNULL, start_new_session=True)
        os.close(descriptor), os.close(bell_end)
        try:
            self._await_connection(time.monotonic() + self.limits.take_over_s + START_S)
        except BaseException:  # Ctrl-C included
            self.close()
            raise

    def _await_connection(self, deadline_s: float) -> None:
        while self._phase() == Phase.CONNECTING and time.monotonic() < deadline_s and self._process.poll() is None:
            if self._stop_asked.wait(0.005):
                raise Stopped("the Go2 was stopped while it connected")
        if self._phase() != Phase.IDLE:
            reason = self._reason() or "the sender did not connect"
            raise ConnectionError(f"no Go2 in DDS domain {self.domain} on {self.interface!r}: {reason}")

    def reset(self) -> None:
        """Stand up from the measured pose, connecting first where need be; from a walk, come back to standing.

        Raises ConnectionError, RuntimeError when it damps instead, or Stopped when stop was called meanwhile.
        """
        self._stop_asked.clear()
        if self._process is None:
            self._connect()
        self._clear()
        with self._lock:
            if not self._stop_asked.is_set():
                self._request(Request.STAND)
        began_s = time.monotonic()
        while not (self._obeyed() and self._phase() == Phase.STANDING and self._states.read()["time_s"] > began_s):
            self.check()
            if self._stop_asked.wait(0.002):
                raise Stopped("the Go2 was stopped while it stood up")
            if time.monotonic() - began_s > STAND_S:
                self._fail(f"it did not stand within {STAND_S:.0f} s")

    def observe(self) -> dict[str, Array]:
        """{"state": (1, max_state_dim)}, float32, of the newest LowState. Raises RuntimeError after a fault or before reset."""
        self.check()
        measured, state = self._newest_state(), self.state
        state.joint_position[0], state.joint_velocity[0] = measured["joint_position"], measured["joint_velocity"]
        state.base_angular_velocity_b[0] = measured["gyroscope"]
        projected_gravity(measured["quaternion"][None], out=state.projected_gravity_b)
        if self.velocity_from == "remote":
            self.command(*remote.velocity_command(measured["remote"].tobytes(), self.limits.max_velocity_command))
        observation = self._observation()
        if not np.isfinite(observation["state"]).all():
            self._fail("the observation is not finite")
        self._command["state_time_s"], self._command["observation"] = measured["time_s"], observation["state"][0]
        return observation

    def act(self, action: Any) -> None:
        """Hand the sender the targets of one control step. A wrong action damps for good: ValueError. RuntimeError when not standing."""
        self.check()
        phase = self._phase()
        if phase not in (Phase.STANDING, Phase.POLICY):
            raise RuntimeError(f"the Go2 is {phase.name}: call reset() first")
        try:
            values = self._action(action)
        except ValueError as error:
            self._fail(str(error), error)
        self._command["target"], self._command["action"] = joint_targets(self.config, values)[0], values[0]
        self._command["step"] += 1
        self._request(Request.POLICY)
        advance(self.state, values)
        self._latencies_s.append(float(self._states.read()["latency_s"]))

    def stop(self) -> None:
        """Lie down where it stands or walks, then damp until the next reset. Returns once it is damped. Ctrl-C meanwhile damps at once."""
        with self._lock:
            self._stop_asked.set()
            if self._process is None:
                return
            self._request(Request.IDLE)
        try:
            self._await_damping(self.limits.recover_s + self.limits.lie_s)
        except BaseException:
            self.damp()
            raise

    def damp(self) -> None:
        """Damp at once, until the next reset: for when something is wrong. Returns once damping is being sent."""
        self._stop_asked.set()
        if self._process is not None:
            self._request(Request.DAMP)
            self._await_damping(0.0)

    def _await_damping(self, seconds: float) -> None:
        process, deadline_s = self._process, time.monotonic() + seconds + ALWAYS_S
        while process.poll() is None and time.monotonic() < deadline_s:
            phase = self._phase()
            if phase in (Phase.CONNECTING, Phase.FAULT, Phase.DONE) or (phase == Phase.IDLE and self._obeyed()):
                return
            self._kill_if_silent()
            time.sleep(0.001)

    def close(self) -> None:
        """Lie down where it stands or walks, damp for limits.damping_s, and disconnect. Ctrl-C meanwhile damps at once."""
        if self._process is None:
            return
        self._request(Request.CLOSE)
        self._request(Request.CLOSE)
        process, self._process = self._process, None
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=self.limits.recover_s + self.limits.lie_s + self.limits.damping_s + 10.0)
        finally:  # also after Ctrl-C: nothing may stay behind
            process.terminate()  # where it is still there, it damps on that too
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=self.limits.damping_s + 5.0)
            process.kill()  # where even that was in vain, the guard damps
            process.wait()
            os.close(self._doorbell.descriptor)

    @property
    def remote_buttons(self) -> int:
        """What is pressed on the remote now, as a sum of remote.BUTTONS; 0 while nothing is connected."""
        return remote.buttons(self._states.read()["remote"].tobytes()) if self._process is not None else 0

    @property
    def is_standing(self) -> bool:
        """Whether it stands, and waits for a policy. Raises RuntimeError after a fault."""
        self.check()
        return self._phase() == Phase.STANDING

    @property
    def is_battery_empty(self) -> bool:
        """Whether it is time to lie down. A battery of 0% is a simulator's that reports none."""
        return self._process is not None and 0 < int(self._states.read()["battery"]) <= self.limits.empty_battery_percent

    @property
    def condition(self) -> str:
        """Battery and hottest motor, in words."""
        state = self._states.read() if self._process is not None else None
        return "" if state is None else f"battery {int(state['battery'])}%, hottest motor {int(state['temperature'].max())} C"

    def latency_s(self) -> tuple[float, float]:
        """LowState in to the first LowCmd that the policy made of it: median and 99th percentile, s. nan before the second step."""
        values = self._latencies_s[2:]
        return tuple(np.percentile(values, (50, 99)).tolist()) if values else (np.nan, np.nan)

    def __enter__(self) -> Go2:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: Any, traceback: Any) -> None:
        """A planned end, Ctrl-C included, is a gentle one."""
        try:
            self.stop() if kind is None or issubclass(kind, KeyboardInterrupt) else self.damp()
        finally:
            self.close()

    def _request(self, request: Request) -> None:
        if self._failure:  # nothing takes that back, or overwrites it before the sender has seen it
            request = Request.FAIL
        self._command["time_s"], self._command["request"] = time.monotonic(), request
        self._commands.write(self._command)
        self._doorbell.ring()

    def _newest_state(self) -> np.void:
        """What the sender reports after a look at the robot of this moment; if that takes it too long, what it reported last."""
        state, until_s = self._states.read(), time.monotonic() + REFRESH_S
        number = self._states.number
        self._doorbell.ring()
        while self._states.number == number and time.monotonic() < until_s:
            time.sleep(0.0)
            state = self._states.read()
        return state

    def _obeyed(self) -> bool:
        """Whether the sender has seen the last request."""
        return bool(self._states.read()["obeyed_s"] >= self._command["time_s"])

    def _phase(self) -> Phase:
        return Phase(self._states.read()["phase"])

    def _reason(self) -> str:
        return self._states.read()["reason"].decode(errors="replace")

    def _fail(self, reason: str, cause: ValueError | None = None) -> None:
        """Have the sender damp for good, and raise: the cause's kind, or RuntimeError."""
        self._failure, self._command["reason"] = reason, reason.encode()[:REASON_SIZE]
        self._request(Request.FAIL)
        raise (ValueError if cause else RuntimeError)(reason) from cause

    def check(self) -> None:
        """Raises RuntimeError before it is connected, or when the sender damped for good, or is gone."""
        if self._process is None:
            raise RuntimeError("the Go2 is not connected: call reset() first")
        if self._failure or self._phase() in (Phase.FAULT, Phase.DONE):
            raise RuntimeError(f"the Go2 was damped: {self._failure or self._reason()}; log: {self.log_path}")
        if self._process.poll() is not None:
            raise RuntimeError(f"the Go2's sender ended with status {self._process.returncode}")
        self._kill_if_silent()

    def _kill_if_silent(self) -> None:
        """Kill a sender that gives no sign of life while the legs are stiff: the guard, which has seen that too, damps. Raises RuntimeError."""
        state = self._states.read()
        if Phase(state["phase"]) not in MOVING or time.monotonic() - state["written_s"] <= self.limits.sender_timeout_s:
            return
        time.sleep(RESPITE_S)
        state = self._states.read()
        age_s = time.monotonic() - state["written_s"]
        if Phase(state["phase"]) in MOVING and age_s > self.limits.sender_timeout_s:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"no sign of life from the Go2's sender for {age_s * 1e3:.0f} ms: it was killed, and its guard damps")
