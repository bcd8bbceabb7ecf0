"""The control loop: order of calls, rate, statistics, and what happens when something fails."""

import threading
import time

import numpy as np
import pytest

import rfx
from rfx.drivers.session import Session


class Recorder:
    """A robot that writes down what is asked of it."""

    num_envs, state_dim, action_dim, max_state_dim, max_action_dim = 1, 2, 2, 4, 4

    def __init__(self, fail_at: int | None = None):
        self.calls, self.times, self.fail_at = [], [], fail_at

    def observe(self):
        self.calls.append("observe")
        return {"state": np.zeros((1, 4), np.float32)}

    def act(self, action):
        self.times.append(time.monotonic())
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
    assert isinstance(Recorder(), rfx.Robot)


def test_calls_come_in_order():
    robot = Recorder()
    Session(robot, still, rate_hz=200.0, warmup_s=0.0).run(0.025)
    assert robot.calls == ["reset", "observe"] + ["observe", "act"] * 5 + ["stop"]


def test_warm_up_calls_the_policy_without_acting():
    robot, asked = Recorder(), []

    def policy(observation):
        asked.append(len(robot.times))
        return still(observation)

    Session(robot, policy, rate_hz=100.0, warmup_s=0.1).run(0.02)
    assert 5 <= asked.count(0) <= 12 and len(robot.times) == 2


def test_rate_and_statistics():
    robot = Recorder()
    session = Session(robot, still, rate_hz=100.0, warmup_s=0.0)
    stats = session.run(0.5)
    assert stats.iterations == session.step_count == len(robot.times) == 50
    assert stats.target_period_s == pytest.approx(0.01)
    periods = np.diff(robot.times)
    assert stats.mean_period_s == pytest.approx(periods.mean(), abs=5e-4)
    assert 0.0 <= stats.p50_jitter_s <= stats.p95_jitter_s <= stats.p99_jitter_s <= stats.max_jitter_s
    assert stats.to_dict()["iterations"] == 50
    with pytest.raises(AttributeError):
        stats.iterations = 0


def test_deadlines_are_absolute():
    """Work of varying length moves no later step: the 30th comes 0.29 s after the first, give or take the work of 6
    ms.
    """
    robot, rng = Recorder(), np.random.default_rng(0)

    def policy(observation):
        time.sleep(rng.uniform(0.0, 0.006))
        return still(observation)

    Session(robot, policy, rate_hz=100.0, warmup_s=0.0).run(0.3)
    assert len(robot.times) == 30
    assert robot.times[-1] - robot.times[0] == pytest.approx(0.29, abs=0.012)


def test_overruns_are_counted_and_skipped():
    """One step of 35 ms at 100 Hz: three steps are missed, the rhythm stays."""
    robot, calls = Recorder(), iter(range(1000))

    def policy(observation):
        if next(calls) == 5:
            time.sleep(0.035)
        return still(observation)

    stats = Session(robot, policy, rate_hz=100.0, warmup_s=0.0).run(0.2)
    assert stats.overruns >= 1
    assert len(robot.times) <= 18
    assert stats.max_jitter_s > 0.02


def test_failure_in_the_robot_stops_it_and_is_raised():
    robot = Recorder(fail_at=3)
    with pytest.raises(RuntimeError, match="after 2 steps.*leg fell off") as raised:
        Session(robot, still, rate_hz=200.0, warmup_s=0.0).run(1.0)
    assert isinstance(raised.value.__cause__, ArithmeticError)
    assert robot.calls[-1] == "stop"


def test_failure_in_the_policy_in_the_background():
    robot = Recorder()

    def policy(observation):
        raise KeyError("no such key")

    session = Session(robot, policy, warmup_s=0.0)
    session.start()
    with pytest.raises(RuntimeError, match="no such key") as raised:
        session.stop()
    assert isinstance(raised.value.__cause__, KeyError)
    assert robot.calls[-1] == "stop" and not session.is_running
    session.stop()  # told once


def test_context_manager_runs_in_the_background():
    robot = Recorder()
    with Session(robot, still, rate_hz=200.0, warmup_s=0.0) as session:
        assert session.is_running and "rfx-session" in [thread.name for thread in threading.enumerate()]
        time.sleep(0.1)
    assert not session.is_running
    assert session.step_count == len(robot.times) > 5
    assert robot.calls[-1] == "stop"
    assert "rfx-session" not in [thread.name for thread in threading.enumerate()]


def test_leaving_the_context_raises_the_loops_error_but_not_over_the_callers():
    with pytest.raises(RuntimeError, match="leg fell off"):
        with Session(Recorder(fail_at=1), still, warmup_s=0.0) as session:
            while session.is_running:
                time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        with Session(Recorder(fail_at=1), still, warmup_s=0.0):
            time.sleep(0.1)
            raise ZeroDivisionError


def test_ctrl_c_stops_the_robot():
    robot = Recorder()

    def policy(observation):
        if len(robot.times) == 3:
            raise KeyboardInterrupt
        return still(observation)

    session = Session(robot, policy, rate_hz=200.0, warmup_s=0.0)
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
def test_a_robot_that_walks_brakes_before_a_planned_end(policy):
    """2 steps, then at 100 Hz for 0.05 s: 5 more, or 6 as the last begins at the end of it."""
    robot = Walker()
    try:
        Session(robot, policy, rate_hz=100.0, warmup_s=0.0).run(0.02 if policy is still else None)
    except KeyboardInterrupt:
        pass
    begin = robot.calls.index("brake")
    assert robot.calls[:begin].count("act") == 2 and 1 <= robot.calls[begin:].count("act") <= 6
    assert robot.calls.count("brake") == 1 and robot.calls[-2:] == ["act", "stop"] and "abort" not in robot.calls


def test_ctrl_c_while_it_brakes_aborts():
    robot = Walker()
    with pytest.raises(KeyboardInterrupt):
        Session(robot, interrupting(4, 5), rate_hz=100.0, warmup_s=0.0).run()
    assert robot.calls[-4:] == ["brake", "observe", "abort", "stop"]


def test_a_robot_that_never_walked_or_whose_policy_failed_does_not_brake():
    for policy, last in ((still, "stop"), (lambda observation: 1 / 0, "abort")):
        robot = Walker()
        try:
            Session(robot, policy, rate_hz=100.0, warmup_s=0.0).run(0.0)
        except RuntimeError:
            pass
        assert robot.calls[-1] == last and "brake" not in robot.calls


def test_a_session_runs_once_at_a_time_and_again_later():
    session = Session(Recorder(), still, rate_hz=200.0, warmup_s=0.0)
    with session, pytest.raises(RuntimeError, match="running already"):
        session.start()
    assert session.run(0.02).iterations == 4


@pytest.mark.parametrize("options", [{"rate_hz": 0.0}, {"rate_hz": float("nan")}, {"warmup_s": -1.0}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Session(Recorder(), still, **options)


def test_run_is_a_session():
    robot = Recorder()
    assert rfx.run(robot, still, 100.0, 0.05).iterations == 5
    assert robot.calls[-1] == "stop"


class Slow(Recorder):
    """A robot whose reset takes long, unless it is stopped."""

    def __init__(self):
        super().__init__()
        self.stopped = threading.Event()

    def reset(self):
        super().reset()
        if self.stopped.wait(60.0):
            raise RuntimeError("stopped before it stood")

    def stop(self):
        super().stop()
        self.stopped.set()


def test_stop_does_not_wait_for_a_reset():
    robot = Slow()
    session = Session(robot, still, warmup_s=0.0)
    session.start()
    while "reset" not in robot.calls:
        time.sleep(0.001)
    session.stop()  # raises nothing: it is what was asked for
    assert not session.is_running and robot.times == [] and robot.calls[-1] == "stop"


def test_a_reset_that_fails_of_itself_is_raised():
    robot = Slow()
    robot.stopped.set()
    with pytest.raises(RuntimeError, match="stopped before it stood"):
        Session(robot, still, warmup_s=0.0).run(1.0)


def test_an_error_aborts_where_a_robot_can_and_a_planned_end_does_not():
    class Aborting(Recorder):
        def abort(self):
            self.calls.append("abort")

    robot = Aborting(fail_at=2)
    with pytest.raises(RuntimeError, match="leg fell off"):
        Session(robot, still, rate_hz=200.0, warmup_s=0.0).run(1.0)
    assert robot.calls[-1] == "abort" and "stop" not in robot.calls
    robot = Aborting()
    Session(robot, still, rate_hz=200.0, warmup_s=0.0).run(0.02)
    assert robot.calls[-1] == "stop" and "abort" not in robot.calls
