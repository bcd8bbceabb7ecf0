"""An emulation of the robot's own controller, which can misbehave on request.

It commands the motors until the motion switcher is asked to release it.
"""

from __future__ import annotations

import json
import math

import numpy as np

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.pose import LYING
from rfx.drivers.go2.sender.switcher import (
    CHECK_MODE,
    RELEASE_MODE,
    SELECT_MODE,
    SPORT,
    STAND_DOWN,
    SWITCHER,
    request_topic,
    response_topic,
)
from rfx.drivers.go2.wire import messages
from rfx.drivers.go2.wire.bus import LOW_CMD, Bus
from rfx.drivers.go2.wire.idl import LowCmd_, Request_, RequestIdentity_, Response_, ResponseHeader_, ResponseStatus_
from rfx.drivers.realtime import Clock

LIE_S = 1.5
NOT_IMPLEMENTED, REFUSED = 3203, 3104  # in Unitree's numbering


class SportController:
    """The robot's own controller: it publishes rt/lowcmd, damping or standing, until it is released.

    It also answers requests to the motion switcher and the sport service.
    """

    def __init__(self, bus: Bus, clock: Clock, active: bool):
        self._bus, self._clock, self._writer = bus, clock, None
        self._services = {}
        self.repair()
        self.activate() if active else self.release()

    def repair(self) -> None:
        """Stop all misbehaviour."""
        self._late_s, self._is_refusing, self._clings = 0.0, False, False
        self._slow_s = {SWITCHER: 0.0, SPORT: 0.0}
        self._met_s: dict[int, float] = {}  # when each client first asked
        self._answers: list[tuple[float, str, Response_]] = []  # time, service, response
        for name in self._slow_s:
            if name not in self._services:
                self._services[name] = (
                    self._bus.reliable_reader(request_topic(name), Request_),
                    self._bus.writer(response_topic(name), Response_),
                )

    def be_late(self, seconds: float) -> None:
        """Miss a new client's requests for its first seconds, like a volatile reader before it meets the writer."""
        self._late_s, self._met_s = seconds, {}

    def be_slow(self, service: str, seconds: float) -> None:
        """Answer requests to service this much later; inf means never."""
        self._slow_s[service] = seconds

    def refuse(self) -> None:
        """Refuse to lie down."""
        self._is_refusing = True

    def hide(self) -> None:
        """Hide the sport service."""
        del self._services[SPORT]

    def cling(self) -> None:
        """Answer that the motors were released, but keep them."""
        self._clings = True

    def activate(self, standing: bool = False) -> None:
        """Take the motors."""
        if self._writer is None:
            self._writer = self._bus.writer(LOW_CMD, LowCmd_)
        self.mode, self._lying_since_s = "normal", math.inf
        self._command = messages.damping_cmd(2.0)
        if standing:
            motors = self._command["motor_cmd"][:12]
            motors["q"], motors["kp"], motors["kd"] = GO2_CONFIG.default_position, 60.0, 5.0
            messages.seal(self._command)

    def release(self) -> None:
        """Let go of the motors."""
        self.mode, self._writer = "", None

    def step(self) -> None:
        """Publish a command, and answer requests."""
        now_s = self._clock.now()
        if self._writer is not None:
            self._lie_down(now_s)
            self._writer.write(LowCmd_(self._command))
        for name, (requests, _) in self._services.items():
            for request in requests.take(8):
                if (
                    hasattr(request, "header")
                    and now_s >= self._met_s.setdefault(request.sample_info.publication_handle, now_s) + self._late_s
                ):
                    self._answers.append(
                        (now_s + self._slow_s[name], name, self._answer(name, request.header.identity))
                    )
        for answer in [answer for answer in self._answers if answer[0] <= now_s]:
            self._answers.remove(answer)
            _, name, response = answer
            self._services[name][1].write(response)

    def _answer(self, service: str, asked: RequestIdentity_) -> Response_:
        status, data = self._obey(service, asked.api_id)
        identity = RequestIdentity_(id=asked.id, api_id=asked.api_id)
        return Response_(header=ResponseHeader_(identity=identity, status=ResponseStatus_(code=status)), data=data)

    def _obey(self, service: str, api: int) -> tuple[int, str]:
        if (service, api) == (SWITCHER, CHECK_MODE):
            return 0, json.dumps({"form": "0", "name": self.mode})
        if (service, api) == (SWITCHER, RELEASE_MODE):
            if not self._clings:
                self.release()
        elif (service, api) == (SWITCHER, SELECT_MODE):
            self.activate()
        elif (service, api) == (SPORT, STAND_DOWN):
            if self._is_refusing:
                return REFUSED, ""
            self._lying_since_s = min(self._lying_since_s, self._clock.now())
        else:
            return NOT_IMPLEMENTED, ""
        return 0, ""

    def _lie_down(self, now_s: float) -> None:
        """Lower the robot by a step if it was asked to lie down while this holds it up; damp at the end."""
        motors = self._command["motor_cmd"][:12]
        if now_s < self._lying_since_s or not motors["kp"].any():
            return
        done = (now_s - self._lying_since_s) / LIE_S
        if done < 1.0:
            motors["q"] = GO2_CONFIG.default_position + np.float32(done) * (LYING - GO2_CONFIG.default_position)
            messages.seal(self._command)
        else:
            self._command = messages.damping_cmd(2.0)
