"""Signals as a terminal has them, and what tests say of a busy machine."""

import os
import signal

from hypothesis import HealthCheck, settings

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # workers share the cores: a thread that waits for another one's core to be free burns its own
    os.environ |= {"CPU_COUNT": "1", "OMP_NUM_THREADS": "1"}
os.environ["RAY_worker_niceness"] = "0"  # not 15, with which Ray's workers wait for minutes while anything else is busy

# A shell that starts the tests in the background ignores SIGINT, and every process they start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long Hypothesis takes to think of examples says how busy the machine is, and nothing of what is tested.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
