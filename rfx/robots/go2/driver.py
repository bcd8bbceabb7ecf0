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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfx.config import GO2_CONFIG, RobotConfig, joint_targets
from rfx.robots.go2 import remote
from rfx.robots.go2.log import Recorder, default_path, unused_path
from rfx.robots.go2.mailbox import REASON_SIZE, Doorbell, Phase, Request, command_dtype, create_memory, mailboxes
from rfx.robots.go2.pose import adopt
from rfx.robots.go2.safety import SafetyLimits
from rfx.robots.robot import SingleRobot
from rfx.state import Array, advance, projected_gravity

LOOPBACK = "lo"
REFRESH_S = 0.001
STAND_S = 20.0
START_S = 30.0  # for the sender's interpreter and imports, on a busy machine
SILENT_S = {Phase.CONNECTING: 2.0, Phase.DONE: float("inf")}  # without a word from the sender, by what it last said it does
SETTLED = (Phase.IDLE, Phase.FAULT, Phase.DONE)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the sender last said: what it does, and how the robot is."""

    phase: Phase
    reason: str  # of a fault, or of lying down
    state_age_s: float  # of the last LowState
    buttons: int  # of the remote, a sum of remote.BUTTONS
    remote_seen: bool  # the remote has sent something
    battery: int  # charge in %, mailbox.UNKNOWN where a simulator does not say
    hottest: tuple[str, int]  # joint, and its motor's temperature in degrees C
    released: str  # the robot's own controller that let go of the motors for us, if any


class Go2(SingleRobot):
    """The Unitree Go2, real or behind `rfx emulate-go2`. The first reset connects; leaving the context lies it down and disconnects.

    config is a policy's own, within pose.adopt's bounds: its gains, scale and default pose count, limits are the robot's.
    interface is the network interface of the robot: its Ethernet, or "lo" for a simulator. domain is the DDS domain, by default 1 on
    loopback and 0 elsewhere. velocity_from is "api" (command) or "remote" (the sticks). log_path is where the last seconds before an end are
    written, and the whole run beside it (log.Recorder). motion_switcher=False is for simulators that have none: nobody is asked to let go
    of the motors then. silent_publishers other publishers of rt/lowcmd are tolerated as long as they send nothing. restore has the robot's
    own controller take the motors again when it is closed without a fault: the one of this name, or with "" the one that let go of them.

    Keep the robot on the ground, in the open, with somebody at its remote: L2+B damps.
    Raises ValueError for a config out of bounds and for options that do not fit together.
    """

    def __init__(self, config: RobotConfig = GO2_CONFIG, *, interface: str = LOOPBACK, domain: int | None = None,
                 limits: SafetyLimits = SafetyLimits(), velocity_from: str = "api", log_path: str | Path | None = None,
                 motion_switcher: bool = True, silent_publishers: int = 0, restore: str | None = None):
        super().__init__(adopt(config))
        if velocity_from not in ("api", "remote"):
            raise ValueError(f"got velocity_from {velocity_from!r}; expected 'api' or 'remote'")
        if not motion_switcher and interface != LOOPBACK:
            raise ValueError(f"got motion_switcher=False on {interface!r}; a real robot's own controller must be released first")
        self.interface, self.domain = interface, (int(interface == LOOPBACK) if domain is None else domain)
        self.limits, self.velocity_from = limits, velocity_from
        self.max_velocity_command = limits.max_velocity_command
        self.log_path = self._first_log_path = Path(log_path) if log_path is not None else default_path()
        self._options = {"motion_switcher": motion_switcher, "silent_publishers": silent_publishers}
        self._restore = restore
        self.left_without = ""  # the robot's own controller, which let go of the motors and has not taken them again
        self._process: subprocess.Popen | None = None
        self._command: np.ndarray
        self._lock = threading.Lock()  # stop() may be called from another thread than the one that steps
        self._failure, self._is_stopping, self._remote_seen = "", False, False
        self._latencies_s: list[float] = []

    def connect(self) -> None:
        """Start the sender and wait until it has the robot to itself and has damped it for limits.lead_s.

        Raises ModuleNotFoundError without the extra `go2`, ConnectionError with the reason when the robot cannot be had, or when it is
        stopped or closed meanwhile.
        """
        if self._process is not None:
            raise RuntimeError("the Go2 is connected already")
        if importlib.util.find_spec("cyclonedds") is None:
            raise ModuleNotFoundError("the Go2 driver needs cyclonedds: pip install -e '.[go2]'")
        self.log_path = unused_path(self._first_log_path)  # an earlier fault's log stays
        self._failure, self._command, self._is_stopping = "", np.zeros((), command_dtype(self.config)), False
        self._latencies_s = []
        descriptor, memory = create_memory(self.config)
        bell_end, our_end = os.pipe()
        self._doorbell = Doorbell(our_end)
        options = {"config": self.config.to_dict(), "limits": dataclasses.asdict(self.limits), "domain": self.domain,
                   "interface": self.interface, "memory": descriptor, "doorbell": bell_end,
                   "driver_pid": os.getpid(), "log_path": str(self.log_path),
                   "restore": None if self._restore is None else self._restore or self.left_without}
        self._states, self._commands = mailboxes(memory, self.config)
        self._request(Request.IDLE)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # finds rfx wherever this process did
        self._began_s = time.monotonic()
        self._process = subprocess.Popen([sys.executable, "-m", "rfx.robots.go2.sender", json.dumps(options | self._options)],
                                         env=environment, pass_fds=(descriptor, bell_end), stdin=subprocess.DEVNULL, start_new_session=True)
        os.close(descriptor), os.close(bell_end)
        self._recorder = Recorder(self.log_path, memory, self.config, self.limits)
        try:
            while self._phase() == Phase.CONNECTING and self._process.poll() is None:
                self._check_sender(self._process)
                time.sleep(0.005)
            reason = self._reason() or ("it was stopped while connecting" if self._is_stopping else "the sender did not connect")
        except RuntimeError as error:
            reason = str(error)
        except BaseException:
            self.close()
            raise
        self.left_without = self._states.read()["released"].decode() or self.left_without
        if self._phase() != Phase.IDLE or self._is_stopping:
            self.close()
            raise ConnectionError(f"no Go2 in DDS domain {self.domain} on {self.interface!r}: {reason}")

    def reset(self) -> None:
        """Stand up from the measured pose, connecting first where need be. Raises ConnectionError, or RuntimeError when it stops instead."""
        if self._process is None:
            self.connect()
        self._is_stopping = False
        self.stand()
        began_s = time.monotonic()
        while not (self._phase() == Phase.STANDING and self._states.read()["time_s"] > began_s):
            self._raise_fault()
            if self._is_stopping:
                raise RuntimeError("the Go2 was stopped before it stood")
            if time.monotonic() - began_s > STAND_S:
                self._fail(f"it did not stand within {STAND_S:.0f} s")
            time.sleep(0.002)

    def stand(self) -> None:
        """Begin to stand up, or go back to standing from walking, and return at once. Raises RuntimeError after a fault."""
        self._raise_fault()
        self._clear()
        self._request(Request.STAND)

    def lie(self) -> None:
        """Begin to lie down, and return at once: damping follows. Raises RuntimeError after a fault."""
        self._raise_fault()
        self._request(Request.LIE)

    def look(self) -> Report:
        """What the sender last said. Raises RuntimeError after a fault or before connecting."""
        self._raise_fault()
        state = self._states.read()
        self._remote_seen = self._remote_seen or bool(state["remote"].any())
        joint = int(np.argmax(state["temperature"]))
        return Report(phase=Phase(state["phase"]), reason=self._reason(), state_age_s=time.monotonic() - float(state["time_s"]),
                      buttons=remote.buttons(state["remote"].tobytes()), remote_seen=self._remote_seen, battery=int(state["battery"]),
                      hottest=(self.config.joint_names[joint], int(state["temperature"][joint])), released=state["released"].decode())

    def observe(self) -> dict[str, Array]:
        """{"state": (1, max_state_dim)}, float32, of the newest LowState. Raises RuntimeError after a fault or before reset."""
        self._raise_fault()
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
        self._command["velocity_command"] = state.velocity_command[0]
        return observation

    def act(self, action: Any) -> None:
        """Hand the sender the targets of one control step. A wrong action damps for good: ValueError. RuntimeError when not standing.

        When the robot lies down of itself, as with an empty battery, this returns to the caller only once it lies, with a RuntimeError.
        """
        self._raise_fault()
        if self._phase() == Phase.LYING_DOWN:
            self._wait_until_settled()
            self._raise_fault()
        phase = self._phase()
        if phase not in (Phase.STANDING, Phase.POLICY) or self._is_stopping:
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
        """Lie down: to the default pose, then onto folded legs; then damp until the next reset. Returns once damping is being sent.

        While connecting, it gives up. Interrupted (Ctrl-C), it damps at once. May be called from another thread.
        """
        if self._process is None:
            return
        self._is_stopping = True
        self._request(Request.CLOSE if self._phase() == Phase.CONNECTING else Request.LIE)
        try:
            self._wait_until_settled()
        except KeyboardInterrupt:
            self.abort()
            raise

    def abort(self) -> None:
        """Damp at once: the robot drops, held back by its motors. Returns once damping is being sent, or the sender is gone."""
        if self._process is None:
            return
        self._is_stopping = True
        self._request(Request.IDLE)
        deadline_s = time.monotonic() + 0.5
        while self._phase() not in SETTLED and self._process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.001)

    def close(self) -> None:
        """Damp for limits.damping_s and disconnect. Raises RuntimeError when the robot's own controller was to be restored and was not."""
        if self._process is None:
            return
        self._request(Request.CLOSE)
        for end, wait_s in ((self._process.terminate, self.limits.damping_s + 15.0), (self._process.kill, 5.0), (lambda: None, None)):
            try:  # it damps on SIGTERM too; after SIGKILL its guard does
                self._process.wait(timeout=wait_s)
                break
            except subprocess.TimeoutExpired:
                end()
        reason, had_failed = self._reason(), bool(self._failure)
        if self._states.read()["is_restored"]:
            self.left_without = ""
        os.close(self._doorbell.descriptor)
        self._process = None
        self._recorder.close()
        if "left without its own controller" in reason and not had_failed:
            raise RuntimeError(reason)

    def latency_s(self) -> tuple[float, float]:
        """LowState in to the first LowCmd that the policy made of it: median and 99th percentile, s. nan before the second step."""
        values = self._latencies_s[2:]
        return tuple(np.percentile(values, (50, 99)).tolist()) if values else (np.nan, np.nan)

    def __enter__(self) -> Go2:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.stop()
            else:
                self.abort()
        finally:
            self.close()

    def _request(self, request: Request) -> None:
        with self._lock:
            if self._failure:  # nothing takes that back, or overwrites it before the sender has seen it
                request = Request.FAIL
            elif self._is_stopping and request in (Request.STAND, Request.POLICY):  # another thread has just stopped it
                raise RuntimeError("the Go2 was stopped: call reset() first")
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

    def _phase(self) -> Phase:
        return Phase(self._states.read()["phase"])

    def _reason(self) -> str:
        return self._states.read()["reason"].decode(errors="replace")

    def _wait_until_settled(self) -> None:
        """Until the robot is damped, or the sender gone or found standing still."""
        limits, process = self.limits, self._process  # a connection that another thread has just given up has none any more
        deadline_s = time.monotonic() + limits.collect_s + limits.lie_s + 2.0 * limits.settle_s + 2.0
        while process is not None and self._phase() not in SETTLED and process.poll() is None and time.monotonic() < deadline_s:
            try:
                self._check_sender(process)
            except RuntimeError:
                return  # the guard damps
            time.sleep(0.002)

    def _check_sender(self, process: subprocess.Popen) -> None:
        """Raise RuntimeError when the sender has said nothing for too long, and kill it: it could go on at any moment. Its guard damps."""
        state = self._states.read()
        heard_s, limit_s = float(state["alive_s"]), SILENT_S.get(Phase(state["phase"]), self.limits.guard_timeout_s)
        if not heard_s:
            heard_s, limit_s = self._began_s, START_S
        if (silent_s := time.monotonic() - heard_s) <= limit_s or process.poll() is not None:
            return
        time.sleep(0.01)  # this whole process may have been away: a word that has come meanwhile counts
        if float(self._states.read()["alive_s"]) > heard_s or process.poll() is not None:
            return
        process.kill()
        process.wait()
        raise RuntimeError(f"the Go2's sender stood still for {silent_s * 1e3:.0f} ms and was killed; its guard damps")

    def _fail(self, reason: str, cause: ValueError | None = None) -> None:
        """Have the sender damp for good, and raise: the cause's kind, or RuntimeError."""
        with self._lock:
            self._failure, self._command["reason"] = reason, reason.encode()[:REASON_SIZE]
        self._request(Request.FAIL)
        raise (ValueError if cause else RuntimeError)(reason) from cause

    def _raise_fault(self) -> None:
        """Raises RuntimeError when the sender damped for good, stands still, or is gone."""
        if self._process is None:
            raise RuntimeError("the Go2 is not connected: call reset() first")
        if self._failure or self._phase() in (Phase.FAULT, Phase.DONE):
            raise RuntimeError(f"the Go2 was damped: {self._failure or self._reason()}; log: {self.log_path}")
        self._check_sender(self._process)
        if self._process.poll() is not None:
            raise RuntimeError(f"the Go2's sender ended with status {self._process.returncode}")
