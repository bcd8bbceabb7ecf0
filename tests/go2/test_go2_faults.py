"""Every way in which a run can go wrong ends in damping on the wire within 100 ms, and damping goes on for a while.

Times are the wire's: from the moment a fault is there to the first LowCmd that damps, and every LowCmd after it damps
too.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from go2_wire import ROOT, EmulatorProcess, Listener

from rfx.drivers.go2.driver.driver import Go2
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.session import Session

pytest.importorskip("cyclonedds", reason="needs the extra go2")
BOUND_MS = 100.0
LIMITS = SafetyLimits(stand_s=0.3, settle_s=0.1, damping_s=0.2)


@pytest.fixture(scope="module")
def shared():
    """One emulator, and one listener to it, for all faults that leave them usable."""
    with EmulatorProcess() as emulator:
        yield emulator, Listener(emulator.domain)


@pytest.fixture
def emulator(shared):
    """The shared emulator as new; the listener has heard nothing yet."""
    shared[0].ask("again released")
    time.sleep(0.1)
    shared[1].take()
    return shared[0]


@pytest.fixture
def wire(shared):
    return shared[1]


def still(observation):
    return np.zeros((1, 12), np.float32)


def walk(emulator, tmp_path, policy=still, **options) -> tuple[Go2, Session]:
    """A Go2 that stands under a policy."""
    robot = Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl", **options)
    session = Session(robot, policy, warmup_s=0.0)
    session.start()
    deadline = time.monotonic() + 20.0
    while session.step_count < 10:
        if not session.is_running:
            session.stop()  # says why
        assert session.is_running and time.monotonic() < deadline
        time.sleep(0.01)
    return robot, session


def finish(robot, session, match: str) -> str:
    """End the session, which must have failed with this reason. Returns the reason."""
    deadline = time.monotonic() + 3.0
    while session.is_running and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match=match) as raised:
        session.stop()
    robot.close()
    return str(raised.value)


def check_damping(wire, fault_ns: int, record_property, name: str, duration_s: float = LIMITS.damping_s) -> float:
    """From the fault on: damping within the bound, nothing but damping afterwards, for long enough.

    Returns the delay in ms.
    """
    seen = wire.take()
    ours = seen.of(seen.writer[np.argmax(seen.kp[:, 0] == 35.0)])  # whoever sends the policy's gains
    before = ours.time_ns < fault_ns
    assert before.any() and not ours.damping[before][-1], "it was not under way when the fault came"
    after = ~before
    first = int(np.argmax(after & ours.damping))
    delay_ms = (ours.time_ns[first] - fault_ns) / 1e6
    print(f"{name}: damping after {delay_ms:.1f} ms")
    record_property("damping_after_ms", round(float(delay_ms), 2))  # another process takes no numpy
    assert ours.damping[first] and delay_ms <= BOUND_MS
    assert ours.damping[first:].all()
    assert (ours.time_ns[-1] - ours.time_ns[first]) / 1e9 >= duration_s - 0.02
    assert np.diff(ours.time_ns[first:]).max() < 50e6
    return delay_ms


def test_low_state_freezes(emulator, wire, tmp_path, record_property):
    robot, session = walk(emulator, tmp_path)
    fault = emulator.ask("freeze")["time_ns"]
    finish(robot, session, "no LowState for 5[0-9] ms")
    check_damping(wire, fault, record_property, "LowState frozen")


def test_robot_tips_over(emulator, wire, tmp_path, record_property):
    robot, session = walk(emulator, tmp_path)
    fault = emulator.ask("tip")["time_ns"]
    finish(robot, session, "tilted by 1.5[0-9] rad")
    check_damping(wire, fault, record_property, "tipped over")


def test_remote_button(emulator, wire, tmp_path, record_property):
    robot, session = walk(emulator, tmp_path)
    fault = emulator.ask("press L2 B")["time_ns"]
    finish(robot, session, r"L2\+B on the remote")
    check_damping(wire, fault, record_property, "L2+B")


def test_one_button_alone_does_nothing(emulator, wire, tmp_path):
    robot, session = walk(emulator, tmp_path)
    emulator.ask("press L2 A")
    time.sleep(0.1)
    steps = session.step_count
    time.sleep(0.2)
    assert session.step_count > steps
    session.stop()
    robot.close()


def test_second_publisher(emulator, wire, tmp_path, record_property):
    robot, session = walk(emulator, tmp_path)
    fault = emulator.ask("intrude")["time_ns"]
    finish(robot, session, "other publisher")
    check_damping(wire, fault, record_property, "second publisher")


def test_hot_motor(emulator, wire, tmp_path, record_property):
    robot, session = walk(emulator, tmp_path)
    fault = emulator.ask("heat 90")["time_ns"]
    finish(robot, session, "FR_hip_joint has a motor of 90 C, limit 85 C")
    check_damping(wire, fault, record_property, "hot motor")


def test_fast_joint(emulator, wire, tmp_path, record_property):
    robot, session = walk(emulator, tmp_path)
    fault = emulator.ask("report dq 5 -40")["time_ns"]
    finish(robot, session, "FL_calf_joint turns at 3[1-9].[0-9] rad/s, limit 31.4 rad/s")
    check_damping(wire, fault, record_property, "fast joint")


def test_low_state_is_not_finite(emulator, wire, tmp_path, record_property):
    robot, session = walk(emulator, tmp_path)
    fault = emulator.ask("report q 4 nan")["time_ns"]
    finish(robot, session, "not finite")
    check_damping(wire, fault, record_property, "LowState not finite")


class Turning:
    """A policy that is well for 20 steps, then does something else."""

    def __init__(self, then):
        self.steps, self.then, self.fault_ns = 0, then, 0

    def __call__(self, observation):
        self.steps += 1
        if self.steps == 20:
            self.fault_ns = time.time_ns()
            return self.then(observation)
        return still(observation)


def raising(observation):
    raise ArithmeticError("the policy broke")


@pytest.mark.parametrize(
    "then, match",
    [
        pytest.param(raising, "the policy broke", id="raises"),
        pytest.param(lambda observation: np.full((1, 12), np.nan), "not finite", id="nan"),
        pytest.param(lambda observation: np.zeros((1, 11)), r"shape \(1, 11\)", id="shape"),
        pytest.param(
            lambda observation: time.sleep(0.4) or still(observation), "no policy step for 9[0-9] ms", id="stalls"
        ),
    ],
)
def test_policy_goes_wrong(emulator, wire, tmp_path, record_property, request, then, match):
    policy = Turning(then)
    robot, session = walk(emulator, tmp_path, policy)
    finish(robot, session, match)
    check_damping(wire, policy.fault_ns, record_property, f"policy {request.node.callspec.id}", duration_s=0.15)


def test_emulator_is_killed(tmp_path, record_property):
    with EmulatorProcess() as emulator:
        wire = Listener(emulator.domain)
        robot, session = walk(emulator, tmp_path)
        fault = time.time_ns()
        os.kill(emulator.process.pid, signal.SIGKILL)
        finish(robot, session, "no LowState")
        check_damping(wire, fault, record_property, "robot gone")


WALKER = textwrap.dedent("""
    import sys
    import numpy as np
    from rfx.drivers.go2.driver.driver import Go2
    from rfx.drivers.go2.rules.safety import SafetyLimits
    from rfx.drivers.session import Session

    def policy(observation):
        if session.step_count == 20:
            print("walking", flush=True)
        return np.zeros((1, 12), np.float32)

    robot = Go2(domain=int(sys.argv[1]), limits=SafetyLimits(stand_s=0.3, settle_s=0.1, damping_s=0.2), log_path=sys.argv[2])
    session = Session(robot, policy, warmup_s=0.0)
    with robot:
        session.run()
""")


@pytest.mark.e2e
@pytest.mark.parametrize(
    "number, reason",
    [
        (signal.SIGKILL, "the policy's process is gone"),
        (signal.SIGSTOP, "the policy's process was stopped"),
        (signal.SIGTERM, "the policy's process is gone"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_policy_process_gets_a_signal(emulator, wire, tmp_path, record_property, number, reason):
    """These leave it no say; Ctrl-C does (test_go2_deploy)."""
    process = subprocess.Popen(
        [sys.executable, "-c", WALKER, str(emulator.domain), str(tmp_path / "log.jsonl")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "walking\n"
    fault = time.time_ns()
    process.send_signal(number)
    time.sleep(0.7)
    check_damping(wire, fault, record_property, f"policy process, {number.name}", duration_s=0.15)
    if number == signal.SIGSTOP:
        process.kill()
    _, error = process.communicate(timeout=10.0)
    assert error.count("\n") == 1 and reason in error and str(tmp_path / "log.jsonl") in error
    assert (tmp_path / "log.jsonl").is_file()


def test_sender_is_terminated(emulator, wire, tmp_path, record_property):
    """The process that talks to the robot damps too before it goes."""
    robot, session = walk(emulator, tmp_path)
    fault = time.time_ns()
    robot._connection.process.send_signal(signal.SIGTERM)
    finish(robot, session, "SIGTERM")
    check_damping(wire, fault, record_property, "sender terminated")


SILENT, GONE = (
    "did not answer for [5-9][0-9] ms",
    "the guard process is gone",
)  # a killed one is silent until the system has taken it apart


@pytest.mark.parametrize(
    "number, match",
    [(signal.SIGSTOP, SILENT), (signal.SIGKILL, f"{GONE}|{SILENT}")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_guard_is_lost(emulator, wire, tmp_path, record_property, number, match):
    """Nobody would damp if the sender were lost next: it damps itself, and leaves no guard behind."""
    robot, session = walk(emulator, tmp_path)
    guard = int(
        Path(f"/proc/{robot._connection.process.pid}/task/{robot._connection.process.pid}/children").read_text()
    )
    fault = time.time_ns()
    os.kill(guard, number)
    finish(robot, session, match)
    check_damping(wire, fault, record_property, f"guard, {number.name}")
    assert not Path(f"/proc/{guard}").exists()


def test_a_fault_between_two_looks_at_the_robot_is_named(emulator, tmp_path, monkeypatch):
    """The sender damps whenever it must, also while a step is under way that has found it well."""
    with Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl") as robot:
        robot.reset()
        look, sender = robot._connected, robot._connection.process.pid

        def then_the_guard_goes():
            connection = look()
            monkeypatch.undo()
            os.kill(int(Path(f"/proc/{sender}/task/{sender}/children").read_text()), signal.SIGKILL)
            until_s = time.monotonic() + 3.0
            while connection.phase.name != "FAULT" and time.monotonic() < until_s:
                time.sleep(0.005)
            return connection

        monkeypatch.setattr(robot, "_connected", then_the_guard_goes)
        with pytest.raises(RuntimeError, match=f"damped: ({GONE}|.*{SILENT})"):
            robot.act(still(None))


def test_sender_is_stopped(emulator, wire, tmp_path, record_property):
    """The guard damps, the driver says so, and the sender is killed: it can never go on with stiff legs."""
    robot, session = walk(emulator, tmp_path)
    process, fault = robot._connection.process, time.time_ns()
    process.send_signal(signal.SIGSTOP)
    finish(robot, session, "stood still for [0-9]+ ms and was killed|sender was killed")
    assert process.poll() == -signal.SIGKILL
    time.sleep(0.4)
    seen = wire.take()
    stiff = np.flatnonzero(~seen.damping)
    assert (seen.time_ns[stiff[-1] + 1] - fault) / 1e6 <= BOUND_MS and seen.damping[stiff[-1] + 1 :].all()
    assert len(set(seen.writer[stiff[-1] + 1 :].tolist())) == 1, "the guard alone"


def test_sender_is_killed(emulator, wire, tmp_path, record_property):
    """Nothing that process could do about it: the guard, a process of its own, damps.

    It learns of it once the system has taken back the sender's memory, of which there is little: no 32 MB a core for
    numpy's OpenBLAS.
    """
    robot, session = walk(emulator, tmp_path)
    resident = int(
        re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{robot._connection.process.pid}/status").read_text())[1]
    )
    assert resident < 190_000
    fault = time.time_ns()
    robot._connection.process.send_signal(signal.SIGKILL)
    finish(robot, session, "sender was killed|stood still")
    time.sleep(0.4)
    seen = wire.take()
    sender = seen.writer[np.argmax(seen.kp[:, 0] == 35.0)]
    assert not seen.of(sender).damping[-1]
    guard = seen.of(seen.writer[-1])
    assert guard.writer[0] != sender and guard.damping.all()
    delay_ms = (guard.time_ns[0] - fault) / 1e6
    print(f"sender killed: damping after {delay_ms:.1f} ms")
    record_property("damping_after_ms", round(float(delay_ms), 2))
    assert 0.0 < delay_ms <= BOUND_MS
    assert (guard.time_ns[-1] - guard.time_ns[0]) / 1e9 >= LIMITS.damping_s - 0.02


def test_connecting_is_refused_while_another_publishes(emulator, wire, tmp_path):
    emulator.ask("again")
    emulator.ask("intrude")
    robot = Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl")
    with pytest.raises(ConnectionError, match="another publisher of rt/lowcmd"):
        robot.connect()
    seen = wire.take()
    assert len(set(seen.writer.tolist())) <= 2  # the sport controller, the intruder: never ours


def test_connecting_to_nobody_says_so(tmp_path):
    from go2_wire import free_domain

    with pytest.raises(ConnectionError, match="no LowState from the robot"):
        Go2(domain=free_domain(), log_path=tmp_path / "log.jsonl").connect()


def test_no_thread_is_left():
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("rfx-session", "rfx-go2"))]
