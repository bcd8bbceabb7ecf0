"""A Go2 for tests: our MuJoCo model behind the real DDS topics, with faults on request.

It reports LowState 500 times a second and obeys LowCmd like real motors, motor by motor: an intact CRC, the stop
values, all gains. Like real motors it follows the last command until another one comes. Its sport controller writes
rt/lowcmd too, until the motion switcher is asked to release it. Each line on standard input is a command (COMMANDS); it
is answered with a JSON line.
"""

from __future__ import annotations

import json
import math
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rfx.drivers.go2.emulator.emulated_sport import SportController
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.pose import LYING
from rfx.drivers.go2.wire import messages, remote
from rfx.drivers.go2.wire.bus import LOW_CMD, LOW_STATE, Bus
from rfx.drivers.go2.wire.idl import LowCmd_, LowState_
from rfx.drivers.realtime import WALL_CLOCK, Clock, realtime_priority, sleep_until
from rfx.drivers.sim import Physics
from rfx.robot.config import RobotConfig

STEP_S = 0.002
LYING_HEIGHT_M = 0.09
ON_ITS_SIDE = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)


class Emulator:
    """One emulated robot on a bus."""

    def __init__(
        self, bus: Bus, clock: Clock, *, config: RobotConfig = GO2_CONFIG, sport: bool = True, viewer: bool = False
    ):
        self._bus, self._clock = bus, clock
        self._sport = SportController(bus.another(), clock, sport)
        self._states, self._commands = self._bus.writer(LOW_STATE, LowState_), self._bus.reader(LOW_CMD, LowCmd_)
        self.physics = Physics(config, timestep_s=STEP_S, viewer=viewer)
        self._num = len(config.joints)
        self._state = np.zeros((), messages.LowState)
        self._state["head"], self._state["level_flag"], self._state["power_v"] = (0xFE, 0xEF), 0xFF, 29.0
        self._ticks = 0
        self._repair()
        self.lie()

    def _repair(self) -> None:
        self._frozen_s, self._intruder, self._stuck = 0.0, None, None
        self._is_corrupt = self._is_unoriented = False
        self._remote, self._temperature, self._charge, self._overrides = remote.pack(), 30, 80, {}
        if self._commands is None:
            self._commands = self._bus.reader(LOW_CMD, LowCmd_)

    def lie(self) -> None:
        """Lie on the floor with folded legs, motors off."""
        off = np.zeros(self._num)
        self.physics.place(LYING, height=LYING_HEIGHT_M)
        self.physics.set_motors(off, kp=off, kd=off)

    def step(self) -> None:
        """Simulate two milliseconds."""
        for sample in self._commands.take(1) if self._commands is not None else ():
            if hasattr(sample, "record") and messages.is_intact(sample.record):
                self._obey(sample.record["motor_cmd"][: self._num])
        self.physics.step()
        self._ticks += 1
        if self._clock.now() >= self._frozen_s:
            self._publish()
        self._sport.step()
        if self._intruder is not None:
            self._intruder.write(LowCmd_(self._intrusion))

    def _obey(self, motors: np.ndarray) -> None:
        on = motors["mode"] == messages.MOTOR_ON
        kp, kd = np.where(on, motors["kp"], 0.0), np.where(on, motors["kd"], 0.0)
        if self._stuck is not None:
            kp[self._stuck], kd[self._stuck] = 0.0, 200.0
        self.physics.set_motors(
            motors["q"], velocity=motors["dq"], torque=np.where(on, motors["tau"], 0.0), kp=kp, kd=kd
        )

    def _publish(self) -> None:
        state, physics = self._state, self.physics
        motors, imu = state["motor_state"][: self._num], state["imu_state"]
        motors["mode"], motors["temperature"] = messages.MOTOR_ON, self._temperature
        motors["q"], motors["dq"], motors["tau_est"] = (
            physics.joint_position,
            physics.joint_velocity,
            physics.joint_torque,
        )
        imu["quaternion"], imu["gyroscope"] = physics.base_quaternion, physics.base_angular_velocity_b
        imu["accelerometer"] = physics.base_acceleration_b
        imu["rpy"] = _roll_pitch_yaw(physics.base_quaternion)
        for (name, index), value in self._overrides.items():
            motors[name][index] = value
        state["bms_state"]["soc"] = self._charge
        if self._is_unoriented:
            imu["quaternion"] = 0.0
        state["tick"] = round(self._ticks * STEP_S * 1e3)
        state["wireless_remote"] = np.frombuffer(self._remote, np.uint8)
        messages.seal(state)
        state["crc"] ^= np.uint32(self._is_corrupt)
        self._states.write(LowState_(state))

    def command(self, line: str) -> dict[str, Any]:
        """Carry out one line of COMMANDS. Raises ValueError for any other line."""
        name, *arguments = line.split()
        if name not in COMMANDS:
            raise ValueError(f"unknown command {name!r}; expected one of {', '.join(COMMANDS)}")
        return COMMANDS[name](self, *arguments) or {}

    def _freeze(self, duration_s: str = "inf") -> None:
        self._frozen_s = self._clock.now() + float(duration_s)

    def _thaw(self) -> None:
        self._frozen_s = 0.0

    def _corrupt(self) -> None:
        self._is_corrupt = True

    def _disorient(self) -> None:
        self._is_unoriented = True

    def _stick(self, leg: str) -> None:
        first = 3 * ("FR", "FL", "RR", "RL").index(leg)
        self._stuck = slice(first, first + 3)

    def _charge_to(self, percent: str) -> None:
        self._charge = int(percent)

    def _deafen(self) -> None:
        self._commands = None

    def _tip(self) -> None:
        self.physics.place(self.physics.joint_position, height=0.2, quaternion=ON_ITS_SIDE)

    def _press(self, *names: str) -> None:
        self._remote = remote.pack(sum(remote.BUTTONS[name] for name in names))

    def _sticks(self, *pairs: str) -> None:
        self._remote = remote.pack(**{name: float(value) for name, _, value in (pair.partition("=") for pair in pairs)})

    def _heat(self, temperature: str) -> None:
        self._temperature = int(temperature)

    def _report(self, name: str, motor: str, value: str) -> None:
        self._overrides[name, int(motor)] = float(value)

    def _intrude(self) -> None:
        """Add a second controller that holds the legs folded."""
        self._intruder = self._bus.another().writer(LOW_CMD, LowCmd_)
        self._intrusion = messages.new_low_cmd()
        motors = self._intrusion["motor_cmd"][: self._num]
        motors["q"], motors["dq"], motors["kp"], motors["kd"] = LYING, 0.0, 20.0, 1.0
        messages.seal(self._intrusion)

    def _pose(self) -> dict[str, Any]:
        physics = self.physics
        return {
            "position": physics.base_position_w.tolist(),
            "quaternion": physics.base_quaternion.tolist(),
            "velocity": physics.base_linear_velocity_w.tolist(),
            "angular_velocity": physics.base_angular_velocity_b.tolist(),
            "joints": physics.joint_position.tolist(),
            "mode": self._sport.mode,
        }

    def _again(self, sport: str = "active") -> None:
        self._repair()
        self._sport.repair()
        self.lie()
        if sport == "standing":
            self.physics.place(self.physics.config.default_position)
        self._sport.release() if sport == "released" else self._sport.activate(standing=sport == "standing")


COMMANDS: dict[str, Callable[..., dict[str, Any] | None]] = {
    "freeze": Emulator._freeze,  # stop reporting LowState, for good or for a time in s
    "thaw": Emulator._thaw,
    "tip": Emulator._tip,  # onto its side
    "press": Emulator._press,  # press L2 B
    "sticks": Emulator._sticks,  # sticks ly=0.5 rx=-1
    "heat": Emulator._heat,  # heat 99
    "charge": Emulator._charge_to,  # charge 15: charge of the battery, %
    "report": Emulator._report,  # report dq 3 50: motor 3 reports dq 50
    "corrupt": Emulator._corrupt,  # LowState with a wrong checksum
    "disorient": Emulator._disorient,  # LowState with a quaternion of zeros
    "stick": Emulator._stick,  # stick RL: a leg that hardly moves, whatever it is commanded
    "deafen": Emulator._deafen,  # listen to no LowCmd
    "intrude": Emulator._intrude,  # a second publisher of rt/lowcmd
    # late 2: services do not see a new client's requests for its first 2 s
    "late": lambda emulator, seconds: emulator._sport.be_late(float(seconds)),
    # slow sport 2: the service answers 2 s later; with inf it never answers
    "slow": lambda emulator, service, seconds: emulator._sport.be_slow(service, float(seconds)),
    "refuse": lambda emulator: emulator._sport.refuse(),  # the sport service refuses to lie down
    "hide": lambda emulator: emulator._sport.hide(),  # there is no sport service
    "cling": lambda emulator: (
        emulator._sport.cling()
    ),  # the sport controller says that it releases the motors, but keeps them
    "pose": Emulator._pose,
    # start again, lying, without faults; `again released`: the sport controller is released; `again standing`: the
    # sport controller holds the robot up
    "again": Emulator._again,
}


def run(domain: int, interface: str, *, sport: bool = True, viewer: bool = False) -> None:
    """Emulate a Go2 until `quit` on standard input or Ctrl-C."""
    from rfx.drivers.go2.wire.dds import DdsBus

    with realtime_priority(40):  # a real robot does not wait for the computer that commands it
        emulator = Emulator(DdsBus(domain, interface), WALL_CLOCK, sport=sport, viewer=viewer)
        print(json.dumps({"ready": True, "domain": domain, "interface": interface}), flush=True)
        _serve(emulator)


def _serve(emulator: Emulator) -> None:
    listening, buffer = True, b""
    due_s = time.monotonic()
    while True:
        emulator.step()
        if listening and select.select([sys.stdin], [], [], 0.0)[0]:
            data = os.read(sys.stdin.fileno(), 4096)
            listening = bool(data)
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                if line.strip() == b"quit":
                    return
                if line.strip():
                    print(json.dumps(carry_out(emulator, line.decode())), flush=True)
        due_s += STEP_S
        if time.monotonic() - due_s > 0.1:  # the whole machine was stopped: go on from now
            due_s = time.monotonic()
        sleep_until(due_s, spin_s=0.0)


def carry_out(emulator: Emulator, line: str) -> dict[str, Any]:
    """Carry out a line of standard input, and return its result and time, or what is wrong with it."""
    try:
        return {"done": line, "time_ns": time.time_ns(), **emulator.command(line)}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return {"error": str(error)}


def _roll_pitch_yaw(quaternion: np.ndarray) -> tuple[float, float, float]:
    w, x, y, z = quaternion.tolist()
    return (
        math.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y)),
        math.asin(max(-1.0, min(1.0, 2.0 * (w * y - z * x)))),
        math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)),
    )
