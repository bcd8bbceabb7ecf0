"""The sender's connection to the robot: it receives LowState, sends LowCmd, and sees who else commands the motors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from uuid import UUID

import numpy as np

from rfx.drivers.go2.rules.controller import MotorTarget
from rfx.drivers.go2.rules.mailbox import UNKNOWN, state_dtype
from rfx.drivers.go2.rules.pose import unfolded_legs
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.go2.sender.switcher import DISCOVERY_S, STAND_DOWN, Check, Service, release_sport_controller
from rfx.drivers.go2.wire import messages
from rfx.drivers.go2.wire.bus import LOW_CMD, LOW_STATE, Bus
from rfx.drivers.go2.wire.idl import LowCmd_, LowState_
from rfx.drivers.realtime import Clock
from rfx.robot.config import RobotConfig

CONNECT_S = 3.0  # for the first LowState, and for the robot to listen to our LowCmd
LISTEN_S = 0.3  # wait before the first command, because discovery may not have met all publishers yet
REST_S = 0.3


class Link:
    """One robot on one bus. `state` is the record for the driver (state_dtype); receive updates it in place."""

    def __init__(self, config: RobotConfig, bus: Bus, clock: Clock, *, is_simulator: bool, silent_publishers: int = 0):
        self.state = np.zeros((), state_dtype(config))
        self._num, self._silent_publishers, self._is_simulator = len(config.joints), silent_publishers, is_simulator
        self.bus, self._clock = bus, clock
        self._low_states = self.bus.reader(LOW_STATE, LowState_)
        self._others = self.bus.reader(LOW_CMD, LowCmd_, depth=16, others_only=True)
        self._low_cmd = messages.new_low_cmd()
        self._trusted: UUID | None = None
        self._is_trusted: dict[int, bool] = {}  # publications of LowCmd by handle
        self.num_damaged = 0  # LowStates with a wrong checksum since the last intact one

    def take_over(self, *, motion_switcher: bool, limits: SafetyLimits, check: Check) -> str:
        """Take over the motors from the robot's own controller.

        Waits for the robot, lets its controller lie down and release the motors, and makes sure that nobody else
        commands them. check is called during the wait, and raises if waiting has become pointless. Returns the name of
        the controller that released the motors, if any. Raises ConnectionError, TimeoutError or RuntimeError with the
        obstacle.
        """
        self._wait(self.receive, CONNECT_S, self._silence, check)
        released = ""
        if motion_switcher:
            lie_down = functools.partial(self._lie_down, limits=limits, check=check)
            released = release_sport_controller(self.bus, self._clock, lie_down, check, limits)
        try:
            self._wait(lambda: not self._num_others(), 2.0, self._other_publisher, check)
            self._others.take(16)  # discard commands from before the robot's own controller was released
            listen_until_s = self._clock.now() + LISTEN_S
            while self._clock.now() < listen_until_s:
                if self.other_publishers():
                    raise ConnectionError(self._other_publisher())
                check()
                self._clock.sleep(0.005)
            self._low_cmds = self.bus.writer(LOW_CMD, LowCmd_)
            self._wait(
                lambda: bool(self._low_cmds.get_matched_subscriptions()),
                CONNECT_S,
                lambda: "nobody listens to rt/lowcmd: this is no Go2's domain, or its motors are not to be commanded",
                check,
            )
            self._wait(self.receive, CONNECT_S, self._silence, check)
        except ConnectionError as error:
            if not released:
                raise
            raise ConnectionError(
                f"{error}. The robot lies without its own controller {released!r}: select it again in Unitree's app, "
                "or start the robot again"
            ) from error
        return released

    def trust(self, key: UUID) -> None:
        """Do not count the participant with this key among other publishers."""
        self._trusted = key
        self._is_trusted.clear()

    def receive(self) -> bool:
        """Copy the newest LowState into the state record. Returns whether there was an intact one."""
        try:
            samples = self._low_states.take(1)
        except ValueError:  # not a LowState
            return False
        if not samples or not hasattr(samples[0], "record"):
            return False
        low_state, state = samples[0].record, self.state
        if not messages.is_intact(low_state, may_lack_crc=self._is_simulator):
            self.num_damaged += 1
            return False
        motors, imu = low_state["motor_state"][: self._num], low_state["imu_state"]
        state["time_s"], self.num_damaged = self._clock.now(), 0
        state["joint_position"], state["joint_velocity"], state["joint_torque"] = (
            motors["q"],
            motors["dq"],
            motors["tau_est"],
        )
        state["temperature"], state["gyroscope"], state["quaternion"] = (
            motors["temperature"],
            imu["gyroscope"],
            imu["quaternion"],
        )
        state["accelerometer"], state["remote"] = imu["accelerometer"], low_state["wireless_remote"]
        charge = int(low_state["bms_state"]["soc"])
        state["battery"] = UNKNOWN if charge == 0 and self._is_simulator else charge
        return True

    def send(self, target: MotorTarget) -> None:
        """Send a command to the motors."""
        motors = self._low_cmd["motor_cmd"][: self._num]
        motors["q"], motors["kp"], motors["kd"], motors["dq"] = target.position, target.kp, target.kd, 0.0
        messages.seal(self._low_cmd)
        self._low_cmds.write(LowCmd_(self._low_cmd))

    def leave(self) -> None:
        """Stop commanding the motors; from now on others see no publisher here."""
        del self._low_cmds

    def other_publishers(self) -> int:
        """Number of other publishers of rt/lowcmd; tolerated ones do not count while they are silent."""
        return max(1, self._num_others()) if self._others.take(16) else self._num_others()

    def names_of_others(self) -> str:
        """Names of the other publishers of rt/lowcmd, as far as they tell: process, its number, and host."""
        keys = [
            data.participant_key
            for handle in self._others.get_matched_publications()
            if (data := self._others.get_matched_publication_data(handle)) is not None
            and data.participant_key != self._trusted
        ]
        return ", ".join(self.bus.name_of(key) for key in keys) or "one that has left again"

    def _other_publisher(self) -> str:
        return (
            f"another publisher of rt/lowcmd is there ({self.names_of_others()}): stop the other controller, or if it never sends, tolerate it "
            f"with --silent-publishers {self._silent_publishers + 1}"
        )

    def _silence(self) -> str:
        if self.num_damaged:
            return f"{self.num_damaged} LowStates came, each with a wrong checksum: does this robot's firmware use another message format?"
        return "no LowState from the robot: check cable, address, domain and interface"

    def _num_others(self) -> int:
        others = [handle for handle in self._others.get_matched_publications() if not self._ours(handle)]
        return max(0, len(others) - self._silent_publishers)

    def _ours(self, handle: int) -> bool:
        """Whether a publication belongs to the trusted participant."""
        if handle not in self._is_trusted:
            publication = self._others.get_matched_publication_data(handle)
            if publication is None:  # the writer has just left
                return False
            self._is_trusted[handle] = publication.participant_key == self._trusted
        return self._is_trusted[handle]

    def _wait(self, condition: Callable[[], bool], timeout_s: float, message: Callable[[], str], check: Check) -> None:
        deadline_s = self._clock.now() + timeout_s
        while not condition():
            if self._clock.now() > deadline_s:
                raise ConnectionError(message())
            check()
            self._clock.sleep(0.005)

    def _lie_down(self, sport: Service, limits: SafetyLimits, check: Check) -> None:
        """Let the robot lie down, and return once it rests on folded legs, so that nothing drops when it is released.

        The sport service is asked to do that; the position of the legs decides. Raises ConnectionError if the robot
        does not lie down.
        """
        answer = "its sport service did not appear"
        if self._lies(limits.rest_velocity_rad_s, REST_S + 0.1, check) and not sport.is_there():
            return
        if sport.wait(DISCOVERY_S, check):
            try:
                sport.call(STAND_DOWN, check=check)
                answer = "its sport service was told to lie it down"
            except (TimeoutError, RuntimeError) as error:
                answer = str(error)
        if not self._lies(limits.rest_velocity_rad_s, limits.lie_down_timeout_s, check):
            legs = ", ".join(unfolded_legs(self.state["joint_position"])) or "none, but they move"
            raise ConnectionError(
                f"the robot does not lie at rest on folded legs (not folded: {legs}), and would fall if its own controller let go; "
                f"{answer}. Lie it down with its remote, then try again; its own controller still has it"
            )

    def _lies(self, rest_velocity_rad_s: float, timeout_s: float, check: Check) -> bool:
        """Wait up to timeout_s until all legs are folded and no joint moves for a while; return whether they are."""
        begun_s = rest_since_s = self._clock.now()
        while (now_s := self._clock.now()) < begun_s + timeout_s:
            self.receive()
            check()
            state = self.state
            moves = np.abs(state["joint_velocity"]).max() > rest_velocity_rad_s or now_s - state["time_s"] > REST_S
            if moves or unfolded_legs(state["joint_position"]):
                rest_since_s = now_s
            elif now_s >= rest_since_s + REST_S:
                return True
            self._clock.sleep(0.01)
        return False
