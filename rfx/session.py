"""The control loop: observe, decide, act, at a fixed rate, with its timing on record."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.robots.realtime import realtime_priority, sleep_until
from rfx.robots.robot import Robot, Stopped

PolicyFunction = Callable[[dict[str, Any]], Any]
PRIORITY = 10  # of the loop's thread, where the system permits
WINDOW_S = 1.0  # over which a policy must keep its rate
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


class Session:
    """Runs a policy on a robot at rate_hz: in the background between start and stop, or in the calling thread with run.

    policy takes what robot.observe() returns and returns an action. Starting resets the robot (a real one stands up), then calls the
    policy on live observations for warmup_s, and at least once, without acting: a network is compiled by then. A policy that has a method
    reset, as one with a history does, is reset before that, and again before the first step.
    However a session ends, it stops the robot: at a planned end by robot.stop, after an exception by robot.damp where it has that. An
    exception in the loop is raised as RuntimeError, with its cause, by run, by stop, or on leaving the context. A loop that makes fewer
    than min_rate_share of its steps within a second is one: to the policy, whose gait has a clock, such a robot is in slow motion.
    Raises ValueError for a rate that is not positive, a warm-up that is negative, or a share that is not 0 to 1.
    """

    def __init__(self, robot: Robot, policy: PolicyFunction, *, rate_hz: float = 50.0, warmup_s: float = 0.5, min_rate_share: float = 0.75):
        if not rate_hz > 0.0:
            raise ValueError(f"got rate_hz {rate_hz}; expected more than 0")
        if not warmup_s >= 0.0:
            raise ValueError(f"got warmup_s {warmup_s}; expected 0 or more")
        if not 0.0 <= min_rate_share <= 1.0:
            raise ValueError(f"got min_rate_share {min_rate_share}; expected 0 to 1")
        self.robot, self.policy, self._min_rate_share = robot, policy, min_rate_share
        self._period_s, self._warmup_s = 1.0 / rate_hz, warmup_s
        self._thread: threading.Thread | None = None
        self._running = self._resetting = self._stop_asked = False
        self._error: BaseException | None = None
        self._clear()

    def start(self) -> None:
        """Begin in a thread of its own, and return at once. Raises RuntimeError while the session runs."""
        self._begin()
        self._thread = threading.Thread(target=self._loop, args=(float("inf"),), name="rfx-session", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the loop and stop the robot, also one that is still standing up. May be called again. Raises RuntimeError when the loop had failed."""
        self._stop_asked = True
        if self._thread is not None and self._thread is not threading.current_thread():
            while self._thread.is_alive():
                if self._resetting:
                    self.robot.stop()
                self._thread.join(0.05)
            self._thread = None
        self._raise_error()

    def run(self, duration: float | None = None, *, until: Callable[[], bool] = lambda: False,
            finish: Callable[[], None] | None = None) -> SessionStats:
        """Run in this thread for duration seconds, until a condition (once true, always) is true, or until Ctrl-C, then stop the robot.

        finish is called in place of robot.stop when duration or until ended it. Raises RuntimeError when the loop fails.
        """
        self._begin()
        self._loop(float("inf") if duration is None else duration, until, finish)
        self._raise_error()
        return self.stats

    @property
    def is_running(self) -> bool:
        """Whether the loop is at work."""
        return self._running

    @property
    def step_count(self) -> int:
        """Actions sent since the start."""
        return self._step_count

    @property
    def stats(self) -> SessionStats:
        """Timing so far."""
        periods = np.array(list(self._periods))
        jitter = np.abs(periods - self._period_s) if len(periods) else np.zeros(1)
        p50, p95, p99 = np.percentile(jitter, (50, 95, 99))
        return SessionStats(iterations=self._step_count, overruns=self._overruns, target_period_s=self._period_s,
                            mean_period_s=float(periods.mean()) if len(periods) else 0.0, p50_jitter_s=float(p50), p95_jitter_s=float(p95),
                            p99_jitter_s=float(p99), max_jitter_s=float(jitter.max()))

    def __enter__(self) -> Session:
        self.start()
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        try:
            self.stop()
        except RuntimeError:
            if value is None:  # an exception of the caller's own goes first
                raise

    def _clear(self) -> None:
        self._periods: deque[float] = deque(maxlen=MAX_PERIODS)
        self._step_count = self._overruns = 0

    def _begin(self) -> None:
        if self._running:
            raise RuntimeError("the session is running already: stop it first")
        self._clear()
        self._error, self._stop_asked, self._running = None, False, True

    def _loop(self, duration: float, until: Callable[[], bool] = lambda: False, finish: Callable[[], None] | None = None) -> None:
        end = getattr(self.robot, "damp", self.robot.stop)  # for what nobody planned
        try:
            self._reset_robot()
            self._reset_policy()
            self._warm_up(until)
            self._reset_policy()
            gc.collect()
            gc.freeze()  # a full collection over what networks and libraries allocated would take many milliseconds
            with realtime_priority(PRIORITY):
                self._steps(duration, until)
            end = finish if finish is not None and not self._stop_asked else self.robot.stop
        except KeyboardInterrupt:
            end = self.robot.stop
            raise
        except Stopped as error:
            end, self._error = self.robot.stop, None if self._stop_asked else error
        except Exception as error:
            self._error = error
        finally:
            gc.unfreeze()
            self._end(end)

    def _end(self, end: Callable[[], None]) -> None:
        try:
            end()
        except Exception as error:
            self._error = self._error or error
        finally:
            self._running = False

    def _reset_robot(self) -> None:
        self._resetting = True
        try:
            if not self._stop_asked:
                self.robot.reset()
        finally:
            self._resetting = False

    def _reset_policy(self) -> None:
        if reset := getattr(self.policy, "reset", None):
            reset()

    def _warm_up(self, until: Callable[[], bool]) -> None:
        ready_s = time.monotonic() + self._warmup_s
        while not self._stop_asked and not until():
            self.policy(self.robot.observe())
            if time.monotonic() >= ready_s:
                return
            time.sleep(self._period_s)

    def _steps(self, duration: float, until: Callable[[], bool]) -> None:
        begun_s = due_s = time.monotonic()
        last_s = None
        recent: deque[float] = deque()
        while not self._stop_asked and due_s - begun_s < duration - 1e-9 and not until():
            now_s = time.monotonic()
            if last_s is not None:
                self._periods.append(now_s - last_s)
            last_s = now_s
            self.robot.act(self.policy(self.robot.observe()))
            self._step_count += 1
            due_s += self._period_s
            late_s = time.monotonic() - due_s
            if late_s > 0.0:
                self._overruns += 1
                due_s += self._period_s * (late_s // self._period_s)  # leave out the steps that were missed, keep the rhythm
            recent.append(now_s)
            self._check_rate(recent, begun_s)
            sleep_until(due_s)

    def _check_rate(self, recent: deque[float], begun_s: float) -> None:
        """Raise RuntimeError when too few steps began (recent, s) within the last second."""
        now_s = time.monotonic()
        while recent and recent[0] < now_s - WINDOW_S:
            recent.popleft()
        if now_s - begun_s > WINDOW_S and len(recent) < int(self._min_rate_share * WINDOW_S / self._period_s):
            raise RuntimeError(f"the loop made {len(recent)} steps in the last {WINDOW_S:g} s, expected {WINDOW_S / self._period_s:.0f}: the policy "
                               "or the computer is too slow for this rate")

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise RuntimeError(f"the session failed after {self._step_count} steps, and the robot was stopped: {error!r}") from error


def run(robot: Robot, policy: PolicyFunction, rate_hz: float = 50.0, duration: float | None = None) -> SessionStats:
    """Run a policy on a robot for duration seconds, or until Ctrl-C. Returns the timing. Raises as Session.run does."""
    return Session(robot, policy, rate_hz=rate_hz).run(duration)
