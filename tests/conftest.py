"""Signals as a terminal has them: a shell that starts the tests in the background ignores SIGINT, and every process they start would too."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
