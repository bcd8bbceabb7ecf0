"""Each of the three processes stopped or killed at a random moment: how soon damping is on the real wire, and what is
left behind.

tests/go2/test_go2_strikes.py does the same in virtual time, at thousands of moments. A strike is judged by the wire
alone.
Where the motors were stiff, somebody damps within 100 ms, nothing stiff follows, and damping goes on; in the end none
of the three processes is left (a stopped policy's is ended by its user). RFX_STRIKES sets the number of strikes of the
long test, RFX_SEED their moments. On a busy machine a session may end by itself before it is struck, as when the policy
misses its steps: the wire is judged all the same, and the strike is made again.
"""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from go2_wire import ROOT, EmulatorProcess, Listener, is_alive

pytest.importorskip("cyclonedds", reason="needs the extra go2")
BOUND_MS, DAMPING_S = 100.0, 0.3
ATTEMPTS = 5  # at a strike
TARGETS, SIGNALS = ("policy", "sender", "guard"), (signal.SIGSTOP, signal.SIGKILL)
MOMENTS = {"connecting": 2.5, "standing": 0.7, "walking": 1.0, "ending": 2.6}  # each lasts about so long, s
WALKER = textwrap.dedent("""
    import sys, threading, time
    import numpy as np
    from rfx.drivers.go2.driver.driver import Go2
    from rfx.drivers.go2.rules.safety import SafetyLimits
    from rfx.drivers.session import Session

    limits = SafetyLimits(stand_s=0.6, settle_s=0.2, damping_s=float(sys.argv[3]))
    print("connecting", flush=True)
    with Go2(domain=int(sys.argv[1]), limits=limits, log_path=sys.argv[2]) as robot:
        robot.connect()
        print("standing", flush=True)

        def policy(observation):
            if session.step_count == 1:
                print("walking", flush=True)
            elif session.step_count == 60:
                print("ending", flush=True)
                session.stop()
            return np.zeros((1, 12), np.float32)

        session = Session(robot, policy, warmup_s=0.0)
        session.run()
""")


def child(pid: int, module: str, timeout_s: float) -> int | None:
    """The process that pid has started to run module."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if module in Path(f"/proc/{number}/cmdline").read_text():
                    return int(number)
        except OSError:
            pass
        time.sleep(0.005)
    return None


class Ended(Exception):
    """The session ended by itself before it was struck, and why."""


def strike(
    emulator, wire, folder: Path, target: str, number: signal.Signals, moment: str, rng: random.Random
) -> float | None:
    """One strike. Returns ms from it to damping on the wire, None where nothing was stiff."""
    for _ in range(ATTEMPTS):
        try:
            return attempt(emulator, wire, folder, target, number, moment, rng)
        except Ended as ended:
            print(f"{target}, {number.name}, {moment}: before it, {ended}", flush=True)
    raise AssertionError(f"{ATTEMPTS} sessions ended before {moment}")


def attempt(
    emulator, wire, folder: Path, target: str, number: signal.Signals, moment: str, rng: random.Random
) -> float | None:
    """A strike. Raises Ended where there was nobody left to be struck."""
    emulator.ask("again")
    wire.take()
    with open(folder / "errors.txt", "w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", WALKER, str(emulator.domain), str(folder / "log.jsonl"), str(DAMPING_S)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    pids = {"policy": process.pid}
    try:
        while (line := process.stdout.readline().strip()) != moment:
            if not line:
                process.wait(timeout=40.0)
                judge(wire.take(), time.time_ns())
                raise Ended((folder / "errors.txt").read_text().strip().rpartition("\n")[2])
        if moment == "connecting":
            time.sleep(rng.uniform(0.0, MOMENTS[moment]) if target == "policy" else 0.0)
        pids["sender"] = child(process.pid, "go2.sender.sender", 10.0 if target != "policy" else 0.5)
        pids["guard"] = (
            child(pids["sender"], "go2.sender.guard", 10.0 if target != "policy" else 0.5) if pids["sender"] else None
        )
        if moment != "connecting" or target != "policy":
            time.sleep(rng.uniform(0.0, MOMENTS[moment]))
        if pids[target] is None:
            raise Ended(f"there was no {target}")
        struck_ns = time.time_ns()
        try:
            os.kill(pids[target], number)
        except ProcessLookupError:
            return None  # it had ended already
        until_s = time.monotonic() + 1.0 + DAMPING_S
        while time.monotonic() < until_s and (
            not pids["sender"] or is_alive(pids["sender"]) or is_alive(pids["guard"])
        ):
            time.sleep(0.01)
        time.sleep(0.2)  # for their last messages to be heard
        if target == "policy":
            process.kill()
        process.wait(timeout=40.0)
        deadline_s = time.monotonic() + 10.0
        while any(map(is_alive, pids.values())):
            assert time.monotonic() < deadline_s, (
                f"left behind: {[name for name, pid in pids.items() if is_alive(pid)]}"
            )
            time.sleep(0.01)
    finally:
        for pid in pids.values():
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return judge(wire.take(), struck_ns)


def judge(seen, struck_ns: int) -> float | None:
    """What the wire says: no stiff command after the first damping one, no silence after stiffness.

    Returns ms to damping, if it was stiff.
    """
    order = np.argsort(seen.time_ns, kind="stable")
    times, damps = seen.time_ns[order], seen.damping[order]
    stiff = np.flatnonzero(~damps)
    if not len(stiff):
        return None
    last = stiff[-1]
    assert last + 1 < len(times), "silence after stiffness"
    assert (times[last + 1] - times[last]) / 1e6 <= BOUND_MS, "silence after stiffness"
    assert (times[-1] - times[last + 1]) / 1e9 >= DAMPING_S - 0.05, "too short a damping"
    if times[last] < struck_ns - 50_000_000:
        return None  # it had lain down and was damped when it was struck
    return max(0.0, (times[last + 1] - struck_ns) / 1e6)


def table(num_strikes: int, tmp_path: Path, seed: int) -> None:
    """num_strikes for each target and signal, at random moments; prints the worst times, and asserts the bound."""
    rng, delays, untouched = random.Random(seed), defaultdict(list), defaultdict(int)
    with EmulatorProcess() as emulator:
        wire = Listener(emulator.domain)
        time.sleep(0.5)
        for index in range(num_strikes):
            for target in TARGETS:
                for number in SIGNALS:
                    moment = rng.choice(list(MOMENTS))
                    delay_ms = strike(emulator, wire, tmp_path, target, number, moment, rng)
                    print(
                        f"{index}: {target}, {number.name}, {moment}: {'nothing stiff' if delay_ms is None else f'{delay_ms:.1f} ms'}",
                        flush=True,
                    )
                    key = target, number.name, moment
                    untouched[key] += delay_ms is None
                    delays[key] += [] if delay_ms is None else [delay_ms]
    print("\nprocess signal  moment      strikes  stiff  worst ms to damping")
    for target in TARGETS:
        for number in SIGNALS:
            for moment in MOMENTS:
                stiff = delays[target, number.name, moment]
                worst = f"{max(stiff):.1f}" if stiff else "-"
                print(
                    f"{target:7} {number.name:7} {moment:11} {len(stiff) + untouched[target, number.name, moment]:7}  {len(stiff):5}  {worst:>7}"
                )
    assert max(max(stiff, default=0.0) for stiff in delays.values()) <= BOUND_MS


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_fault_table(tmp_path):
    table(int(os.environ.get("RFX_STRIKES", "100")), tmp_path, seed=int(os.environ.get("RFX_SEED", "0")))
