"""Every way in which a run can go wrong ends in damping on the wire within 100 ms, and damping goes on for a while.

Times are the wire's: from the moment a fault is there to the first LowCmd that damps, and every LowCmd after it damps too.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from go2_wire import ROOT, EmulatorProcess, Listener, Wire, children, wait_until_gone
from rfx.robots.go2 import Go2, SafetyLimits
from rfx.robots.go2.safety import LYING
from rfx.session import Session

pytest.importorskip("cyclonedds", reason="needs the extra go2")
BOUND_MS = 100.0
LIMITS = SafetyLimits(stand_s=0.3, settle_s=0.3, lie_s=0.4, damping_s=0.2)


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
    """From the fault on: damping within the bound, nothing but damping afterwards, for long enough. Returns the delay in ms."""
    seen = wire.take()
    ours = seen.of(seen.writer[np.argmax(seen.kp[:, 0] == 35.0)])  # whoever sends the policy's gains
    before = ours.time_ns < fault_ns
    assert before.any() and not ours.damping[before][-1], "it was not under way when the fault came"
    after = ~before
    first = int(np.argmax(after & ours.damping))
    delay_ms = (ours.time_ns[first] - fault_ns) / 1e6
    print(f"{name}: damping after {delay_ms:.1f} ms")
    record_property("damping_after_ms", round(delay_ms, 2))
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


@pytest.mark.parametrize("then, match", [
    pytest.param(raising, "the policy broke", id="raises"),
    pytest.param(lambda observation: np.full((1, 12), np.nan), "not finite", id="nan"),
    pytest.param(lambda observation: np.zeros((1, 11)), r"shape \(1, 11\)", id="shape"),
    pytest.param(lambda observation: time.sleep(0.4) or still(observation), "no policy step for 9[0-9] ms", id="stalls"),
])
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
    from rfx.robots.go2 import Go2, SafetyLimits
    from rfx.session import Session

    def policy(observation):
        if session.step_count == 20:
            print("walking", flush=True)
        return np.zeros((1, 12), np.float32)

    robot = Go2(domain=int(sys.argv[1]), limits=SafetyLimits(stand_s=0.3, settle_s=0.3, lie_s=0.4, damping_s=0.2), log_path=sys.argv[2])
    session = Session(robot, policy, warmup_s=0.0)
    with robot:
        session.run()
""")


@pytest.mark.parametrize("number, reason", [
    (signal.SIGKILL, "the policy's process is gone"), (signal.SIGSTOP, "no policy step"), (signal.SIGTERM, "the policy's process is gone")],
    ids=lambda value: getattr(value, "name", ""))
def test_policy_process_gets_a_signal(emulator, wire, tmp_path, record_property, number, reason):
    """All of them leave it no say."""
    process = subprocess.Popen([sys.executable, "-c", WALKER, str(emulator.domain), str(tmp_path / "log.jsonl")], cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
    robot._process.send_signal(signal.SIGTERM)
    finish(robot, session, "SIGTERM")
    check_damping(wire, fault, record_property, "sender terminated")


def check_guard_damps(wire, fault_ns: int, record_property, name: str) -> None:
    """The sender's commands end, those of another writer begin within the bound and all damp, for long enough."""
    deadline = time.monotonic() + 5.0
    seen = []
    while not seen or time.monotonic() < deadline and (len({w for part in seen for w in part.writer.tolist()}) < 2
                                                       or (time.time_ns() - seen[-1].time_ns[-1]) < 50e6):
        part = wire.take()
        seen += [part] * (len(part.writer) > 0)
        time.sleep(0.02)
    seen = Wire(**{key: np.concatenate([getattr(part, key) for part in seen]) for key in vars(seen[0])})
    sender = seen.writer[np.argmax(seen.kp[:, 0] == 35.0)]
    own = seen.of(sender)
    assert not own.damping[-1] and (own.time_ns[-1] - fault_ns) < 5e6, "it says nothing more after the fault"
    guard = seen.of(seen.writer[-1])
    assert guard.writer[0] != sender and guard.damping.all()
    delay_ms = (guard.time_ns[0] - fault_ns) / 1e6
    print(f"{name}: damping after {delay_ms:.1f} ms")
    record_property("damping_after_ms", round(delay_ms, 2))
    assert 0.0 < delay_ms <= BOUND_MS
    assert (guard.time_ns[-1] - guard.time_ns[0]) / 1e9 >= LIMITS.damping_s - 0.02


def test_sender_is_killed(emulator, wire, tmp_path, record_property):
    """Nothing that process could do about it: the guard, a process of its own, damps."""
    robot, session = walk(emulator, tmp_path)
    guards = children(robot._process.pid)
    fault = time.time_ns()
    robot._process.send_signal(signal.SIGKILL)
    finish(robot, session, "sender ended with status -9")
    check_guard_damps(wire, fault, record_property, "sender killed")
    wait_until_gone(guards)


def test_sender_is_stopped(emulator, wire, tmp_path, record_property):
    """A debugger, a swap, a blocked write: its silence lasts 50 ms, then the guard kills it, so that it never goes on, and damps."""
    robot, session = walk(emulator, tmp_path)
    sender, guards = robot._process, children(robot._process.pid)
    fault = time.time_ns()
    sender.send_signal(signal.SIGSTOP)
    finish(robot, session, "sender ended with status -9|no sign of life from the Go2's sender")
    check_guard_damps(wire, fault, record_property, "sender stopped")
    assert sender.returncode == -9
    wait_until_gone(guards)


def test_sender_and_guard_are_stopped(emulator, wire, tmp_path):
    """The driver notices too: it raises, and kills the sender. A guard that goes on finds it gone and damps."""
    robot, session = walk(emulator, tmp_path)
    sender, (guard,) = robot._process, children(robot._process.pid)
    os.kill(guard, signal.SIGSTOP)
    sender.send_signal(signal.SIGSTOP)
    reason = finish(robot, session, "no sign of life from the Go2's sender for [0-9]+ ms: it was killed")
    assert 50 <= int(re.search("for ([0-9]+) ms", reason)[1]) < 1000 and sender.returncode == -9
    wire.take()
    os.kill(guard, signal.SIGCONT)
    wait_until_gone([guard])
    assert wire.take().damping.all()


@pytest.mark.parametrize("number, reason", [(signal.SIGKILL, "the guard process is gone"), (signal.SIGSTOP, "no sign of life from the guard process")])
def test_guard_fails(emulator, wire, tmp_path, record_property, number, reason):
    """Without a guard nobody would damp if the sender were killed: the sender does not go on."""
    robot, session = walk(emulator, tmp_path)
    guard, = children(robot._process.pid)
    fault = time.time_ns()
    os.kill(guard, number)
    finish(robot, session, reason)
    check_damping(wire, fault, record_property, f"guard, {number.name}")
    wait_until_gone([guard])


def test_policy_process_ends_while_everything_stands_still(emulator, wire, tmp_path):
    """SIGKILL of the policy's process with the sender stopped: neither stays."""
    process = subprocess.Popen([sys.executable, "-c", WALKER, str(emulator.domain), str(tmp_path / "log.jsonl")], cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline() == "walking\n"
    sender, = children(process.pid)
    guards = children(sender)
    os.kill(sender, signal.SIGSTOP)
    process.kill()
    process.wait()
    wait_until_gone([sender, *guards])
    process.stdout.close()
    assert len(guards) == 1 and wire.take().damping[-1]


def heights(emulator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) and heights (m) of the base, as often as the emulator answers."""
    times, values, end = [], [], time.monotonic() + seconds
    while time.monotonic() < end:
        answer = emulator.ask("pose")
        times.append(answer["time_ns"] / 1e9), values.append(answer["position"][2])
        time.sleep(0.005)
    return np.array(times), np.array(values)


@pytest.mark.parametrize("end", ["SIGINT", "stop", "duration"])
def test_a_planned_end_is_no_fall(emulator, wire, tmp_path, record_property, end):
    """Ctrl-C, stop() and the end of a duration: it lies down, no faster than 0.3 m/s, and only then its legs go limp."""
    limits, ended = SafetyLimits(stand_s=0.3, settle_s=0.3, damping_s=0.2), None
    if end == "SIGINT":
        script = WALKER.replace("lie_s=0.4, ", "")
        ended = subprocess.Popen([sys.executable, "-c", script, str(emulator.domain), str(tmp_path / "log.jsonl")], cwd=ROOT,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert ended.stdout.readline() == "walking\n"
        ended.send_signal(signal.SIGINT)
    else:
        robot = Go2(domain=emulator.domain, limits=limits, log_path=tmp_path / "log.jsonl")
        session = Session(robot, still, warmup_s=0.0)
        robot.connect()
        thread = threading.Thread(target=session.run, args=(0.5 if end == "duration" else None,))
        thread.start()
        deadline = time.monotonic() + 20.0
        while session.step_count < 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if end == "stop":
            session.stop()  # from another thread: the loop's own ends it
    times, height = heights(emulator, 4.0)
    drop = -(height[10:] - height[:-10]) / (times[10:] - times[:-10])  # over some 60 ms
    print(f"{end}: from {height[0]:.3f} to {height[-1]:.3f} m, at most {drop.max():.3f} m/s")
    record_property("drop_m_s", round(float(drop.max()), 3))
    assert height[0] > 0.2 and height[-1] < 0.12 and drop.max() < 0.3
    if ended is not None:
        assert "KeyboardInterrupt" in ended.communicate(timeout=10.0)[1]
    else:
        thread.join()
        robot.close()
    seen = wire.take()
    ours = seen.of(seen.writer[np.argmax(seen.kp[:, 0] == 35.0)])
    last_stiff = int(np.flatnonzero(ours.kp[:, 0] > 0.0)[-1])
    assert ours.kp[last_stiff, 0] == 60.0 and ours.damping[last_stiff + 1:].all() and len(ours.kp) - last_stiff > 50
    np.testing.assert_allclose(ours.q[last_stiff, :12], LYING, atol=0.02)


def test_session_stop_while_it_stands_up_lies_it_down_at_once(emulator, wire, tmp_path):
    """Standing up would take 20 s; after half a second of it, stop() has it lying within the 0.4 s that lying down takes, and some."""
    robot = Go2(domain=emulator.domain, limits=SafetyLimits(stand_s=20.0, lie_s=0.4, damping_s=0.2), log_path=tmp_path / "log.jsonl")
    session = Session(robot, still, warmup_s=0.0)
    robot.connect()
    session.start()
    wire_kp, deadline = 0.0, time.monotonic() + 10.0
    while wire_kp == 0.0 and time.monotonic() < deadline:
        seen = wire.take()
        wire_kp = seen.kp[-1, 0] if len(seen.kp) else 0.0
        time.sleep(0.02)
    time.sleep(0.5)
    asked_ns = time.time_ns()
    session.stop()
    assert not session.is_running and session.step_count == 0
    robot.close()
    seen = wire.take()
    last_stiff_ns = seen.time_ns[seen.kp[:, 0] > 0.0][-1]
    assert (last_stiff_ns - asked_ns) / 1e9 == pytest.approx(0.4, abs=0.15)
    assert seen.damping[-1]


def test_session_stop_while_it_connects_gives_up_at_once_and_leaves_nothing_behind(emulator, wire, tmp_path):
    emulator.ask("again")
    emulator.ask("fail hung motion_switcher")
    robot = Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl")
    session = Session(robot, still, warmup_s=0.0)
    session.start()
    deadline = time.monotonic() + 10.0
    while robot._process is None or not children(robot._process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sender = robot._process.pid
    processes = [sender, *children(sender)]
    time.sleep(0.5)
    asked_s = time.monotonic()
    session.stop()
    assert time.monotonic() - asked_s < 5.0, "not the 60 s that it may take to be released"
    wait_until_gone(processes)
    assert len(set(wire.take().writer.tolist())) == 1, "only the sport controller has spoken"


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_nothing_stays_when_the_sender_fails_while_connecting(emulator, tmp_path, number):
    emulator.ask("again")
    emulator.ask("fail hung motion_switcher")
    robot = Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl")
    session = Session(robot, still, warmup_s=0.0)
    session.start()
    deadline = time.monotonic() + 10.0
    while robot._process is None or not children(robot._process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sender = robot._process.pid
    guards = children(sender)
    time.sleep(1.0)
    os.kill(sender, number)
    while session.is_running:
        assert time.monotonic() < deadline + 20.0
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="the sender did not connect"):
        session.stop()
    wait_until_gone([sender, *guards])


def test_a_second_fault_keeps_the_log_of_the_first(emulator, tmp_path):
    robot, session = walk(emulator, tmp_path, Turning(raising))
    finish(robot, session, "the policy broke")
    first = (tmp_path / "log.jsonl").read_bytes()
    session = Session(robot, Turning(lambda observation: np.full((1, 12), np.nan)), warmup_s=0.0)
    session.start()
    reason = finish_when_over(robot, session)
    assert "not finite" in reason and "log-2.jsonl" in str(robot.log_path)
    assert (tmp_path / "log.jsonl").read_bytes() == first
    assert b"not finite" in (tmp_path / "log-2.jsonl").read_bytes().splitlines()[0]


def finish_when_over(robot, session) -> str:
    """Wait until the session has failed. Returns the reason."""
    deadline = time.monotonic() + 20.0
    while session.is_running and time.monotonic() < deadline:
        time.sleep(0.01)
    return finish(robot, session, "")


def test_connecting_is_refused_while_another_publishes(emulator, wire, tmp_path):
    emulator.ask("again")
    emulator.ask("intrude")
    robot = Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl")
    with pytest.raises(ConnectionError, match=rf"another publisher of rt/lowcmd is there \(python.*, process {emulator.process.pid} on .*"
                                              r"tolerate it with --silent-publishers 1; the robot was left without its own controller, 'normal'"):
        robot.connect()
    seen = wire.take()
    assert len(set(seen.writer.tolist())) <= 2  # the sport controller, the intruder: never ours


def test_connecting_to_nobody_says_so(tmp_path):
    from go2_wire import free_domain

    with pytest.raises(ConnectionError, match="no LowState from the robot"):
        Go2(domain=free_domain(), log_path=tmp_path / "log.jsonl").connect()


def test_no_thread_is_left():
    assert threading.active_count() < 10
