"""The Go2 as a Robot: it reads the RobotState from the sender's reports, and sends it the policy's targets."""

from __future__ import annotations

import importlib.util
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfx.drivers.go2.driver.connection import Connection, StartSender, start_sender, why_none_started
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.log import default_path, unused_path
from rfx.drivers.go2.rules.mailbox import REASON_SIZE, UNKNOWN, Phase, Request
from rfx.drivers.go2.rules.pose import adopt
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.go2.wire import remote
from rfx.drivers.realtime import WALL_CLOCK, Clock
from rfx.drivers.robot import SingleRobot
from rfx.robot.config import RobotConfig, joint_targets
from rfx.robot.state import Array, advance, projected_gravity
from rfx.system.extras import missing

LOOPBACK = "lo"
STAND_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """The sender's last report: its phase and the condition of the robot."""

    phase: Phase
    reason: str  # why there is a fault, or why the robot lies down
    state_age_s: float  # age of the last LowState
    buttons: int  # pressed buttons of the remote, a sum of remote.BUTTONS
    remote_seen: bool  # the remote has sent something
    battery: int  # charge in %; mailbox.UNKNOWN if a simulator does not report it
    hottest: tuple[str, int]  # joint with the hottest motor, and its temperature in degrees C


class Go2(SingleRobot):
    """The Unitree Go2, real or behind `rfx emulate-go2`.

    The first reset connects. Leaving the context lets the robot lie down, then disconnects.

    config is the policy's config, within the bounds of pose.adopt: gains, scale and default pose are the policy's,
    limits are the robot's. interface is the network interface of the robot: its Ethernet, or "lo" for a simulator.
    domain is the DDS domain, by default 1 on loopback and 0 elsewhere. velocity_from is "api" (command) or "remote"
    (the sticks). The last seconds before an end are written to log_path, and the whole run beside it (log.Recorder).
    motion_switcher=False is for simulators without a motion switcher: then no controller is asked to release the
    motors. silent_publishers is the number of other publishers of rt/lowcmd that are tolerated while they send nothing.
    restore names the robot's own controller that takes the motors again when this robot is closed without a fault; ""
    means the controller that released them. Tests use clock to control time, and start to keep the sender in their own
    process.

    Keep the robot on the ground, in the open, with somebody at its remote: L2+B damps.
    Raises ValueError for a config out of bounds and for options that do not fit together.
    """

    def __init__(
        self,
        config: RobotConfig = GO2_CONFIG,
        *,
        interface: str = LOOPBACK,
        domain: int | None = None,
        limits: SafetyLimits = SafetyLimits(),
        velocity_from: str = "api",
        log_path: str | Path | None = None,
        motion_switcher: bool = True,
        silent_publishers: int = 0,
        restore: str | None = None,
        clock: Clock = WALL_CLOCK,
        start: StartSender = start_sender,
    ):
        super().__init__(adopt(config), limits.max_velocity_command)
        if velocity_from not in ("api", "remote"):
            raise ValueError(f"got velocity_from {velocity_from!r}; expected 'api' or 'remote'")
        if not motion_switcher and interface != LOOPBACK:
            raise ValueError(
                f"got motion_switcher=False on {interface!r}; a real robot's own controller must be released first"
            )
        self.interface, self.domain = interface, (int(interface == LOOPBACK) if domain is None else domain)
        self.limits, self.velocity_from = limits, velocity_from
        self.log_path = self._first_log_path = Path(log_path) if log_path is not None else default_path()
        self._options = {
            "motion_switcher": motion_switcher,
            "silent_publishers": silent_publishers,
            "domain": self.domain,
            "interface": interface,
        }
        self._restore, self._clock, self._start = restore, clock, start
        self.left_without = ""  # the robot's own controller that released the motors and has not taken them again
        self._connection: Connection | None = None
        self._lock = threading.Lock()  # another thread than the stepping one may call stop()
        self._failure, self._is_stopping, self._is_braking, self._remote_seen = "", False, False, False
        self._wanted = [0.0, 0.0, 0.0]  # state.velocity_command moves to this velocity
        self._latencies_s: list[float] = []

    def connect(self) -> None:
        """Start the sender and wait until it alone commands the robot and has damped it for limits.lead_s.

        Raises ModuleNotFoundError without the extra `go2`. Raises ConnectionError with the reason when the robot cannot
        be taken over, or is stopped or closed meanwhile.
        """
        if self._connection is not None:
            raise RuntimeError("the Go2 is connected already")
        if importlib.util.find_spec("cyclonedds") is None:
            raise missing("the Go2 driver", "cyclonedds")
        self.log_path = unused_path(self._first_log_path)  # an earlier fault's log stays
        self._failure, self._is_stopping, self._latencies_s = "", False, []
        restore = None if self._restore is None else self._restore or self.left_without
        connection = self._connection = Connection(
            self.config, self.limits, self.log_path, self._options | {"restore": restore}, self._clock, self._start
        )
        try:
            while connection.phase == Phase.CONNECTING and connection.is_running:
                connection.check()
                self._clock.sleep(0.005)
            phase = connection.phase  # read before the reason
            reason = connection.reason or ("it was stopped" if self._is_stopping else why_none_started())
        except RuntimeError as error:
            phase, reason = Phase.DONE, str(error)
        except BaseException:
            self.close()
            raise
        self.left_without = connection.state["released"].decode() or self.left_without
        if phase != Phase.IDLE or self._is_stopping:
            self.close()
            raise ConnectionError(f"no Go2 in DDS domain {self.domain} on {self.interface!r}: {reason}")

    def reset(self) -> None:
        """Stand up from the measured pose, and connect first if necessary.

        Raises ConnectionError if it cannot connect, RuntimeError if the robot stops instead of standing up.
        """
        if self._connection is None:
            self.connect()
        self._is_stopping = False
        self.stand()
        began_s = self._clock.now()
        while not ((state := self._connected().state)["phase"] == Phase.STANDING and state["time_s"] > began_s):
            if self._is_stopping:
                raise RuntimeError("the Go2 was stopped before it stood")
            if self._clock.now() - began_s > STAND_S:
                self._fail(f"it did not stand within {STAND_S:.0f} s")
            self._clock.sleep(0.002)

    def stand(self) -> None:
        """Begin to stand up, or change from walking to standing, and return at once.

        Raises RuntimeError after a fault.
        """
        self._connected()
        self._clear()
        self._request(Request.STAND)

    def brake(self) -> float:
        """Command zero velocity from now on, whatever is asked, until the robot stands again.

        Returns limits.brake_s; the policy should go on for this time.

        Call it before stand, lie and stop. A policy of the default run walked at up to 1 m/s. It fell in 12 of 80 ends
        when its legs were taken from it while it walked, in 3 of 60 when it was told to stand from one step to the
        next, and in none of 120 when it braked.
        """
        self._is_braking = True
        return self.limits.brake_s

    def lie(self) -> None:
        """Begin to lie down, and return at once; damping follows. Raises RuntimeError after a fault."""
        self._connected()
        self._request(Request.LIE)

    def look(self) -> Report:
        """Return the sender's last report. Raises RuntimeError after a fault or before connecting."""
        connection = self._connected()
        state = connection.state
        self._remote_seen = self._remote_seen or bool(state["remote"].any())
        joint = int(np.argmax(state["temperature"]))
        return Report(
            phase=Phase(state["phase"]),
            reason=connection.reason,
            state_age_s=self._clock.now() - float(state["time_s"]),
            buttons=remote.buttons(state["remote"].tobytes()),
            remote_seen=self._remote_seen,
            battery=int(state["battery"]),
            hottest=(self.config.joint_names[joint], int(state["temperature"][joint])),
        )

    def observe(self) -> dict[str, Array]:
        """Return {"state": (1, max_state_dim)}, float32, from the newest LowState.

        Raises RuntimeError after a fault or before reset.
        """
        connection = self._connected()
        measured, state, command = connection.newest_state(), self.state, connection.command
        state.joint_position[0], state.joint_velocity[0] = measured["joint_position"], measured["joint_velocity"]
        state.base_angular_velocity_b[0] = measured["gyroscope"]
        projected_gravity(measured["quaternion"][None], out=state.projected_gravity_b)
        if self.velocity_from == "remote":
            self.command(*remote.velocity_command(measured["remote"].tobytes(), self.limits.max_velocity_command))
        observation = self._observation()
        if not np.isfinite(observation["state"]).all():
            self._fail("the observation is not finite")
        command["state_time_s"], command["observation"] = measured["time_s"], observation["state"][0]
        command["velocity_command"] = state.velocity_command[0]
        return observation

    def act(self, action: Any) -> None:
        """Give the sender the targets of one control step.

        A wrong action damps for good and raises ValueError. Raises RuntimeError when the robot does not stand.

        If the robot lies down by itself, for example with an empty battery, this raises RuntimeError once it lies.
        """
        connection = self._connected()
        if (phase := connection.phase) == Phase.LYING_DOWN:
            connection.wait_until_settled(self._lying_s)
        if phase not in (Phase.STANDING, Phase.POLICY) or self._is_stopping:
            self._connected()  # raises with the reason, if the sender has damped since the first check
            raise RuntimeError(f"the Go2 is {connection.phase.name}: call reset() first")
        try:
            values = self._action(action)
        except ValueError as error:
            self._fail(str(error), error)
        connection.command["target"], connection.command["action"] = joint_targets(self.config, values)[0], values[0]
        connection.command["step"] += 1
        self._request(Request.POLICY)
        advance(self.state, values)
        self._follow_command(int(connection.state["battery"]))
        self._latencies_s.append(float(connection.state["latency_s"]))

    def stop(self) -> None:
        """Lie down by way of the default pose onto folded legs, then damp until the next reset.

        Returns once damping is being sent.

        While it connects, this ends the attempt. On Ctrl-C it damps at once. May be called from another thread.
        """
        if (connection := self._connection) is None:
            return
        self._is_stopping = True
        self._request(Request.CLOSE if connection.phase == Phase.CONNECTING else Request.LIE)
        try:
            connection.wait_until_settled(self._lying_s)
        except KeyboardInterrupt:
            self.abort()
            raise

    def abort(self) -> None:
        """Damp at once: the robot drops, and its motors slow the fall.

        Returns once damping is being sent, or the sender is gone.
        """
        if (connection := self._connection) is None:
            return
        self._is_stopping = True
        self._request(Request.IDLE)
        connection.wait_until_settled(0.5)

    def close(self) -> None:
        """Damp for limits.damping_s and disconnect.

        Raises RuntimeError if the robot's own controller should have been restored and was not.
        """
        if (connection := self._connection) is None:
            return
        self._request(Request.CLOSE)
        connection.close()
        self._connection = None
        if connection.state["is_restored"]:
            self.left_without = ""
        if "left without its own controller" in connection.reason and not self._failure:
            raise RuntimeError(connection.reason)

    def latency_s(self) -> tuple[float, float]:
        """Time from a LowState to the policy's first LowCmd for it: median and 99th percentile, s.

        nan before the second step.
        """
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

    def _set_command(self, velocity: list[float]) -> None:
        self._wanted = velocity

    def _clear(self) -> None:
        super()._clear()
        self._is_braking = False
        self.state.velocity_command[...] = 0.0

    def _follow_command(self, battery: int) -> None:
        """Move the policy's velocity command to the wanted one, within limits.command_s.

        It also goes to zero before the sender lets the robot lie down by itself.
        """
        is_empty = UNKNOWN < battery <= self.limits.least_charge
        command, wanted = (
            self.state.velocity_command[0],
            np.float32([0.0, 0.0, 0.0] if self._is_braking or is_empty else self._wanted),
        )
        most = np.float32(self.max_velocity_command) / np.float32(self.limits.command_s * self.config.control_freq_hz)
        command += np.clip(wanted - command, -most, most)

    @property
    def _lying_s(self) -> float:
        """Upper limit of the time for lying down, s, with a margin."""
        return self.limits.collect_s + self.limits.lie_s + 2.0 * self.limits.settle_s + 2.0

    def _request(self, request: Request) -> None:
        with self._lock:
            if self._failure:  # nothing may take a failure back, or overwrite it before the sender sees it
                request = Request.FAIL
            elif self._is_stopping and request in (Request.STAND, Request.POLICY):  # another thread has just stopped it
                raise RuntimeError("the Go2 was stopped: call reset() first")
            if (connection := self._connection) is not None:
                connection.request(request)

    def _fail(self, reason: str, cause: ValueError | None = None) -> None:
        """Let the sender damp for good, and raise an error of the cause's kind, or RuntimeError without a cause."""
        with self._lock:
            self._failure, self._connection.command["reason"] = reason, reason.encode()[:REASON_SIZE]
        self._request(Request.FAIL)
        raise (ValueError if cause else RuntimeError)(reason) from cause

    def _connected(self) -> Connection:
        """Return the connection.

        Raises RuntimeError if there is none, or if the sender has damped for good, stands still, or is gone.
        """
        connection = self._connection
        if connection is None:
            raise RuntimeError("the Go2 is not connected: call reset() first")
        is_running = connection.is_running  # read before the phase: a sender says why it ends, then ends
        if self._failure or connection.phase in (Phase.FAULT, Phase.DONE):
            raise RuntimeError(f"the Go2 was damped: {self._failure or connection.reason}; log: {self.log_path}")
        connection.check()
        if not is_running:
            if (status := connection.process.returncode) == -signal.SIGKILL:
                raise RuntimeError(
                    "the Go2's sender was killed, as its guard does with one that stands still; the guard damps"
                )
            raise RuntimeError(f"the Go2's sender ended with status {status}")
        return connection
