"""Signals as a terminal has them: a shell that starts the tests in the background ignores SIGINT, and every process they start would too."""

import signal

from hypothesis import HealthCheck, settings

signal.signal(signal.SIGINT, signal.default_int_handler)

# How long Hypothesis takes to think of examples says how busy the machine is, and nothing of what is tested.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
