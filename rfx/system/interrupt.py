"""Ctrl-C at the start or end of a command prints one line and no traceback."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def leave(number: int, _: FrameType | None) -> None:
    """Handle Ctrl-C when there is nothing to save: print one line, exit with code 130. A second Ctrl-C kills."""
    signal.signal(number, signal.SIG_DFL)
    print("interrupted", file=sys.stderr)
    raise SystemExit(128 + number)


def leave_on_interrupt() -> None:
    """Make Ctrl-C end this process as in `leave`. Entry points call it before their imports, which take a second."""
    signal.signal(signal.SIGINT, leave)
