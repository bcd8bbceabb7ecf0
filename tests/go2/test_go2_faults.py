"""Every way in which a run can go wrong ends in damping on the wire, when exactly, and damping goes on for a while.

In virtual time (tests/virtual_go2.py): from the moment a fault is there to the first LowCmd that damps; every LowCmd
after it damps too. A tick of the sender comes every 2.5 ms, and LowState every 2 ms. Real processes and a real wire are
struck in tests/go2/test_go2_wire.py.
"""

import signal

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs the extra go2")

from virtual_go2 import BEAT_MS, QUICK, TICK_MS, VirtualGo2, still  # noqa: E402

from rfx.drivers.go2.rules.mailbox import Phase  # noqa: E402

LOOK_MS = 5.0  # the next LowState, and a tick after it


@pytest.fixture
def bench(tmp_path):
    with VirtualGo2(tmp_path) as bench:
        yield bench


@pytest.mark.parametrize(
    "command, reason, after_ms",
    [
        ("freeze", "no LowState for 5", (50.0 - 2.0, 50.0 + TICK_MS)),  # since the last one, up to 2 ms ago
        ("corrupt", "no intact LowState (2", (50.0 - 2.0, 50.0 + TICK_MS)),
        ("tip", "tilted by 1.5", (0.0, LOOK_MS)),
        ("press L2 B", "L2+B on the remote", (0.0, LOOK_MS)),
        ("intrude", "1 other publisher(s) of rt/lowcmd ('robot', process ", (0.0, TICK_MS)),
        ("heat 90", "FR_hip_joint has a motor of 90 C, limit 85 C", (0.0, LOOK_MS)),
        # 10 ms ln(40 / (40 - 31.4)), 31.4 rad/s being the limit
        ("report dq 5 -40", "FL_calf_joint turns at 3", (15.4, 15.4 + LOOK_MS)),
        ("report q 4 nan", "LowState's joint position is not finite", (0.0, LOOK_MS)),
        ("disorient", "quaternion has norm 0.00", (0.0, LOOK_MS)),
    ],
)
def test_what_the_robot_does(bench, command, reason, after_ms):
    robot, session = bench.walk()
    fault_s = bench.clock.now()
    bench.ask(command)
    assert reason in bench.finish(robot, session)
    assert after_ms[0] <= bench.wire.damps_ms(fault_s, QUICK.damping_s) <= after_ms[1]


def test_a_robot_that_is_gone(bench):
    robot, session = bench.walk()
    fault_s = bench.clock.now()
    bench.robot_process.kill()
    assert "no LowState" in bench.finish(robot, session)
    assert bench.wire.damps_ms(fault_s, QUICK.damping_s) == pytest.approx(50.0, abs=TICK_MS)


def test_one_button_alone_does_nothing(bench):
    robot, session = bench.walk()
    bench.ask("press L2 A")
    steps = session.step_count
    bench.clock.sleep(0.2)
    assert session.step_count == steps + 10
    session.stop()
    robot.close()


def raising(observation):
    raise ArithmeticError("the policy broke")


@pytest.mark.parametrize(
    "then, reason, after_ms",
    [
        pytest.param(raising, "the policy broke", 0.0, id="raises"),
        pytest.param(lambda observation: np.full((1, 12), np.nan), "not finite", 0.0, id="nan"),
        pytest.param(lambda observation: np.zeros((1, 11)), "shape (1, 11)", 0.0, id="shape"),
        # the step before it was 20 ms earlier, the limit is 90 ms
        pytest.param("late", "no policy step for 9", 70.0, id="late"),
    ],
)
def test_a_policy_that_goes_wrong(bench, then, reason, after_ms):
    faults_s = []

    def policy(observation):
        policy.steps += 1
        if policy.steps != 20:
            return still(observation)
        faults_s.append(bench.clock.now())
        if then == "late":
            bench.clock.sleep(0.4)
        return still(observation) if then == "late" else then(observation)

    policy.steps = 0
    robot, session = bench.walk(policy)
    assert reason in bench.finish(robot, session)
    assert after_ms <= bench.wire.damps_ms(faults_s[0], QUICK.damping_s) <= after_ms + TICK_MS


def test_a_policy_may_be_late_by_less(bench):
    """A step that takes 65 ms now and then comes 85 ms after the one before, of 90."""

    def policy(observation):
        policy.steps += 1
        if policy.steps % 20 == 0:
            bench.clock.sleep(0.065)
        return still(observation)

    policy.steps = 0
    robot, session = bench.walk(policy)
    bench.clock.sleep(1.5)
    assert session.is_running and session.stats.overruns >= 2
    session.stop()
    robot.close()


def test_a_slow_policy_lies_down(bench):
    """80 ms a step: the gait clock runs four times too slow.

    It ends by itself, on folded legs, and was never let go of.
    """
    robot, session = bench.walk(lambda observation: bench.clock.sleep(0.075) or still(observation))
    assert (
        "a policy step took 7" in (reason := bench.finish(robot, session))
        and "its control period is 20 ms: it lay down" in reason
    )
    assert bench.ask("pose")["position"][2] < 0.13


@pytest.mark.parametrize(
    "number, reason",
    [
        (signal.SIGKILL, "the policy's process is gone"),
        (signal.SIGTERM, "the policy's process is gone"),
        (signal.SIGSTOP, "the policy's process was stopped"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_policys_process_gets_a_signal(bench, number, reason):
    """These leave it no say; Ctrl-C does (test_go2_deploy). Its sender and guard do not outlive it for long."""
    process = bench.policy_process()
    bench.clock.wait_for(lambda: process.steps == 20)
    fault_s = bench.clock.now()
    process.strike(number)
    bench.clock.sleep(0.5)
    assert bench.wire.damps_ms(fault_s, QUICK.damping_s) <= TICK_MS
    assert process.robot._connection.reason == reason
    assert bench.sender.poll() == 0 and bench.guard.poll() == 0


@pytest.mark.parametrize(
    "target, number, reason, after_ms",
    [
        ("sender", signal.SIGTERM, "the sender was sent SIGTERM", (0.0, TICK_MS)),
        # of its last beat, up to 10 ms ago
        ("sender", signal.SIGSTOP, "sender stood still for|sender was killed", (40.0, 50.0)),
        ("sender", signal.SIGKILL, "sender was killed", (0.0, 0.1)),
        # of its last answer, asked for every 10 ms
        ("guard", signal.SIGSTOP, "did not answer for 5", (40.0, 50.0 + BEAT_MS + TICK_MS)),
        ("guard", signal.SIGKILL, "the guard process is gone", (0.0, BEAT_MS + TICK_MS)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_sender_or_its_guard_gets_a_signal(bench, target, number, reason, after_ms):
    """The guard damps for a sender that cannot, which never goes on; the sender damps when it has no guard."""
    robot, session = bench.walk()
    process, fault_s = getattr(bench, target), bench.clock.now()
    process.strike(number)
    said = bench.finish(robot, session)
    assert any(part in said for part in reason.split("|")), said
    assert after_ms[0] <= bench.wire.damps_ms(fault_s, QUICK.damping_s) <= after_ms[1]
    lost = target == "sender" and number != signal.SIGTERM
    assert bench.wire.writers(bench.wire.time_s[bench.wire.stiff[-1] + 1]) == ({"guard"} if lost else {"sender"})
    assert bench.sender.poll() == (-signal.SIGKILL if lost else 0) and bench.guard.poll() is not None, "none is left"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_guard_alone_damps_and_kills_a_sender_that_stands_still(bench, number):
    """The policy's process is struck at the same moment: nobody else could."""
    process = bench.policy_process()
    bench.clock.wait_for(lambda: process.steps == 20)
    fault_s = bench.clock.now()
    bench.sender.stop()
    process.strike(number)
    bench.clock.sleep(0.5)
    assert 40.0 <= bench.wire.damps_ms(fault_s, QUICK.damping_s) <= 50.0
    assert bench.sender.poll() == -signal.SIGKILL and bench.guard.poll() == 0


@pytest.mark.parametrize("away_s, goes_on", [(0.03, True), (0.2, False)])
def test_a_machine_that_stands_still(bench, away_s, goes_on):
    """All three processes at once, as when its host takes a virtual machine's cores away; the robot does not wait."""
    process = bench.policy_process(steps=40)
    bench.clock.wait_for(lambda: process.steps == 20)
    for one in (process, bench.sender, bench.guard):
        one.stop()
    bench.clock.sleep(away_s)
    for one in (process, bench.sender, bench.guard):
        one.resume()
    back_s = bench.clock.now()
    bench.clock.wait_for(lambda: process.poll() is not None, 10.0)
    assert goes_on == (process.steps == 40)
    if not goes_on:
        assert bench.wire.damps_ms(back_s, QUICK.damping_s) <= TICK_MS


def test_a_fault_between_two_looks_at_the_robot_is_named(bench, monkeypatch):
    """The sender damps whenever it must, also while a step is under way that has found it well."""
    with bench.go2() as robot:
        robot.reset()
        look = robot._connected

        def then_the_guard_goes():
            connection = look()
            monkeypatch.undo()
            bench.guard.kill()
            bench.clock.wait_for(lambda: connection.phase == Phase.FAULT)
            return connection

        monkeypatch.setattr(robot, "_connected", then_the_guard_goes)
        with pytest.raises(RuntimeError, match="damped: the guard process is gone"):
            robot.act(still(None))


def test_a_sender_that_stood_still_between_its_look_and_its_command_damps(bench, monkeypatch):
    """60 ms later the target is old, and what is sent damps. (Its guard stands still too, or would have killed it.)"""
    robot, session = bench.walk()
    from rfx.drivers.go2.rules.controller import Controller

    step = Controller.step

    def slow(*arguments):
        monkeypatch.undo()
        slow.began_s = bench.clock.now()
        bench.guard.stop()
        bench.clock.sleep(0.06)
        bench.guard.resume()
        return step(*arguments)

    monkeypatch.setattr(Controller, "step", slow)
    assert "the sender stood still for 60 ms" in bench.finish(robot, session)
    assert bench.wire.damps_ms(slow.began_s, QUICK.damping_s) == pytest.approx(60.0, abs=0.1)


def test_a_sender_that_fails_itself_damps(bench, monkeypatch):
    """Whatever that was: here its log has no memory left."""
    robot, session = bench.walk()
    fault_s = bench.clock.now()

    def broken(*arguments):
        raise MemoryError

    monkeypatch.setattr("rfx.drivers.go2.rules.log.Log.add", broken)
    assert "the sender failed: MemoryError()" in bench.finish(robot, session)
    assert bench.wire.damps_ms(fault_s, QUICK.damping_s) <= 2 * TICK_MS
    assert bench.wire.writers(fault_s) == {"sender"} and bench.sender.poll() == 0 and bench.guard.poll() == 0
