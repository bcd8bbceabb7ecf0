"""Signals as a terminal has them, and which tests run beside which: see pytest_xdist_make_scheduler."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A shell that starts the tests in the background ignores SIGINT, and every process they start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long Hypothesis takes to think of examples says how busy the machine is, and nothing of what is tested.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def uses_the_wire(path: Path) -> bool:
    """Whether a test file runs emulated robots: they keep time, sleep most of it, and share one turn on this machine."""
    return "go2_wire" in path.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files stay whole, for the sake of their fixtures; those of the wire are one worker's, which begins with them."""
    from xdist.scheduler import LoadScopeScheduling

    wire = {path.name for path in Path(__file__).parent.glob("test_*.py") if uses_the_wire(path)}

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "wire" if Path(file).name in wire else file

    return ByFile(config, log)


def pytest_runtest_setup(item):
    """In a worker, what computes makes way for what keeps time."""
    if "PYTEST_XDIST_WORKER" in os.environ and os.nice(0) == 0 and not uses_the_wire(item.path):
        os.nice(5)
