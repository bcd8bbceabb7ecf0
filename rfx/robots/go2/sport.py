"""The emulated robot's own controller: it holds the robot until the motion switcher releases it, and answers requests, well or badly."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np

from rfx.config import RobotConfig
from rfx.robots.go2 import messages
from rfx.robots.go2.bus import LOW_CMD, Bus
from rfx.robots.go2.idl import LowCmd_, Request_, RequestIdentity_, Response_, ResponseHeader_, ResponseStatus_
from rfx.robots.go2.safety import LYING
from rfx.robots.go2.switcher import (CHECK_MODE, RELEASE_MODE, SELECT_MODE, SPORT, STAND_DOWN, SWITCHER, request_topic, response_topic)

LIE_S, KP, KD = 1.0, 60.0, 5.0  # how it lies down, and how it holds its legs
NOT_IMPLEMENTED, REFUSED = 3203, 4201  # a status in Unitree's numbering, and some other
FAULTS = ("late", "slow", "hung", "dazed", "refuse", "keep", "hidden")


class SportController:
    """Publishes rt/lowcmd (standing stiff, or damping) until released, and answers the services motion_switcher and sport.

    faults: late and slow are seconds, for which requests are lost as if its reader had not met their writer, counted from the first, or
    which an answer takes; hung is a service that never answers, dazed are seconds without an answer once it was released; refuse refuses to lie down, keep to let go; hidden offers no sport service.
    """

    def __init__(self, bus: Bus, config: RobotConfig, *, active: bool):
        self._bus, self._config = bus, config
        self._writer: Any = None
        self.restart(active=active)

    def restart(self, *, active: bool, standing: bool = False) -> None:
        """As new: in charge or not, lying or standing, without faults."""
        self._faults: dict[str, str] = {}
        self._answers: list[tuple[float, Any, Response_]] = []  # when, by whom
        self._first_s: dict[str, float] = {}  # when a service was first asked
        self._down_since_s: float | None = None
        self._released_s = -math.inf
        self._offer((SWITCHER, SPORT))
        if not active:
            self.release()
        else:
            self.activate(standing)

    def fail(self, name: str, value: str = "") -> None:
        """Have a fault from now on. Raises ValueError for an unknown one."""
        if name not in FAULTS:
            raise ValueError(f"unknown fault {name!r}; expected one of {', '.join(FAULTS)}")
        self._faults[name] = value
        if name == "hidden":
            self._offer((SWITCHER,))

    def activate(self, standing: bool = False) -> None:
        """Take the motors."""
        self.mode, self._is_standing = "normal", standing
        self._writer = self._writer or self._bus.writer(LOW_CMD, LowCmd_)

    def release(self) -> None:
        """Let go of the motors."""
        self.mode, self._writer, self._released_s = "", None, time.monotonic()

    def step(self) -> None:
        """Publish, and answer what was asked."""
        now_s = time.monotonic()
        if self._writer is not None:
            self._writer.write(LowCmd_(self._command(now_s)))
        for name, (requests, responses) in self._services.items():
            for request in requests.take(8):
                if hasattr(request, "header") and self._hears(name, now_s):
                    due_s = now_s + float(self._faults.get("slow", 0.0))
                    self._answers.append((due_s, responses, self._answer(name, request.header.identity, now_s)))
        due = [answer for answer in self._answers if answer[0] <= now_s]
        for answer in due:
            self._answers.remove(answer)
            answer[1].write(answer[2])

    def _offer(self, names: tuple[str, ...]) -> None:
        self._services = {name: (self._bus.reliable_reader(request_topic(name), Request_), self._bus.writer(response_topic(name), Response_))
                          for name in names}

    def _hears(self, name: str, now_s: float) -> bool:
        late = now_s < self._first_s.setdefault(name, now_s) + float(self._faults.get("late", 0.0))
        dazed = now_s < self._released_s + float(self._faults.get("dazed", 0.0))
        return not late and not dazed and self._faults.get("hung") != name

    def _command(self, now_s: float) -> np.ndarray:
        if not self._is_standing:
            return messages.damping_cmd(2.0)
        down = 0.0 if self._down_since_s is None else min(1.0, (now_s - self._down_since_s) / LIE_S)
        record = messages.new_low_cmd()
        motors = record["motor_cmd"][:len(self._config.joints)]
        motors["q"], motors["dq"] = (1.0 - down) * self._config.default_position + down * LYING, 0.0
        motors["kp"], motors["kd"] = KP, KD
        messages.seal(record)
        return record

    def _answer(self, service: str, identity: RequestIdentity_, now_s: float) -> Response_:
        status, data = 0, ""
        if (service, identity.api_id) == (SWITCHER, CHECK_MODE):
            data = json.dumps({"form": "0", "name": self.mode})
        elif (service, identity.api_id) == (SWITCHER, RELEASE_MODE):
            status = REFUSED if "keep" in self._faults else 0
            if status == 0:
                self.release()
        elif (service, identity.api_id) == (SWITCHER, SELECT_MODE):
            self.activate()
        elif (service, identity.api_id) == (SPORT, STAND_DOWN):
            status = REFUSED if "refuse" in self._faults else 0
            if status == 0 and self._down_since_s is None:
                self._down_since_s = now_s
        else:
            status = NOT_IMPLEMENTED
        identity = RequestIdentity_(id=identity.id, api_id=identity.api_id)
        return Response_(header=ResponseHeader_(identity=identity, status=ResponseStatus_(code=status)), data=data)
