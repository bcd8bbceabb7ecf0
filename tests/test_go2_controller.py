"""What is commanded from tick to tick, in simulated time."""

import dataclasses

import numpy as np
import pytest

from rfx.robots.go2.config import GO2_CONFIG
from rfx.robots.go2.controller import Controller
from rfx.robots.go2.mailbox import Phase, Request
from rfx.robots.go2.safety import SafetyLimits
from test_go2_safety import FINE, one

LIMITS = SafetyLimits()
DEFAULT = GO2_CONFIG.default_position
LYING = np.tile(np.array([0.0, 1.36, -2.65], np.float32), 4)
TICK_S = 0.002


class Bench:
    """A controller that has damped for its first moment, whose robot follows perfectly, with a clock of its own."""

    def __init__(self, position=LYING, lead=True):
        self.controller, self.now_s, self.position = Controller(GO2_CONFIG, LIMITS), 50.0, position.copy()
        self.step_number, self.step_time_s, self.target = 0, 0.0, DEFAULT
        while lead and self.controller.phase == Phase.CONNECTING:
            self.tick(Request.IDLE)

    def tick(self, request=Request.STAND, **changes):
        self.now_s += TICK_S
        snapshot = dataclasses.replace(
            FINE, now_s=self.now_s, state_time_s=self.now_s, phase=self.controller.phase, phase_since_s=self.controller.phase_since_s,
            joint_position=self.position, policy_time_s=self.step_time_s, target=self.target, **changes)
        command = self.controller.step(snapshot, request, self.step_number)
        if command.kp[0] > 0.0:
            self.position = command.position.copy()
        return command

    def stand(self):
        while self.controller.phase != Phase.STANDING:
            self.tick(Request.STAND)

    def ask(self, target):
        self.step_number, self.step_time_s, self.target = self.step_number + 1, self.now_s, target


def is_damping(command) -> bool:
    return (command.kp == 0.0).all() and (command.kd == 2.0).all()


def test_it_damps_until_asked_to_stand():
    bench = Bench()
    assert all(is_damping(bench.tick(Request.IDLE)) for _ in range(10))
    assert is_damping(bench.tick(Request.POLICY)), "a policy step before standing moves nothing"


def test_it_damps_for_0_3_seconds_before_it_hears_a_request():
    """A robot that meets the writer late begins with damping, not in the middle of standing up."""
    for request in Request:
        bench = Bench(lead=False)
        commands = [bench.tick(request) for _ in range(151)]  # the first at 0 s, the last at 0.3 s
        assert all(map(is_damping, commands)) and bench.controller.phase == Phase.IDLE
        bench.tick(Request.STAND)
        assert bench.controller.phase == Phase.STANDING_UP


def test_what_is_wrong_in_the_first_moment_is_wrong():
    bench = Bench(lead=False)
    assert is_damping(bench.tick(Request.STAND)) and bench.controller.phase == Phase.CONNECTING
    bench.tick(Request.STAND, other_publishers=1)
    assert bench.controller.phase == Phase.FAULT


def test_standing_up_ramps_from_the_measured_pose_in_1_2_seconds():
    bench = Bench()
    commands = [bench.tick() for _ in range(650)]
    positions = np.array([command.position for command in commands])
    np.testing.assert_allclose(positions[0], LYING, atol=1e-6)
    np.testing.assert_allclose(positions[300], (LYING + DEFAULT) / 2, atol=2e-3)  # 0.6 s: half way
    np.testing.assert_allclose(positions[-1], DEFAULT, atol=1e-6)
    assert np.abs(np.diff(positions, axis=0)).max() <= 0.85 / 1.2 * TICK_S * 1.001  # the calf's 0.85 rad, evenly
    assert {(command.kp[0], command.kd[0]) for command in commands} == {(60.0, 5.0)}
    assert bench.controller.phase == Phase.STANDING


def test_standing_up_from_far_away_takes_longer():
    """A thigh 3 rad away from the default pose: 1.5 s at 2 rad/s."""
    bench = Bench(DEFAULT + one(7, 3.0))
    ticks = 0
    while bench.controller.phase != Phase.STANDING:
        bench.tick()
        ticks += 1
    assert ticks * TICK_S == pytest.approx(1.5, abs=0.005)


def test_standing_up_waits_for_rest_but_not_for_ever():
    bench, ticks = Bench(), 0
    while bench.controller.phase != Phase.STANDING:
        bench.tick(Request.STAND, joint_velocity=one(4, 0.5))
        ticks += 1
    assert ticks * TICK_S == pytest.approx(1.2 + 0.5, abs=0.005)


def test_policy_targets_are_interpolated_then_held():
    bench = Bench()
    bench.stand()
    bench.ask(DEFAULT + one(0, 0.1))
    hip = [bench.tick(Request.POLICY).position[0] for _ in range(10)]
    np.testing.assert_allclose(hip, [0.05] + [0.1] * 9, atol=1e-4)  # 4 ms at 2 ms a tick
    bench.ask(DEFAULT)
    command = bench.tick(Request.POLICY)
    assert (command.kp == 35.0).all() and (command.kd == 0.5).all()
    assert command.position[0] == pytest.approx(0.05, abs=1e-4) and bench.tick(Request.POLICY).position[0] == pytest.approx(0.0, abs=1e-4)


def test_a_violation_damps_for_good():
    bench = Bench()
    bench.stand()
    bench.ask(DEFAULT)
    bench.tick(Request.POLICY)
    assert is_damping(bench.tick(Request.POLICY, other_publishers=1))
    for request in Request:
        assert is_damping(bench.tick(request))
    assert bench.controller.phase == Phase.FAULT and "other publisher" in bench.controller.reason


def test_the_first_reason_stays():
    bench = Bench()
    bench.tick(Request.STAND, driver_alive=False)
    bench.tick(Request.STAND, other_publishers=1)
    bench.controller.fail(bench.now_s, "later")
    assert bench.controller.reason == "the policy's process is gone"


def test_stopping_damps_and_standing_up_again_works():
    bench = Bench()
    bench.stand()
    bench.ask(DEFAULT)
    bench.tick(Request.POLICY)
    assert is_damping(bench.tick(Request.IDLE))
    bench.position = LYING.copy()
    np.testing.assert_allclose(bench.tick(Request.STAND).position, LYING, atol=1e-6)
    bench.stand()


def test_a_silent_policy_is_damped():
    bench = Bench()
    bench.stand()
    bench.ask(DEFAULT)
    ticks = 0
    while not is_damping(bench.tick(Request.POLICY)):
        ticks += 1
    assert ticks * TICK_S == pytest.approx(0.09, abs=0.003)
