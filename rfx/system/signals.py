"""Which signals end a run that saves first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def stopping_signals() -> list[int]:
    """Ctrl-C's, the one that systems end a job with, and that of a terminal which is gone.

    The last is left out where it is ignored, as under nohup.
    """
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


@contextmanager
def hangup_ignored() -> Iterator[None]:
    """While inside, SIGHUP is ignored; by processes that are started here, for good: their owner needs them to save."""
    if threading.current_thread() is not threading.main_thread():  # which may not change it
        yield
        return
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)
