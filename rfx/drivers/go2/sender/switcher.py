"""The motion switcher: it makes the robot's own sport controller release the motors, or take them again."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable

from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.go2.wire.bus import Bus
from rfx.drivers.go2.wire.idl import Request_, RequestHeader_, RequestIdentity_, Response_
from rfx.drivers.realtime import Clock

# Service names and api numbers: Unitree's SDK2, motion_switcher and go2/sport.
SWITCHER, CHECK_MODE, SELECT_MODE, RELEASE_MODE = "motion_switcher", 1001, 1002, 1003
SPORT, STAND_DOWN = "sport", 1005
DISCOVERY_S = 5.0
# A request is lost if the service has not met our writer yet. It is written again after this time.
REPEAT_S = 0.3

Check = Callable[[], None]  # called while waiting; raises when waiting has become pointless


def request_topic(service: str) -> str:
    return f"rt/api/{service}/request"


def response_topic(service: str) -> str:
    return f"rt/api/{service}/response"


class Service:
    """One of the robot's request and response services."""

    def __init__(self, bus: Bus, name: str, clock: Clock, limits: SafetyLimits = SafetyLimits()):
        self.name, self._clock, self._timeout_s = name, clock, limits.service_timeout_s
        self._requests = bus.writer(request_topic(name), Request_)
        self._responses = bus.reliable_reader(response_topic(name), Response_)
        self._numbers = itertools.count(time.time_ns())

    def is_there(self) -> bool:
        """Whether discovery has found the robot's service so far."""
        return bool(self._requests.get_matched_subscriptions()) and bool(self._responses.get_matched_publications())

    def wait(self, timeout_s: float, check: Check) -> bool:
        """Wait up to timeout_s for the robot's service; return whether it is there."""
        deadline_s = self._clock.now() + timeout_s
        while not (there := self.is_there()) and self._clock.now() < deadline_s:
            check()
            self._clock.sleep(0.005)
        return there

    def call(
        self, api: int, parameter: str = "{}", *, timeout_s: float | None = None, check: Check = lambda: None
    ) -> str:
        """Send a request, and return the response's data.

        Raises TimeoutError without an answer, RuntimeError for a status other than 0.

        The request is written again, with the same identity, until it is answered: a volatile reader of Cyclone DDS
        0.10.2 that has not met our writer yet never sees the first one, although our side reports a match. Use this
        only for requests that may arrive twice.
        """
        number, timeout_s = next(self._numbers), self._timeout_s if timeout_s is None else timeout_s
        request = Request_(header=RequestHeader_(identity=RequestIdentity_(id=number, api_id=api)), parameter=parameter)
        asked_s, deadline_s = 0.0, self._clock.now() + timeout_s
        while (now_s := self._clock.now()) < deadline_s:
            if now_s - asked_s >= REPEAT_S:
                self._requests.write(request)
                asked_s = now_s
            for response in self._responses.take(32):
                header = getattr(response, "header", None)  # a writer that left is a sample without data
                if header is not None and header.identity.id == number:
                    if header.status.code != 0:
                        raise RuntimeError(
                            f"the robot's {self.name} service refused request {api} with status {header.status.code}"
                        )
                    return response.data
            check()
            self._clock.sleep(0.005)
        raise TimeoutError(f"the robot's {self.name} service did not answer request {api} within {timeout_s:g} s")


def release_sport_controller(
    bus: Bus,
    clock: Clock,
    lie_down: Callable[[Service], None],
    check: Check = lambda: None,
    limits: SafetyLimits = SafetyLimits(),
) -> str:
    """Release the motors from the robot's own controller, and return its name, or "" if none was active.

    lie_down gets the sport service and returns once the robot lies; only then is a controller released. Raises
    ConnectionError if there is no motion switcher, TimeoutError or RuntimeError if it does not do as asked. The error
    says if the robot is left without a controller.
    """
    switcher, sport = Service(bus, SWITCHER, clock, limits), Service(bus, SPORT, clock, limits)
    if not switcher.wait(DISCOVERY_S, check):
        raise ConnectionError("no motion switcher found: is this the robot's network interface and domain?")
    name = active_mode(switcher, check)
    if not name:
        return ""
    lie_down(sport)
    released, trouble, deadline_s = name, "", clock.now() + limits.release_timeout_s
    while clock.now() < deadline_s:
        try:
            switcher.call(RELEASE_MODE, check=check)
        except (TimeoutError, RuntimeError) as error:  # the mode that it reports next decides
            trouble = f": {error}"
        try:
            if not active_mode(switcher, check):
                return released
        except (TimeoutError, RuntimeError) as error:
            trouble = f": {error}"
    raise TimeoutError(
        f"the robot's controller {released!r} is still active, or does not say that it is not, after {limits.release_timeout_s:g} s{trouble}. "
        "It may have let go of the motors: select it again in Unitree's app, or start the robot again"
    )


def select_controller(bus: Bus, clock: Clock, name: str, check: Check = lambda: None) -> None:
    """Let the robot's own controller with this name take the motors.

    Raises TimeoutError or RuntimeError if it does not.
    """
    switcher = Service(bus, SWITCHER, clock)
    if not switcher.wait(DISCOVERY_S, check):
        raise TimeoutError("no motion switcher found")
    switcher.call(SELECT_MODE, json.dumps({"name": name}), check=check)


def active_mode(switcher: Service, check: Check = lambda: None) -> str:
    """Return the name of the active controller, or "" if there is none.

    Raises RuntimeError for an answer without it.
    """
    data = switcher.call(CHECK_MODE, check=check)
    try:
        name = json.loads(data)["name"]
    except (ValueError, KeyError, TypeError):
        raise RuntimeError(f"the motion switcher answered {data!r}; expected JSON with a name") from None
    if not isinstance(name, str):
        raise RuntimeError(f"the motion switcher answered {data!r}; expected a name")
    return name
