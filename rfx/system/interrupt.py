"""Ctrl-C while a command begins or ends: one line, and no traceback."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def leave(number: int, _: FrameType | None) -> None:
    """Ctrl-C while there is nothing to save: one line, exit code 130. A second one kills."""
    signal.signal(number, signal.SIG_DFL)
    print("interrupted", file=sys.stderr)
    raise SystemExit(128 + number)


def leave_on_interrupt() -> None:
    """From here on Ctrl-C ends this process as leave says; for entries, before their imports, which take a second."""
    signal.signal(signal.SIGINT, leave)
