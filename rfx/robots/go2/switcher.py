"""The motion switcher: asks the robot's own sport controller to lie down and let go of the motors."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable

from rfx.robots.go2.bus import Bus
from rfx.robots.go2.idl import Request_, RequestHeader_, RequestIdentity_, Response_

# Service names and api numbers: Unitree's SDK2, motion_switcher and go2/sport.
SWITCHER, CHECK_MODE, SELECT_MODE, RELEASE_MODE = "motion_switcher", 1001, 1002, 1003
SPORT, STAND_DOWN = "sport", 1005


def request_topic(service: str) -> str:
    return f"rt/api/{service}/request"


def response_topic(service: str) -> str:
    return f"rt/api/{service}/response"


class Service:
    """One of the robot's request and response services."""

    def __init__(self, bus: Bus, name: str):
        self.name = name
        self._requests = bus.writer(request_topic(name), Request_)
        self._responses = bus.reliable_reader(response_topic(name), Response_)
        self._numbers = itertools.count(time.time_ns())

    def is_there(self) -> bool:
        """Whether the robot offers the service, as far as discovery has got."""
        return bool(self._requests.get_matched_subscriptions()) and bool(self._responses.get_matched_publications())

    def call(self, api: int, timeout_s: float = 1.0) -> str:
        """Ask, and return the response's data. Raises TimeoutError without an answer, RuntimeError for a status other than 0."""
        number = next(self._numbers)
        self._requests.write(Request_(header=RequestHeader_(identity=RequestIdentity_(id=number, api_id=api)), parameter="{}"))
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for response in self._responses.take(32):
                header = getattr(response, "header", None)  # a writer that left is a sample without data
                if header is not None and header.identity.id == number:
                    if header.status.code != 0:
                        raise RuntimeError(f"the robot's {self.name} service refused request {api} with status {header.status.code}")
                    return response.data
            time.sleep(0.005)
        raise TimeoutError(f"the robot's {self.name} service did not answer request {api} within {timeout_s} s")


def release_sport_controller(bus: Bus, wait_for_rest: Callable[[], None], *, timeout_s: float = 30.0) -> None:
    """Return once no controller of the robot's own is active. An active one is told to lie the robot down first.

    wait_for_rest returns when the joints are at rest. Raises ConnectionError when the motion switcher is not there, TimeoutError or
    RuntimeError when it does not do as asked.
    """
    switcher, sport = Service(bus, SWITCHER), Service(bus, SPORT)
    deadline_s = time.monotonic() + timeout_s
    while not switcher.is_there():
        if time.monotonic() > min(deadline_s, deadline_s - timeout_s + 5.0):
            raise ConnectionError("no motion switcher found: is this the robot's network interface and domain?")
        time.sleep(0.01)
    while name := active_mode(switcher):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the robot's controller {name!r} is still active after {timeout_s:.0f} s: release it in Unitree's app")
        if sport.is_there():
            try:
                sport.call(STAND_DOWN, timeout_s=3.0)
            except (TimeoutError, RuntimeError):
                pass  # it may be busy or damping already; what counts is that the joints come to rest
        wait_for_rest()
        switcher.call(RELEASE_MODE, timeout_s=5.0)
        time.sleep(0.05)


def active_mode(switcher: Service) -> str:
    """The name of the active controller, empty when there is none. Raises RuntimeError for an answer that does not say."""
    data = switcher.call(CHECK_MODE)
    try:
        name = json.loads(data)["name"]
    except (ValueError, KeyError, TypeError):
        raise RuntimeError(f"the motion switcher answered {data!r}; expected JSON with a name") from None
    if not isinstance(name, str):
        raise RuntimeError(f"the motion switcher answered {data!r}; expected a name")
    return name
