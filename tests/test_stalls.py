"""What is told of a machine that stood still."""

import signal
import time

import pytest
from stalls import StallWatch


@pytest.fixture(scope="module")
def watch():
    watch = StallWatch()
    yield watch
    watch._process.kill()


def test_a_stall_is_seen_and_for_how_long(watch):
    """The watch itself stands still here: to it, the machine did."""
    since_s = time.monotonic()
    watch._process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    watch._process.send_signal(signal.SIGCONT)
    ended_s = time.monotonic()
    assert watch.longest_s(since_s) == pytest.approx(ended_s - since_s, abs=0.2)
    assert watch.longest_s(ended_s + 1.0) == 0.0, "that was before"


def test_a_sleep_in_peace_is_no_stall(watch):
    """Of a hundred moments, some at least: a busy virtual machine stands still for 5 ms now and then, not all the
    time.
    """
    calm = 0
    for _ in range(100):
        since_s = time.monotonic()
        time.sleep(0.01)
        calm += watch.longest_s(since_s) == 0.0
    assert calm > 10
