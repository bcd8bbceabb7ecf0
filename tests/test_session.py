"""The control loop: order of calls, rate, statistics, and what happens when something fails."""

import threading
import time

import numpy as np
import pytest

import rfx
from rfx.robots.robot import Stopped
from rfx.session import Session


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
    """Work of varying length moves no later step: the 30th comes 0.29 s after the first, give or take the work of 6 ms."""
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
        assert session.is_running
        time.sleep(0.1)
    assert not session.is_running
    assert session.step_count == len(robot.times) > 5
    assert robot.calls[-1] == "stop"
    assert threading.active_count() < 10


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


def test_a_policy_that_is_steadily_too_slow_ends_the_session():
    """80 ms a step at 50 Hz: its gait would run four times too slow. It ends after a second, not after one late step."""
    robot = Recorder()

    def policy(observation):
        time.sleep(0.08)
        return still(observation)

    with pytest.raises(RuntimeError, match=r"made 1[0-3] steps in the last 1 s, expected 50"):
        Session(robot, policy, warmup_s=0.0).run(10.0)
    assert 10 <= len(robot.times) <= 16 and robot.calls[-1] == "stop"


def test_a_simulation_may_be_slow():
    def policy(observation):
        time.sleep(0.08)
        return still(observation)

    assert Session(Recorder(), policy, warmup_s=0.0, min_rate_share=0.0).run(1.5).iterations < 25
    with pytest.raises(ValueError, match="min_rate_share"):
        Session(Recorder(), still, min_rate_share=1.5)


class Slow(Recorder):
    """A robot that takes a minute to stand up, unless it is stopped."""

    def __init__(self):
        super().__init__()
        self.stopped = threading.Event()

    def reset(self):
        self.calls.append("reset")
        if self.stopped.wait(60.0):
            raise Stopped("stopped meanwhile")

    def stop(self):
        self.stopped.set()
        super().stop()


def test_stop_does_not_wait_for_the_robot_to_stand_up():
    robot = Slow()
    session = Session(robot, still, warmup_s=0.0)
    session.start()
    while "reset" not in robot.calls:
        time.sleep(0.001)
    asked_s = time.monotonic()
    session.stop()
    assert time.monotonic() - asked_s < 30.0 and not session.is_running
    assert set(robot.calls) == {"reset", "stop"}


class Careful(Recorder):
    """A robot that takes its time to come to rest, and has a way to be damped at once."""

    def damp(self):
        self.calls.append("damp")


def test_a_planned_end_stops_and_a_failure_damps():
    robot = Careful()
    Session(robot, still, rate_hz=200.0, warmup_s=0.0).run(0.02)
    assert robot.calls[-1] == "stop" and "damp" not in robot.calls

    def policy(observation):
        if len(robot.times) == 3:
            raise KeyboardInterrupt
        return still(observation)

    robot = Careful()
    with pytest.raises(KeyboardInterrupt):
        Session(robot, policy, rate_hz=200.0, warmup_s=0.0).run(1.0)
    assert robot.calls[-1] == "stop" and "damp" not in robot.calls
    robot = Careful(fail_at=2)
    with pytest.raises(RuntimeError, match="leg fell off"):
        Session(robot, still, rate_hz=200.0, warmup_s=0.0).run(1.0)
    assert robot.calls[-1] == "damp" and "stop" not in robot.calls


def test_until_and_finish():
    """It ends when a condition is true, in the way that it is told to; a failure damps all the same."""
    robot, finished = Careful(), []
    Session(robot, still, rate_hz=200.0, warmup_s=0.0).run(until=lambda: len(robot.times) == 4, finish=lambda: finished.append(1))
    assert len(robot.times) == 4 and finished == [1] and "stop" not in robot.calls
    robot = Careful(fail_at=2)
    with pytest.raises(RuntimeError, match="leg fell off"):
        Session(robot, still, rate_hz=200.0, warmup_s=0.0).run(finish=lambda: finished.append(2))
    assert finished == [1] and robot.calls[-1] == "damp"


def test_commands_are_limited_before_anybody_sees_them():
    """A thread that looks all the time never sees more than the limit: 1.0, 0.4 m/s, 0.8 rad/s."""
    robot, seen, done = rfx.SimRobot(), set(), threading.Event()

    def look():
        while not done.is_set():
            seen.update(robot.state.velocity_command[0].tolist())

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(2000):
        robot.command(9.0, -9.0, 9.0)
        robot.command(0.0, 0.0, 0.0)
    done.set()
    thread.join()
    assert max(map(abs, seen)) <= 1.0
    robot.command(9.0, -9.0, -9.0)
    np.testing.assert_allclose(robot.state.velocity_command[0], [1.0, -0.4, -0.8])
