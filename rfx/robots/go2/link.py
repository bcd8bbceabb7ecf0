"""The sender's side of the wire: the newest LowState, LowCmd out, and who else commands the motors."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import numpy as np

from rfx.config import RobotConfig
from rfx.robots.go2 import messages
from rfx.robots.go2.bus import LOOPBACK, LOW_CMD, LOW_STATE, Bus
from rfx.robots.go2.controller import MotorTarget
from rfx.robots.go2.idl import LowCmd_, LowState_
from rfx.robots.go2.mailbox import state_dtype
from rfx.robots.go2.safety import SafetyLimits, is_orientation, unfolded
from rfx.robots.go2.switcher import Release

CONNECT_S = 5.0  # for the first LowState, for another publisher to leave, and for a reader of our commands
LISTEN_S = 0.3  # before the first command: another publisher may be there that discovery has not met yet
REST_S = 0.3


class Link:
    """One robot on one bus. `state` is the record that the driver gets (state_dtype), updated in place by receive."""

    def __init__(self, config: RobotConfig, limits: SafetyLimits, domain: int, interface: str, silent_publishers: int = 0):
        self.state = np.zeros((), state_dtype(config))
        self.config, self.limits = config, limits
        self.num_broken = 0  # LowStates that were thrown away since the last good one: a wrong CRC, or no LowState at all
        self._num, self._silent_publishers = len(config.joints), silent_publishers
        self._bus, self._is_loopback = Bus(domain, interface), interface == LOOPBACK
        self._low_states = self._bus.reader(LOW_STATE, LowState_)
        self._others = self._bus.reader(LOW_CMD, LowCmd_, depth=16, others_only=True)
        self._low_cmd = messages.new_low_cmd()
        self._trusted: UUID | None = None
        self._is_trusted: dict[int, bool] = {}  # publications of LowCmd by handle
        self._at_rest_since_s = 0.0

    def take_over(self, *, motion_switcher: bool, check: Callable[[], None]) -> None:
        """Wait for the robot, have its own controller let go, and make sure that it reads our commands and nobody else's.

        check is called while waiting, to raise when waiting has become pointless. Raises ConnectionError with what is in the way, and
        says so where the robot's own controller has gone by then.
        """
        self._wait(self.receive, self._nothing_heard, check)
        self._wait(lambda: self.receive() and is_orientation(self.state["quaternion"]), self._no_orientation, check)
        if (battery := int(self.state["battery"])) < self.limits.low_battery_percent and not (self._is_loopback and battery == 0):
            raise ConnectionError(f"the battery is at {battery}%, expected {self.limits.low_battery_percent}% or more: charge it")
        release = Release(is_lying=self._is_lying, pose=self._pose, check=check)
        try:
            if motion_switcher:
                release.run(self._bus)
            self._wait(lambda: not self._num_others(), self.publishers, check)
            self._others.take(16)  # what the robot's own controller sent before it was released
            listen_until_s = time.monotonic() + LISTEN_S
            while time.monotonic() < listen_until_s:
                if self.other_publishers():
                    raise ConnectionError(self.publishers())
                check()
                time.sleep(0.005)
            self._low_cmds = self._bus.writer(LOW_CMD, LowCmd_)
            self._wait(lambda: len(self._low_cmds.get_matched_subscriptions()) > 0,
                       lambda: f"nobody reads {LOW_CMD}: the robot would not hear a command; is it in low-level mode, of this firmware?", check)
        except (OSError, RuntimeError) as error:
            if release.released:
                raise type(error)(f"{error}; the robot was left without its own controller, {release.released!r}: "
                                  "select it again in Unitree's app, or switch the robot off and on") from error
            raise
        self.receive()

    @property
    def key(self) -> UUID:
        """What other DDS participants know this one by."""
        return self._bus.key

    def trust(self, key: UUID) -> None:
        """Do not count the publications of the participant with this key among others."""
        self._trusted = key
        self._is_trusted.clear()

    def receive(self) -> bool:
        """Take the newest LowState into the state record. Returns whether there was an intact one."""
        try:
            samples = self._low_states.take(1)
        except ValueError:  # not a LowState
            self.num_broken += 1
            return False
        if not samples or not hasattr(samples[0], "record"):
            return False
        low_state, state = samples[0].record, self.state
        if not messages.is_intact(low_state, allow_unset=self._is_loopback):
            self.num_broken += 1
            return False
        motors, imu = low_state["motor_state"][:self._num], low_state["imu_state"]
        state["time_s"], self.num_broken = time.monotonic(), 0
        state["joint_position"], state["joint_velocity"], state["joint_torque"] = motors["q"], motors["dq"], motors["tau_est"]
        state["temperature"], state["gyroscope"], state["quaternion"] = motors["temperature"], imu["gyroscope"], imu["quaternion"]
        state["remote"], state["battery"] = low_state["wireless_remote"], low_state["bms_state"]["soc"]
        if not np.abs(state["joint_velocity"]).max() <= self.limits.rest_velocity_rad_s:
            self._at_rest_since_s = float(state["time_s"])
        return True

    def send(self, target: MotorTarget) -> None:
        """Command the motors."""
        motors = self._low_cmd["motor_cmd"][:self._num]
        motors["q"], motors["kp"], motors["kd"], motors["dq"] = target.position, target.kp, target.kd, 0.0
        messages.seal(self._low_cmd)
        self._low_cmds.write(LowCmd_(self._low_cmd))

    def other_publishers(self) -> int:
        """How many others publish rt/lowcmd: tolerated silent ones left out, until they send."""
        return max(1, self._num_others()) if self._others.take(16) else self._num_others()

    def publishers(self) -> str:
        """Who else publishes rt/lowcmd, and what to do."""
        known, found = self._bus.participants(), []
        for handle in self._others.get_matched_publications():
            publication = None if self._ours(handle) else self._others.get_matched_publication_data(handle)
            if publication is not None:
                found.append(known.get(publication.participant_key, f"participant {publication.participant_key}"))
        who = "; ".join(found) or "it has left again"
        return (f"another publisher of {LOW_CMD} is there ({who}): stop the other controller, or, where it surely stays silent, "
                f"tolerate it with --silent-publishers {max(1, len(found))}")

    def _num_others(self) -> int:
        others = [handle for handle in self._others.get_matched_publications() if not self._ours(handle)]
        return max(0, len(others) - self._silent_publishers)

    def _ours(self, handle: int) -> bool:
        """Whether a publication is of the participant that is trusted."""
        if handle not in self._is_trusted:
            publication = self._others.get_matched_publication_data(handle)
            if publication is None:  # it has just left
                return False
            self._is_trusted[handle] = publication.participant_key == self._trusted
        return self._is_trusted[handle]

    def _wait(self, condition: Callable[[], bool], message: Callable[[], str], check: Callable[[], None]) -> None:
        deadline_s = time.monotonic() + CONNECT_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise ConnectionError(message())
            check()
            time.sleep(0.005)

    def _nothing_heard(self) -> str:
        if self.num_broken:
            return (f"got {self.num_broken} samples of {LOW_STATE}, none of them intact (wrong CRC or length): the cable works; "
                    "is this a Go2, with a firmware that speaks unitree_go messages?")
        return "no LowState from the robot: check cable, address, domain and interface"

    def _no_orientation(self) -> str:
        norm = float(np.linalg.norm(self.state["quaternion"]))
        return f"LowState's quaternion has norm {norm:.2f}, expected 1: the robot's IMU reports no orientation (yet); try again, or restart it"

    def _is_lying(self) -> bool:
        """Whether the legs are folded, and no joint has moved for a while."""
        self.receive()
        now_s, heard_s = time.monotonic(), float(self.state["time_s"])
        return (now_s - heard_s <= self.limits.state_timeout_s and heard_s - self._at_rest_since_s >= REST_S
                and not unfolded(self.state["joint_position"], self.limits, self.config))

    def _pose(self) -> str:
        return unfolded(self.state["joint_position"], self.limits, self.config) or "its joints do not come to rest"
