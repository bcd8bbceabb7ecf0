"""SIGSTOP and SIGKILL of every process at random moments of a life: connecting, standing up, walking, lying down.

Whatever is hit and when: after a stiff command another one comes within 100 ms, the last one on the wire damps, and no process stays.
RFX_CHAOS says how often each is hit (default 3; 100 for the table in an issue).
"""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from go2_wire import ROOT, EmulatorProcess, Listener, Wire, children, is_running, wait_until_gone

pytest.importorskip("cyclonedds", reason="needs the extra go2")
NUM = int(os.environ.get("RFX_CHAOS", "3"))
BOUND_S = 0.1
LIFE = textwrap.dedent("""
    import sys
    import numpy as np
    from rfx.robots.go2 import Go2, SafetyLimits
    from rfx.session import Session

    limits = SafetyLimits(stand_s=0.5, settle_s=0.3, recover_s=0.2, lie_s=0.5, damping_s=0.3)
    with Go2(domain=int(sys.argv[1]), limits=limits, log_path=sys.argv[2]) as robot:
        print("begun", flush=True)
        Session(robot, lambda observation: np.zeros((1, 12), np.float32), warmup_s=0.1).run(0.7)
""")


@pytest.fixture(scope="module")
def emulator():
    with EmulatorProcess() as process:
        yield process


@pytest.fixture(scope="module")
def wire(emulator):
    return Listener(emulator.domain)


def live(emulator, log_path, victim: str, number: int, after_s: float) -> int:
    """One life, hit after_s from the first LowCmd that might be its own. Returns when (ns, wall clock)."""
    life = subprocess.Popen([sys.executable, "-c", LIFE, str(emulator.domain), str(log_path)], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True)
    assert life.stdout.readline() == "begun\n"
    deadline = time.monotonic() + 20.0
    while not (senders := children(life.pid)) or not (guards := children(senders[0])):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    everybody = [life.pid, *senders, *guards]
    time.sleep(after_s)
    pid = dict(zip(("policy", "sender", "guard"), everybody))[victim]
    hit_ns = time.time_ns()
    if is_running(pid):
        os.kill(pid, number)
    if victim == "policy" and number == signal.SIGSTOP:  # it never comes back: somebody finds it and ends it
        time.sleep(1.0)
        life.kill()
    life.communicate(timeout=30.0)
    wait_until_gone(everybody, timeout_s=15.0)
    return hit_ns


def check(seen: Wire, hit_ns: int, victim: str, number: int) -> float:
    """The time (s) from the hit to the first command that damps for good, nan where the legs were not stiff, or where stiff legs are right.

    They are when the policy's process is stopped and does not walk: then the sender holds the stand, or goes on lying down.
    """
    stiff = (seen.kp[:, :12] > 0.0).any(axis=1)
    if not stiff.any():
        return float("nan")
    assert seen.damping[-1], "the last word damps"
    gaps_s = np.diff(seen.time_ns)[stiff[:-1]] / 1e9
    assert gaps_s.max() <= BOUND_S, f"{gaps_s.max() * 1e3:.0f} ms of silence with stiff legs"
    before = np.flatnonzero(seen.time_ns < hit_ns)
    if not len(before) or not stiff[before[-1]]:
        return float("nan")
    if victim == "policy" and number == signal.SIGSTOP and seen.kp[before[-1], 0] != 35.0:
        return float("nan")
    delay_s = (seen.time_ns[np.flatnonzero(stiff)[-1] + 1] - hit_ns) / 1e9
    assert delay_s <= BOUND_S, f"stiff for {delay_s * 1e3:.0f} ms after the hit"
    return delay_s


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("victim", ["policy", "sender", "guard"])
def test_hit_at_random(emulator, wire, tmp_path, victim, number):
    rng, delays = np.random.default_rng([ord(victim[0]), number]), []
    for index in range(NUM):
        emulator.ask("again released")
        wire.take()
        hit_ns = live(emulator, tmp_path / f"log{index}.jsonl", victim, number, rng.uniform(0.0, 4.0))
        seen = wire.take()
        order = np.argsort(seen.time_ns, kind="stable")
        seen = Wire(**{name: array[order] for name, array in vars(seen).items()})
        delays.append(check(seen, hit_ns, victim, number))
    known = [delay for delay in delays if delay == delay]
    print(f"{victim} {number.name}: {NUM} hits, {len(known)} while stiff, damped after at most {max(known, default=0.0) * 1e3:.0f} ms")
