"""The control loop: it observes, decides and acts at a fixed rate and records its timing."""

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

JOIN_S = 0.02  # while a robot resets, stop() repeats its request at this interval
PolicyFunction = Callable[[dict[str, Any]], Any]
PRIORITY = 10  # real-time priority of the loop's thread, where the system permits it
MAX_PERIODS = 1_000_000  # statistics cover this many periods: over five hours at 50 Hz


@dataclass(frozen=True, kw_only=True)
class SessionStats:
    """Timing of a session. Jitter is the absolute difference between a period and the target period."""

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
    """Absolute deadlines, period_s apart.

    A late step does not move later deadlines. Whole periods that were missed are skipped.
    """

    def __init__(self, period_s: float, clock: Clock = WALL_CLOCK):
        self.period_s, self._clock = period_s, clock
        self._periods: deque[float] = deque(maxlen=MAX_PERIODS)
        self.steps = self._overruns = 0
        self.begin()

    def begin(self) -> None:
        """Start the rhythm: the first step is now, and the pause before it does not count as a period."""
        self.begun_s = self.due_s = self._clock.now()
        self._last_s: float | None = None

    def step(self) -> None:
        """Mark the beginning of a step."""
        now_s = self._clock.now()
        if self._last_s is not None:
            self._periods.append(now_s - self._last_s)
        self._last_s = now_s

    def wait(self) -> None:
        """Mark the end of a step, and return when the next step is due."""
        self.steps += 1
        self.due_s += self.period_s
        late_s = self._clock.now() - self.due_s
        if late_s > 0.0:
            self._overruns += 1
            # Skip the missed steps and keep the rhythm.
            self.due_s += self.period_s * (late_s // self.period_s)
        self._clock.sleep_until(self.due_s)

    @property
    def last_period_s(self) -> float:
        """Length of the last period, s; nan before the first one is complete."""
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
    """Runs a policy on a robot at rate_hz, in the background (start and stop) or in the calling thread (run).

    policy takes what robot.observe() returns and returns an action. The session first resets the robot; a real robot
    stands up. Then it calls the policy on live observations for warmup_s, at least once, without acting, so that the
    network is compiled before the first step. If the policy has a method reset, as a policy with a history does, the
    session calls it before the warm-up and again before the first step. clock gives the time.
    A session always stops the robot at its end. If the robot has a method brake, a walking robot brakes first. After an
    exception the session calls the robot's method abort instead of stop, if there is one. run, stop, or leaving the
    context then raises RuntimeError with the exception as its cause. Raises ValueError for a rate that is not positive
    or a warm-up that is negative.
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
        """Start the loop in a thread of its own and return at once. Raises RuntimeError while the session runs."""
        self._begin()
        self._thread = self._clock.thread(lambda: self._loop(float("inf")), "rfx-session")
        self._thread.start()

    def stop(self) -> None:
        """End the loop and stop the robot, even in the middle of its reset.

        May be called repeatedly. Raises RuntimeError if the loop failed.
        """
        self._stop_asked = True
        if self._is_resetting:  # a real robot's reset takes many seconds
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
        """Whether the loop is running."""
        return self._running

    @property
    def step_count(self) -> int:
        """Number of actions sent since the start."""
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
            if value is None:  # the caller's own exception goes first
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
            gc.freeze()  # a full collection over the objects of networks and libraries would take many milliseconds
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
            # A robot that is stopped during its reset reports that it does not stand: this is no failure.
            if not (self._stop_asked and self._is_resetting):
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
        """Run the policy until a walking robot stands on the spot, if the robot has a method brake.

        If this is interrupted, the robot is aborted.
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
    """Run a policy on a robot for duration seconds, or until Ctrl-C. Returns the timing. Raises like Session.run."""
    return Session(robot, policy, rate_hz=rate_hz, clock=clock).run(duration)
