"""Keeping time in a loop that must not be late: clock, a thread's priority, and whether another process is at work."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

MCL_CURRENT, MCL_FUTURE = 1, 2  # Linux, sys/mman.h
SPIN_S = 0.0003  # the end of a wait is spent spinning: the kernel wakes a sleeper up to some 0.1 ms late


def sleep_until(deadline_s: float, spin_s: float = SPIN_S) -> None:
    """Return at deadline_s of time.monotonic(), or at once when it has passed."""
    remaining = deadline_s - time.monotonic()
    if remaining > spin_s:
        time.sleep(remaining - spin_s)
    while time.monotonic() < deadline_s:
        pass


class Thread(Protocol):
    """What a clock's threads can be asked, as threading.Thread can."""

    @property
    def ident(self) -> int | None: ...
    def start(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


class Clock(Protocol):
    """The time that something with a deadline goes by, and the threads that go by it too.

    Tests turn one by hand (tests/virtual_clock.py).
    """

    def now(self) -> float:
        """Seconds since some moment; never less than before."""

    def sleep(self, seconds: float) -> None:
        """Return after seconds; with 0, after others who wait for the processor had a chance."""

    def sleep_until(self, deadline_s: float) -> None:
        """Return at deadline_s of now(), or at once when it has passed."""

    def thread(self, target: Callable[[], None], name: str) -> Thread:
        """A thread that goes by this clock, which is yet to be started; it does not keep the process from ending."""


class WallClock:
    """The real time, time.monotonic(), and real threads."""

    def now(self) -> float:
        """time.monotonic()."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """time.sleep()."""
        time.sleep(seconds)

    def sleep_until(self, deadline_s: float) -> None:
        """As exactly as can be: the end of the wait is spent spinning."""
        sleep_until(deadline_s)

    def thread(self, target: Callable[[], None], name: str) -> Thread:
        """A daemon thread."""
        return threading.Thread(target=target, name=name, daemon=True)


WALL_CLOCK = WallClock()


@contextmanager
def realtime_priority(priority: int) -> Iterator[bool]:
    """Within it, this thread runs before all ordinary ones, where the system permits (SCHED_FIFO).

    Yields whether it does.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError):  # a system without it, or no permission
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, *before)


def lock_memory() -> bool:
    """Keep all memory of this process, now and later, in real memory: a page that must be fetched first can take many
    milliseconds.

    Returns whether the system permits it (Linux: RLIMIT_MEMLOCK).
    """
    try:
        return ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE) == 0
    except (OSError, AttributeError):
        return False


class Watch(Protocol):
    """Another process, as one sees it that depends on it."""

    def is_alive(self) -> bool: ...
    def is_stopped(self) -> bool: ...
    def kill(self) -> None: ...


class ProcessWatch:
    """Whether this process's parent, by its number, lives and runs.

    What the system does not tell (outside Linux) counts as running.
    """

    def __init__(self, pid: int):
        self._pid = pid
        try:
            self._status: int | None = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        except OSError:
            self._status = None

    def is_alive(self) -> bool:
        """Whether it still is this process's parent."""
        return os.getppid() == self._pid

    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        if self._status is None:
            return False
        try:
            return os.pread(self._status, 512, 0).rpartition(b")")[2].split()[0] in (b"T", b"t")
        except (OSError, IndexError):  # it is gone
            return False

    def kill(self) -> None:
        """End it at once, where it still is this process's parent."""
        if self.is_alive():
            os.kill(self._pid, signal.SIGKILL)
