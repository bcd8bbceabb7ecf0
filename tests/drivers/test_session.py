"""The control loop in virtual time: order of calls, rate, statistics, and what happens when something fails."""

import threading

import numpy as np
import pytest
from virtual_clock import VirtualClock

import rfx
from rfx.drivers.session import Session


@pytest.fixture
def clock():
    with VirtualClock() as clock:
        yield clock


class Recorder:
    """A robot that writes down what is asked of it."""

    num_envs, state_dim, action_dim, max_state_dim, max_action_dim = 1, 2, 2, 4, 4

    def __init__(self, clock, fail_at: int | None = None):
        self.clock, self.calls, self.times, self.fail_at = clock, [], [], fail_at

    def observe(self):
        self.calls.append("observe")
        return {"state": np.zeros((1, 4), np.float32)}

    def act(self, action):
        self.times.append(self.clock.now())
        self.calls.append("act")
        if len(self.times) == self.fail_at:
            raise ArithmeticError("leg fell off")

    def reset(self):
        self.calls.append("reset")

    def command(self, vx, vy, yaw_rate):
        self.calls.append("command")

    def stop(self):
        self.calls.append("stop")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop()


def still(observation):
    return np.zeros((1, 2), np.float32)


def test_recorder_is_a_robot():
    assert isinstance(Recorder(None), rfx.Robot)


def test_calls_come_in_order(clock):
    robot = Recorder(clock)
    Session(robot, still, rate_hz=200.0, warmup_s=0.0, clock=clock).run(0.025)
    assert robot.calls == ["reset", "observe"] + ["observe", "act"] * 5 + ["stop"]


def test_warm_up_calls_the_policy_without_acting(clock):
    robot, asked = Recorder(clock), []

    def policy(observation):
        asked.append(len(robot.times))
        return still(observation)

    Session(robot, policy, rate_hz=100.0, warmup_s=0.095, clock=clock).run(0.02)
    assert asked.count(0) == 11 + 1 and len(robot.times) == 2  # from 0 to 0.1 s; and the first step's own


def test_rate_and_statistics(clock):
    robot = Recorder(clock)
    session = Session(robot, still, rate_hz=100.0, warmup_s=0.0, clock=clock)
    stats = session.run(0.5)
    assert stats.iterations == session.step_count == len(robot.times) == 50
    assert stats.target_period_s == pytest.approx(0.01)
    periods = np.diff(robot.times)
    assert stats.mean_period_s == pytest.approx(periods.mean()) == pytest.approx(0.01)
    assert stats.overruns == 0 and stats.max_jitter_s < 1e-9
    assert stats.to_dict()["iterations"] == 50
    with pytest.raises(AttributeError):
        stats.iterations = 0


def test_deadlines_are_absolute(clock):
    """Work of varying length moves no later step: the 30th comes 0.29 s after the first, give or take the work of the
    two.
    """
    robot, works_s = Recorder(clock), np.random.default_rng(0).uniform(0.0, 0.006, 31)

    def policy(observation):
        clock.sleep(works_s[len(robot.times)])
        return still(observation)

    Session(robot, policy, rate_hz=100.0, warmup_s=0.0, clock=clock).run(0.3)
    assert robot.times - works_s[:30] == pytest.approx(robot.times[0] - works_s[0] + 0.01 * np.arange(30))


def test_overruns_are_counted_and_skipped(clock):
    """One step of 35 ms at 100 Hz: the next is late, two more are left out, and the rhythm stays."""
    robot, calls = Recorder(clock), iter(range(1000))

    def policy(observation):
        if next(calls) == 5:
            clock.sleep(0.035)
        return still(observation)

    stats = Session(robot, policy, rate_hz=100.0, warmup_s=0.0, clock=clock).run(0.2)
    assert stats.overruns == 1
    assert len(robot.times) == 18
    assert stats.max_jitter_s > 0.02


def test_failure_in_the_robot_stops_it_and_is_raised(clock):
    robot = Recorder(clock, fail_at=3)
    with pytest.raises(RuntimeError, match="after 2 steps.*leg fell off") as raised:
        Session(robot, still, rate_hz=200.0, warmup_s=0.0, clock=clock).run(1.0)
    assert isinstance(raised.value.__cause__, ArithmeticError)
    assert robot.calls[-1] == "stop"


def test_failure_in_the_policy_in_the_background(clock):
    robot = Recorder(clock)

    def policy(observation):
        raise KeyError("no such key")

    session = Session(robot, policy, warmup_s=0.0, clock=clock)
    session.start()
    clock.wait_for(lambda: not session.is_running)
    with pytest.raises(RuntimeError, match="no such key") as raised:
        session.stop()
    assert isinstance(raised.value.__cause__, KeyError)
    assert robot.calls[-1] == "stop" and not session.is_running
    session.stop()  # told once


def test_context_manager_runs_in_the_background(clock):
    robot = Recorder(clock)
    with Session(robot, still, rate_hz=200.0, warmup_s=0.0, clock=clock) as session:
        assert session.is_running and "rfx-session" in [thread.name for thread in threading.enumerate()]
        clock.sleep(0.0975)
    assert not session.is_running
    assert session.step_count == len(robot.times) == 20
    assert robot.calls[-1] == "stop"
    assert "rfx-session" not in [thread.name for thread in threading.enumerate()]


def test_leaving_the_context_raises_the_loops_error_but_not_over_the_callers(clock):
    with pytest.raises(RuntimeError, match="leg fell off"):
        with Session(Recorder(clock, fail_at=1), still, warmup_s=0.0, clock=clock) as session:
            clock.wait_for(lambda: not session.is_running)
    with pytest.raises(ZeroDivisionError):
        with Session(Recorder(clock, fail_at=1), still, warmup_s=0.0, clock=clock):
            clock.sleep(0.1)
            raise ZeroDivisionError


def test_ctrl_c_stops_the_robot(clock):
    robot = Recorder(clock)

    def policy(observation):
        if len(robot.times) == 3:
            raise KeyboardInterrupt
        return still(observation)

    session = Session(robot, policy, rate_hz=200.0, warmup_s=0.0, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        session.run(1.0)
    assert robot.calls[-1] == "stop" and not session.is_running


class Walker(Recorder):
    """One that needs 0.05 s to brake, and can be aborted."""

    def brake(self):
        self.calls.append("brake")
        return 0.05

    def abort(self):
        self.calls.append("abort")


def interrupting(*numbers: int):
    """A policy that presses Ctrl-C at these calls."""

    def policy(observation):
        policy.calls += 1
        if policy.calls in numbers:
            raise KeyboardInterrupt
        return still(observation)

    policy.calls = 0
    return policy


@pytest.mark.parametrize("policy", [still, interrupting(4)], ids=["time is up", "ctrl-c"])
def test_a_robot_that_walks_brakes_before_a_planned_end(clock, policy):
    """2 steps, then at 100 Hz for 0.05 s: 5 more."""
    robot = Walker(clock)
    try:
        Session(robot, policy, rate_hz=100.0, warmup_s=0.0, clock=clock).run(0.02 if policy is still else None)
    except KeyboardInterrupt:
        pass
    begin = robot.calls.index("brake")
    assert robot.calls[:begin].count("act") == 2 and robot.calls[begin:].count("act") == 5
    assert robot.calls.count("brake") == 1 and robot.calls[-2:] == ["act", "stop"] and "abort" not in robot.calls


def test_ctrl_c_while_it_brakes_aborts(clock):
    robot = Walker(clock)
    with pytest.raises(KeyboardInterrupt):
        Session(robot, interrupting(4, 5), rate_hz=100.0, warmup_s=0.0, clock=clock).run()
    assert robot.calls[-4:] == ["brake", "observe", "abort", "stop"]


def test_a_robot_that_never_walked_or_whose_policy_failed_does_not_brake(clock):
    for policy, last in ((still, "stop"), (lambda observation: 1 / 0, "abort")):
        robot = Walker(clock)
        try:
            Session(robot, policy, rate_hz=100.0, warmup_s=0.0, clock=clock).run(0.0)
        except RuntimeError:
            pass
        assert robot.calls[-1] == last and "brake" not in robot.calls


def test_a_session_runs_once_at_a_time_and_again_later(clock):
    session = Session(Recorder(clock), still, rate_hz=200.0, warmup_s=0.0, clock=clock)
    with session, pytest.raises(RuntimeError, match="running already"):
        session.start()
    assert session.run(0.02).iterations == 4


@pytest.mark.parametrize("options", [{"rate_hz": 0.0}, {"rate_hz": float("nan")}, {"warmup_s": -1.0}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Session(Recorder(clock), still, **options, clock=clock)


def test_run_is_a_session(clock):
    robot = Recorder(clock)
    assert rfx.run(robot, still, 100.0, 0.05, clock=clock).iterations == 5
    assert robot.calls[-1] == "stop"


class Slow(Recorder):
    """A robot whose reset takes long, unless it is stopped."""

    is_stopped = False

    def reset(self):
        super().reset()
        if self.clock.wait(lambda: self.is_stopped, self.clock.now() + 60.0):
            raise RuntimeError("stopped before it stood")

    def stop(self):
        super().stop()
        self.is_stopped = True


def test_stop_does_not_wait_for_a_reset(clock):
    robot = Slow(clock)
    session = Session(robot, still, warmup_s=0.0, clock=clock)
    session.start()
    clock.wait_for(lambda: "reset" in robot.calls)
    session.stop()  # raises nothing: it is what was asked for
    assert not session.is_running and robot.times == [] and robot.calls[-1] == "stop"


def test_a_reset_that_fails_of_itself_is_raised(clock):
    robot = Slow(clock)
    robot.is_stopped = True
    with pytest.raises(RuntimeError, match="stopped before it stood"):
        Session(robot, still, warmup_s=0.0, clock=clock).run(1.0)


def test_an_error_aborts_where_a_robot_can_and_a_planned_end_does_not(clock):
    class Aborting(Recorder):
        def abort(self):
            self.calls.append("abort")

    robot = Aborting(clock, fail_at=2)
    with pytest.raises(RuntimeError, match="leg fell off"):
        Session(robot, still, rate_hz=200.0, warmup_s=0.0, clock=clock).run(1.0)
    assert robot.calls[-1] == "abort" and "stop" not in robot.calls
    robot = Aborting(clock)
    Session(robot, still, rate_hz=200.0, warmup_s=0.0, clock=clock).run(0.02)
    assert robot.calls[-1] == "stop" and "abort" not in robot.calls
