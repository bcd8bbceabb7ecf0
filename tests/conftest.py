"""Signals as a terminal has them, what `make test` runs beside what, and what it runs again."""

import functools
import os
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from stalls import StallWatch

from rfx.drivers.go2.driver.driver import Go2

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

# The files that run emulated robots, which keep time.
WIRE = {path.name for path in Path(__file__).parent.glob("test_*.py") if "go2_wire" in path.read_text()}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in WIRE:
            item.add_marker(pytest.mark.flaky(reruns=2, only_rerun="the machine stood still for [0-9]+ ms"))


@functools.cache
def stall_watch() -> StallWatch:
    """One for this worker, from its first test of the wire on."""
    return StallWatch()


@contextmanager
def _told_of_stalls(item):
    """A failure of the wire's tests says so when the machine stood still meanwhile."""
    if item.path.name not in WIRE:
        yield
        return
    watch, began_s = stall_watch(), time.monotonic()
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        if not (longest_s := watch.longest_s(began_s)):
            raise
        raise AssertionError(f"{error}; the machine stood still for {longest_s * 1e3:.0f} ms meanwhile") from error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with _told_of_stalls(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with _told_of_stalls(item):
        return (yield)


@pytest.fixture(autouse=True)
def _no_robot_outlives_its_test(monkeypatch):
    """A test that fails leaves its Go2 connected, and its sender at work: the next one would meet two publishers."""
    robots, connect = [], Go2.connect

    def noted(self):
        robots.append(self)
        connect(self)

    monkeypatch.setattr(Go2, "connect", noted)
    yield
    for robot in robots:
        with suppress(RuntimeError):
            robot.close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files stay whole, for the sake of their fixtures.

    Those that run emulated robots are one worker's, which begins with them: these keep time, sleep most of it, and
    share one turn on this machine.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "wire" if Path(file).name in WIRE else file

    return ByFile(config, log)
