"""The motion switcher: asks the robot's own sport controller to lie down and let go of the motors."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from rfx.robots.go2.bus import Bus
from rfx.robots.go2.idl import Request_, RequestHeader_, RequestIdentity_, Response_

# Service names and api numbers: Unitree's SDK2, motion_switcher and go2/sport.
SWITCHER, CHECK_MODE, SELECT_MODE, RELEASE_MODE = "motion_switcher", 1001, 1002, 1003
SPORT, STAND_DOWN = "sport", 1005
RESEND_S = 0.3  # a request written again after this was answered where the first was lost, 3 times of 3, by a Cyclone DDS 0.10.2 service
DISCOVERY_S = 5.0  # for a service to be found


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

    def call(self, api: int, timeout_s: float = 5.0, check: Callable[[], None] = lambda: None) -> str:
        """Ask, and return the response's data. check is called while waiting, to raise when waiting has become pointless.

        The same request, under the same identity, is written again until the answer comes: a reader of the robot's that has not met our
        writer yet never sees what was written before, though ours reports the match already. So only ask what may be asked twice.
        Raises TimeoutError without an answer, RuntimeError for a status other than 0.
        """
        number = next(self._numbers)
        request = Request_(header=RequestHeader_(identity=RequestIdentity_(id=number, api_id=api)), parameter="{}")
        deadline_s, again_s = time.monotonic() + timeout_s, 0.0
        while time.monotonic() < deadline_s:
            if time.monotonic() >= again_s:
                self._requests.write(request)
                again_s = time.monotonic() + RESEND_S
            for response in self._responses.take(32):
                header = getattr(response, "header", None)  # a writer that left is a sample without data
                if header is not None and header.identity.id == number:
                    if header.status.code != 0:
                        raise RuntimeError(f"the robot's {self.name} service refused request {api} with status {header.status.code}")
                    return response.data
            check()
            time.sleep(0.005)
        raise TimeoutError(f"the robot's {self.name} service did not answer request {api} within {timeout_s:g} s")


@dataclass(kw_only=True)
class Release:
    """Has the robot's own controller lie it down and let go of the motors.

    is_lying says whether the legs are folded and at rest, pose describes them; check is called while waiting, to raise when waiting has
    become pointless. released is the controller that was told to go: from then on the robot may be without one.
    """

    is_lying: Callable[[], bool]
    pose: Callable[[], str]
    check: Callable[[], None]
    lie_down_s: float = 10.0
    timeout_s: float = 30.0
    released: str = ""

    def run(self, bus: Bus) -> None:
        """Return once no controller of the robot's own is active.

        Raises ConnectionError when the motion switcher is not there or the robot does not lie down, TimeoutError or RuntimeError when
        the motion switcher does not do as asked. One late answer is no reason to give up, least of all after the release.
        """
        switcher, sport = Service(bus, SWITCHER), Service(bus, SPORT)
        deadline_s = time.monotonic() + self.timeout_s
        if not self._wait(switcher.is_there, DISCOVERY_S):
            raise ConnectionError("no motion switcher found: is this the robot's network interface and domain?")
        while True:
            try:
                if not (name := active_mode(switcher, self.check)):
                    return
                self._lie_down(sport, name)
                self._let_go(switcher, name)
            except TimeoutError:
                if not self.released or time.monotonic() > deadline_s:
                    raise
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the robot's controller is still active after {self.timeout_s:.0f} s: release it in Unitree's app")
            self._wait(lambda: False, 0.05)

    def _let_go(self, switcher: Service, name: str) -> None:
        self.released = name  # from the moment it is asked
        try:
            switcher.call(RELEASE_MODE, check=self.check)
        except RuntimeError:  # it was refused
            self.released = ""
            raise

    def _lie_down(self, sport: Service, name: str) -> None:
        """Have the robot lie down, and make sure that it does: who releases the controller of a robot that stands lets it drop."""
        answer = "lay it down with the remote, then try again"
        if self._wait(sport.is_there, 0.0 if self.is_lying() else DISCOVERY_S):
            try:
                sport.call(STAND_DOWN, check=self.check)
            except (TimeoutError, RuntimeError) as error:  # it may be busy, or lie already; what counts are the legs
                answer = f"{error}; {answer}"
        else:
            answer = f"its sport service, which could lie it down, was not found; {answer}"
        if not self._wait(self.is_lying, self.lie_down_s):
            raise ConnectionError(f"the robot does not lie with folded legs ({self.pose()}): without its controller {name!r} it would drop; {answer}")

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether the condition came true in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= deadline_s:
                return False
            self.check()
            time.sleep(0.01)
        return True


def active_mode(switcher: Service, check: Callable[[], None] = lambda: None) -> str:
    """The name of the active controller, empty when there is none. Raises RuntimeError for an answer that does not say."""
    data = switcher.call(CHECK_MODE, check=check)
    try:
        name = json.loads(data)["name"]
    except (ValueError, KeyError, TypeError):
        raise RuntimeError(f"the motion switcher answered {data!r}; expected JSON with a name") from None
    if not isinstance(name, str):
        raise RuntimeError(f"the motion switcher answered {data!r}; expected a name")
    return name
