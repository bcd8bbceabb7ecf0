"""The sender's side of the wire: the newest LowState, LowCmd out, and who else commands the motors."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import numpy as np

from rfx.config import RobotConfig
from rfx.robots.go2 import messages
from rfx.robots.go2.bus import LOW_CMD, LOW_STATE, Bus
from rfx.robots.go2.controller import MotorTarget
from rfx.robots.go2.idl import LowCmd_, LowState_
from rfx.robots.go2.mailbox import state_dtype
from rfx.robots.go2.switcher import release_sport_controller

CONNECT_S = 3.0  # for the first LowState
LISTEN_S = 0.3  # before the first command: another publisher may be there that discovery has not met yet
REST_S = 0.3
LIE_DOWN_S = 8.0


class Link:
    """One robot on one bus. `state` is the record that the driver gets (state_dtype), updated in place by receive."""

    def __init__(self, config: RobotConfig, domain: int, interface: str, silent_publishers: int = 0):
        self.state = np.zeros((), state_dtype(config))
        self._num, self._silent_publishers = len(config.joints), silent_publishers
        self._bus = Bus(domain, interface)
        self._low_states = self._bus.reader(LOW_STATE, LowState_)
        self._others = self._bus.reader(LOW_CMD, LowCmd_, depth=16, others_only=True)
        self._low_cmd = messages.new_low_cmd()
        self._trusted: UUID | None = None
        self._is_trusted: dict[int, bool] = {}  # publications of LowCmd by handle

    def take_over(self, *, motion_switcher: bool, rest_velocity_rad_s: float, check: Callable[[], None]) -> None:
        """Wait for the robot, have its own controller let go, and make sure that nobody else commands the motors.

        check is called while waiting, to raise when waiting has become pointless. Raises ConnectionError with what is in the way.
        """
        self._wait(self.receive, CONNECT_S, "no LowState from the robot: check cable, address, domain and interface", check)
        if motion_switcher:
            release_sport_controller(self._bus, lambda: self._wait_for_rest(rest_velocity_rad_s, check))
        self._wait(lambda: not self._num_others(), 2.0, "another publisher of rt/lowcmd is there: stop the other controller", check)
        self._others.take(16)  # what the robot's own controller sent before it was released
        listen_until_s = time.monotonic() + LISTEN_S
        while time.monotonic() < listen_until_s:
            if self.other_publishers():
                raise ConnectionError("another publisher of rt/lowcmd appeared: stop the other controller")
            time.sleep(0.005)
        self.receive()
        self._low_cmds = self._bus.writer(LOW_CMD, LowCmd_)

    def trust(self, key: UUID) -> None:
        """Do not count the publications of the participant with this key among others."""
        self._trusted = key
        self._is_trusted.clear()

    def receive(self) -> bool:
        """Take the newest LowState into the state record. Returns whether there was an intact one."""
        try:
            samples = self._low_states.take(1)
        except ValueError:  # not a LowState
            return False
        if not samples or not hasattr(samples[0], "record") or not messages.is_intact(samples[0].record):
            return False
        low_state, state = samples[0].record, self.state
        motors, imu = low_state["motor_state"][:self._num], low_state["imu_state"]
        state["time_s"] = time.monotonic()
        state["joint_position"], state["joint_velocity"], state["joint_torque"] = motors["q"], motors["dq"], motors["tau_est"]
        state["temperature"], state["gyroscope"], state["quaternion"] = motors["temperature"], imu["gyroscope"], imu["quaternion"]
        state["remote"], state["battery"] = low_state["wireless_remote"], low_state["bms_state"]["soc"]
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

    def _wait(self, condition: Callable[[], bool], timeout_s: float, message: str, check: Callable[[], None]) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise ConnectionError(message)
            check()
            time.sleep(0.005)

    def _wait_for_rest(self, rest_velocity_rad_s: float, check: Callable[[], None]) -> None:
        """Until no joint has moved for a while, but not for ever."""
        begun_s = rest_since_s = time.monotonic()
        while time.monotonic() < begun_s + LIE_DOWN_S and time.monotonic() < rest_since_s + REST_S:
            self.receive()
            check()
            if np.abs(self.state["joint_velocity"]).max() > rest_velocity_rad_s:
                rest_since_s = time.monotonic()
            time.sleep(0.01)
