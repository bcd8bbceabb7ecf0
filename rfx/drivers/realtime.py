"""Keeping time in a loop that must not be late."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

MCL_CURRENT, MCL_FUTURE = 1, 2  # Linux, sys/mman.h
SPIN_S = 0.0003  # the end of a wait is spent spinning: the kernel wakes a sleeper up to some 0.1 ms late


def sleep_until(deadline_s: float, spin_s: float = SPIN_S) -> None:
    """Return at deadline_s of time.monotonic(), or at once when it has passed."""
    remaining = deadline_s - time.monotonic()
    if remaining > spin_s:
        time.sleep(remaining - spin_s)
    while time.monotonic() < deadline_s:
        pass


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
