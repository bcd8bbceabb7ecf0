"""The control loop: observe, decide, act, at a fixed rate, with its timing on record."""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.drivers.realtime import WALL_CLOCK, Clock, Thread, realtime_priority
from rfx.drivers.robot import Robot

JOIN_S = 0.02  # how often stop() asks a robot that is still in its reset to stop
PolicyFunction = Callable[[dict[str, Any]], Any]
PRIORITY = 10  # of the loop's thread, where the system permits
MAX_PERIODS = 1_000_000  # what statistics remember: over five hours at 50 Hz


@dataclass(frozen=True, kw_only=True)
class SessionStats:
    """How well a session kept time. Jitter is the absolute difference between a period and the target period."""

    iterations: int
    overruns: int  # steps that were still busy when the next was due
    target_period_s: float
    mean_period_s: float
    p50_jitter_s: float
    p95_jitter_s: float
    p99_jitter_s: float
    max_jitter_s: float

    def to_dict(self) -> dict[str, float]:
        """The fields as JSON types."""
        return dataclasses.asdict(self)


class Rhythm:
    """Absolute deadlines, period_s apart: being late moves no later one, and whole periods that were missed are left
    out.
    """

    def __init__(self, period_s: float, clock: Clock = WALL_CLOCK):
        self.period_s, self._clock = period_s, clock
        self._periods: deque[float] = deque(maxlen=MAX_PERIODS)
        self.steps = self._overruns = 0
        self.begin()

    def begin(self) -> None:
        """The first step is now; a pause before it is no period."""
        self.begun_s = self.due_s = self._clock.now()
        self._last_s: float | None = None

    def step(self) -> None:
        """A step begins."""
        now_s = self._clock.now()
        if self._last_s is not None:
            self._periods.append(now_s - self._last_s)
        self._last_s = now_s

    def wait(self) -> None:
        """The step is done: return when the next is due."""
        self.steps += 1
        self.due_s += self.period_s
        late_s = self._clock.now() - self.due_s
        if late_s > 0.0:
            self._overruns += 1
            self.due_s += self.period_s * (
                late_s // self.period_s
            )  # leave out the steps that were missed, keep the rhythm
        self._clock.sleep_until(self.due_s)

    @property
    def last_period_s(self) -> float:
        """nan before there was one."""
        return self._periods[-1] if self._periods else float("nan")

    @property
    def stats(self) -> SessionStats:
        """Timing so far."""
        periods = np.array(list(self._periods))
        jitter = np.abs(periods - self.period_s) if len(periods) else np.zeros(1)
        p50, p95, p99 = np.percentile(jitter, (50, 95, 99))
        return SessionStats(
            iterations=self.steps,
            overruns=self._overruns,
            target_period_s=self.period_s,
            mean_period_s=float(periods.mean()) if len(periods) else 0.0,
            p50_jitter_s=float(p50),
            p95_jitter_s=float(p95),
            p99_jitter_s=float(p99),
            max_jitter_s=float(jitter.max()),
        )


class Session:
    """Runs a policy on a robot at rate_hz: in the background between start and stop, or in the calling thread with run.

    policy takes what robot.observe() returns and returns an action. Starting resets the robot (a real one stands up),
    then calls the policy on live observations for warmup_s, and at least once, without acting: a network is compiled by
    then. A policy that has a method reset, as one with a history does, is reset before that, and again before the first
    step. clock is what it goes by.
    However a session ends, it stops the robot, a walking one that has a method brake not before it has braked, and
    after an exception aborts what it does where it has a method abort. An exception in the loop is raised as
    RuntimeError, with its cause, by run, by stop, or on leaving the context. Raises ValueError for a rate that is not
    positive or a warm-up that is negative.
    """

    def __init__(
        self,
        robot: Robot,
        policy: PolicyFunction,
        *,
        rate_hz: float = 50.0,
        warmup_s: float = 0.5,
        clock: Clock = WALL_CLOCK,
    ):
        if not rate_hz > 0.0:
            raise ValueError(f"got rate_hz {rate_hz}; expected more than 0")
        if not warmup_s >= 0.0:
            raise ValueError(f"got warmup_s {warmup_s}; expected 0 or more")
        self.robot, self.policy = robot, policy
        self._warmup_s, self._rhythm, self._clock = warmup_s, Rhythm(1.0 / rate_hz, clock), clock
        self._thread: Thread | None = None
        self._running = self._stop_asked = False
        self._is_resetting = False
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin in a thread of its own, and return at once. Raises RuntimeError while the session runs."""
        self._begin()
        self._thread = self._clock.thread(lambda: self._loop(float("inf")), "rfx-session")
        self._thread.start()

    def stop(self) -> None:
        """End the loop and stop the robot, also in the middle of its reset.

        May be called again. Raises RuntimeError when the loop had failed.
        """
        self._stop_asked = True
        if self._is_resetting:  # a real robot's takes many seconds
            self.robot.stop()
        if self._thread is not None and self._thread.ident != threading.get_ident():
            while self._thread.is_alive():
                if self._is_resetting:
                    self.robot.stop()
                self._thread.join(JOIN_S)
            self._thread = None
        self._raise_error()

    def run(self, duration: float | None = None) -> SessionStats:
        """Run in this thread for duration seconds, or until Ctrl-C, then stop the robot.

        Raises RuntimeError when the loop fails.
        """
        self._begin()
        self._loop(float("inf") if duration is None else duration)
        self._raise_error()
        return self.stats

    @property
    def is_running(self) -> bool:
        """Whether the loop is at work."""
        return self._running

    @property
    def step_count(self) -> int:
        """Actions sent since the start."""
        return self._rhythm.steps

    @property
    def stats(self) -> SessionStats:
        """Timing so far."""
        return self._rhythm.stats

    def __enter__(self) -> Session:
        self.start()
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        try:
            self.stop()
        except RuntimeError:
            if value is None:  # an exception of the caller's own goes first
                raise

    def _begin(self) -> None:
        if self._running:
            raise RuntimeError("the session is running already: stop it first")
        self._rhythm = Rhythm(self._rhythm.period_s, self._clock)
        self._error, self._stop_asked, self._running = None, False, True

    def _loop(self, duration: float) -> None:
        ended = False
        try:
            self._reset_robot()
            self._reset_policy()
            self._warm_up()
            self._reset_policy()
            gc.collect()
            gc.freeze()  # a full collection over what networks and libraries allocated would take many milliseconds
            with realtime_priority(PRIORITY):
                try:
                    self._steps(duration)
                except KeyboardInterrupt:
                    self._brake()
                    raise
                self._brake()
            ended = True
        except KeyboardInterrupt:
            ended = True
            raise
        except Exception as error:
            if not (
                self._stop_asked and self._is_resetting
            ):  # stopped in its reset, a robot says that it does not stand
                self._error = error
        finally:
            gc.unfreeze()
            try:
                self.robot.stop() if ended else getattr(self.robot, "abort", self.robot.stop)()
            except Exception as error:
                self._error = self._error or error
            self._running = self._is_resetting = False

    def _reset_robot(self) -> None:
        self._is_resetting = True
        if not self._stop_asked:
            self.robot.reset()
        self._is_resetting = False

    def _reset_policy(self) -> None:
        if reset := getattr(self.policy, "reset", None):
            reset()

    def _warm_up(self) -> None:
        ready_s = self._clock.now() + self._warmup_s
        while not self._stop_asked:
            self.policy(self.robot.observe())
            if self._clock.now() >= ready_s:
                return
            self._clock.sleep(self._rhythm.period_s)

    def _steps(self, duration: float) -> None:
        rhythm = self._rhythm
        rhythm.begin()
        while not self._stop_asked and rhythm.due_s - rhythm.begun_s < duration - 1e-9:
            self._step()

    def _step(self) -> None:
        self._rhythm.step()
        self.robot.act(self.policy(self.robot.observe()))
        self._rhythm.wait()

    def _brake(self) -> None:
        """Go on until a robot that walks stands on the spot, where it knows how to brake.

        Interrupted, it is aborted.
        """
        if not self.step_count or not hasattr(self.robot, "brake"):
            return
        try:
            until_s = self._clock.now() + self.robot.brake()
            while self._clock.now() < until_s:
                self._step()
        except KeyboardInterrupt:
            getattr(self.robot, "abort", self.robot.stop)()
            raise

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise RuntimeError(
                f"the session failed after {self.step_count} steps, and the robot was stopped: {error!r}"
            ) from error


def run(
    robot: Robot,
    policy: PolicyFunction,
    rate_hz: float = 50.0,
    duration: float | None = None,
    *,
    clock: Clock = WALL_CLOCK,
) -> SessionStats:
    """Run a policy on a robot for duration seconds, or until Ctrl-C. Returns the timing. Raises as Session.run does."""
    return Session(robot, policy, rate_hz=rate_hz, clock=clock).run(duration)
