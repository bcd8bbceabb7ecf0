"""Keeping time in a loop that must not be late."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Within it, this thread runs before all ordinary ones, where the system permits (SCHED_FIFO). Yields whether it does."""
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
