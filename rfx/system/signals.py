"""Signals that end a run. The run saves before it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def stopping_signals() -> list[int]:
    """SIGINT (Ctrl-C), SIGTERM (a job scheduler ends the job) and SIGHUP (the terminal is closed).

    SIGHUP is left out if it is ignored, as under nohup.
    """
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


@contextmanager
def hangup_ignored() -> Iterator[None]:
    """Ignore SIGHUP inside the with block.

    Processes that are started inside ignore SIGHUP for good, because their owner needs them to save.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may change signal handlers
        yield
        return
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)
