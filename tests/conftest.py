"""Signals as a terminal has them, and what `make test` runs beside what."""

import os
import re
import signal
from pathlib import Path

import pytest
from go2_wire import STALL
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: a thread that waits for another one's core to be free burns its own
    os.environ |= {"CPU_COUNT": "1", "OMP_NUM_THREADS": "1"}

# A shell that starts the tests in the background ignores SIGINT, and every process they start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long Hypothesis takes to think of examples says how busy the machine is, and nothing of what is tested.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

# The files that run emulated robots, which keep time.
WIRE = {path.name for path in Path(__file__).parent.glob("test_*.py") if "go2_wire" in path.read_text()}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in WIRE:
            item.add_marker(pytest.mark.flaky(reruns=2, only_rerun=STALL))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest's capturing, which has then put what was said into the item's sections
def pytest_runtest_call(item):
    """A failure tells when a guard said meanwhile that the machine stood still: what it damped, the test may meet in other words."""
    try:
        return (yield)
    except Exception as error:
        said = re.search(STALL, "".join(text for _, kind, text in item._report_sections if kind == "stderr"))
        if item.path.name in WIRE and said and not re.search(STALL, str(error)):
            raise AssertionError(f"{error}; a guard said meanwhile: {said[0]}") from error
        raise


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files stay whole, for the sake of their fixtures. Those that run emulated robots are one worker's, which begins with them: these
    keep time, sleep most of it, and share one turn on this machine."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "wire" if Path(file).name in WIRE else file

    return ByFile(config, log)
