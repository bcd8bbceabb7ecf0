"""Tools for loops that must not be late: a clock, real-time priority, and a watch over another process."""

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
SPIN_S = 0.0003  # a wait ends with this much spinning: the kernel wakes a sleeper up to some 0.1 ms late


def sleep_until(deadline_s: float, spin_s: float = SPIN_S) -> None:
    """Return at deadline_s of time.monotonic(), or at once when it has passed."""
    remaining = deadline_s - time.monotonic()
    if remaining > spin_s:
        time.sleep(remaining - spin_s)
    while time.monotonic() < deadline_s:
        pass


class Thread(Protocol):
    """A thread of a clock; threading.Thread is one."""

    @property
    def ident(self) -> int | None: ...
    def start(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


class Clock(Protocol):
    """The time for everything that has deadlines, and the threads that follow it.

    Tests move a clock by hand (tests/virtual_clock.py).
    """

    def now(self) -> float:
        """Seconds since some fixed moment; the value never goes down."""

    def sleep(self, seconds: float) -> None:
        """Return after seconds; with 0, let waiting threads run first."""

    def sleep_until(self, deadline_s: float) -> None:
        """Return at deadline_s of now(), or at once when it has passed."""

    def thread(self, target: Callable[[], None], name: str) -> Thread:
        """Make a thread that follows this clock. It is not started yet, and the process may end while it runs."""


class WallClock:
    """The real time, time.monotonic(), and real threads."""

    def now(self) -> float:
        """time.monotonic()."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """time.sleep()."""
        time.sleep(seconds)

    def sleep_until(self, deadline_s: float) -> None:
        """Return at deadline_s as exactly as possible: the wait ends with spinning."""
        sleep_until(deadline_s)

    def thread(self, target: Callable[[], None], name: str) -> Thread:
        """Make a daemon thread."""
        return threading.Thread(target=target, name=name, daemon=True)


WALL_CLOCK = WallClock()


@contextmanager
def realtime_priority(priority: int) -> Iterator[bool]:
    """Context in which this thread runs before all ordinary threads (SCHED_FIFO).

    Yields whether the system permits it.
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
    """Keep all present and future memory of this process in RAM.

    Fetching a page from disk can take many milliseconds. Returns whether the system permits it (Linux: RLIMIT_MEMLOCK).
    """
    try:
        return ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE) == 0
    except (OSError, AttributeError):
        return False


class Watch(Protocol):
    """Another process, seen by a process that depends on it."""

    def is_alive(self) -> bool: ...
    def is_stopped(self) -> bool: ...
    def kill(self) -> None: ...


class ProcessWatch:
    """Watches this process's parent, given by its process number.

    Where the system does not tell its state (outside Linux), the parent counts as running.
    """

    def __init__(self, pid: int):
        self._pid = pid
        try:
            self._status: int | None = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        except OSError:
            self._status = None

    def is_alive(self) -> bool:
        """Whether the process still is this process's parent."""
        return os.getppid() == self._pid

    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped the process."""
        if self._status is None:
            return False
        try:
            return os.pread(self._status, 512, 0).rpartition(b")")[2].split()[0] in (b"T", b"t")
        except (OSError, IndexError):  # the process is gone
            return False

    def kill(self) -> None:
        """End the process at once if it still is this process's parent."""
        if self.is_alive():
            os.kill(self._pid, signal.SIGKILL)
