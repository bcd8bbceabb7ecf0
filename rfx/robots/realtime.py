"""Keeping time in a loop that must not be late."""

from __future__ import annotations

import os
import time

SPIN_S = 0.0003  # the end of a wait is spent spinning: the kernel wakes a sleeper up to some 0.1 ms late


def sleep_until(deadline_s: float, spin_s: float = SPIN_S) -> None:
    """Return at deadline_s of time.monotonic(), or at once when it has passed."""
    remaining = deadline_s - time.monotonic()
    if remaining > spin_s:
        time.sleep(remaining - spin_s)
    while time.monotonic() < deadline_s:
        pass


def prefer_realtime() -> str:
    """Ask the kernel to run this process before others, as far as it may. Returns what was granted: "fifo", "nice" or "normal"."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))
        return "fifo"
    except (AttributeError, OSError):  # another system, or no permission
        pass
    try:
        os.nice(-10)
        return "nice"
    except OSError:
        return "normal"
