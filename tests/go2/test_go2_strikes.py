"""Any of the three processes stopped or killed at any moment, in virtual time; and the watchdog that a guard is.

tests/go2/test_go2_fault_table.py strikes real ones, more slowly.
"""

import math
import random
import signal

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs the extra go2")

from virtual_go2 import BEAT_MS, TICK_MS, VirtualGo2  # noqa: E402

from rfx.drivers.go2.rules.safety import SafetyLimits  # noqa: E402
from rfx.drivers.go2.sender.guard import FAREWELL, Verdict, Watchdog  # noqa: E402


class Told:
    """A watchdog with a limit of 50 ms, and a clock in ms."""

    def __init__(self):
        self.watchdog = Watchdog(0.05)

    def at(self, now_ms, words=None):
        return self.watchdog.step(1.0 + now_ms * 1e-3, words)


def test_a_watchdog_bites_when_nothing_is_said_for_long():
    told = Told()
    assert told.at(9999.0) == Verdict.WELL and told.watchdog.due_s == math.inf, (
        "before the first word it may take its time"
    )
    assert told.at(0.0, b"b") == told.at(10.0, b"bb") == told.at(59.9) == Verdict.WELL
    assert told.watchdog.due_s == pytest.approx(1.06)
    assert told.at(60.1) == Verdict.STOOD_STILL


@pytest.mark.parametrize(
    "words, verdict",
    [(b"", Verdict.GONE), (b"b", Verdict.WELL), (FAREWELL, Verdict.DISMISSED), (b"b" + FAREWELL, Verdict.DISMISSED)],
)
def test_a_watchdog_hears(words, verdict):
    told = Told()
    told.at(0.0, b"b")
    assert told.at(20.0, words) == verdict


def test_a_watchdog_that_was_away_itself_gives_the_sender_time_to_wake_up_too():
    """Woken up 20 ms late: the whole machine was. 10 ms more, once; a word in them and all is well."""
    for word in (True, False):
        told = Told()
        told.at(0.0, b"b")
        assert told.at(70.0) == Verdict.WELL and told.watchdog.due_s == pytest.approx(1.08)
        if word:
            assert told.at(75.0, b"b") == Verdict.WELL and told.watchdog.due_s == pytest.approx(1.125)
        else:
            assert told.at(79.9) == Verdict.WELL and told.at(90.0) == Verdict.STOOD_STILL


STRUCK = SafetyLimits(
    lead_s=0.02, stand_s=0.1, stand_velocity_rad_s=10.0, settle_s=0.1, collect_s=0.05, lie_s=0.2, damping_s=0.05
)
LIFE_S = 1.3  # connecting, standing up, ten steps, lying down, damping


def strike(folder, target: str, number: int, after_s: float) -> float:
    """Strike one of three processes at a moment of its life, and judge.

    Returns ms to damping, 0 where nothing was stiff.

    No silence after stiffness, nothing stiff after damping, damping for long enough, and none of the three is left, or
    goes on, in the end.
    """
    with VirtualGo2(folder, limits=STRUCK) as bench:
        policy = bench.policy_process(steps=10)
        bench.clock.sleep(after_s)
        struck_s, process = bench.clock.now(), {"policy": policy, "sender": bench.sender, "guard": bench.guard}[target]
        process.strike(number)
        if target == "policy":
            bench.clock.sleep(0.5)
            policy.kill()  # a stopped one is ended by its user
        # for a guard it waits 15 s
        bench.clock.wait_for(lambda: all(one.poll() is not None for one in (policy, bench.sender, bench.guard)), 20.0)
        stiff = bench.wire.stiff
        if not len(stiff):
            return 0.0
        times, first = np.array(bench.wire.time_s), stiff[-1] + 1
        assert first < len(times) and times[first] - times[stiff[-1]] <= 0.1, "silence after stiffness"
        assert np.diff(stiff).max(initial=1) == 1, "stiff after damping"
        assert times[-1] - times[first] >= STRUCK.damping_s - 0.003, "too short a damping"
        return max(0.0, 1e3 * (times[first] - struck_s))


BOUND_MS = {
    ("policy", signal.SIGSTOP): TICK_MS,
    ("policy", signal.SIGKILL): TICK_MS,
    ("sender", signal.SIGSTOP): 50.0,
    ("sender", signal.SIGKILL): 0.1,
    ("guard", signal.SIGSTOP): 50.0 + BEAT_MS + TICK_MS,
    ("guard", signal.SIGKILL): BEAT_MS + TICK_MS,
}


@pytest.mark.parametrize("num_strikes", [10, pytest.param(500, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("target, number", list(BOUND_MS), ids=lambda value: getattr(value, "name", value))
def test_strikes_at_any_moment(tmp_path, target, number, num_strikes):
    """From before it connects until after it has ended: evenly spread, at moments that no tick knows."""
    rng = random.Random(f"{target} {number}")
    for index in range(num_strikes):
        after_s = LIFE_S * (index + rng.random()) / num_strikes
        delay_ms = strike(tmp_path, target, number, after_s)
        assert delay_ms <= BOUND_MS[target, number] + 0.1, f"struck after {after_s:.4f} s"
