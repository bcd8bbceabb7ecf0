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
    """A controller that has damped for its first moment, whose robot follows perfectly (unless told), with a clock of its own."""

    def __init__(self, position=LYING, lead=True):
        self.follows = True
        self.controller, self.now_s, self.position = Controller(GO2_CONFIG, LIMITS), 50.0, position.copy()
        self.step_number, self.step_time_s, self.target = 0, 0.0, DEFAULT
        self.last_request, self.asked_s = None, 0.0
        while lead and self.controller.phase == Phase.CONNECTING:
            self.tick(Request.IDLE)

    def tick(self, request=Request.STAND, **changes):
        self.now_s += TICK_S
        if request != self.last_request:  # as the driver does, whose last request stays where it is
            self.last_request, self.asked_s = request, self.now_s
        snapshot = dataclasses.replace(
            FINE, now_s=self.now_s, state_time_s=self.now_s - changes.pop("age_s", 0.0), phase=self.controller.phase, phase_since_s=self.controller.phase_since_s,
            joint_position=self.position, request_time_s=self.asked_s, policy_time_s=self.step_time_s, target=self.target, **changes)
        command = self.controller.step(snapshot, request, self.step_number)
        if command.kp[0] > 0.0 and self.follows:
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


def test_damping_on_request_is_at_once_and_standing_up_again_works():
    bench = Bench()
    bench.stand()
    bench.ask(DEFAULT)
    bench.tick(Request.POLICY)
    assert is_damping(bench.tick(Request.DAMP)) and bench.controller.phase == Phase.IDLE
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


@pytest.mark.parametrize("request_", [Request.IDLE, Request.CLOSE])
def test_a_planned_end_goes_to_the_default_pose_lies_down_and_damps(request_):
    """From mid-stride: 0.4 s to the default pose, 1.5 s down, then no stiffness. 2 ms a tick."""
    bench = Bench()
    bench.stand()
    bench.ask(DEFAULT + one(1, 0.4))
    for _ in range(20):
        bench.tick(Request.POLICY)
    commands = [bench.tick(request_) for _ in range(960)]
    positions = np.array([command.position for command in commands])
    stiff = np.array([command.kp[0] for command in commands])
    assert (stiff[:950] == 60.0).all() and is_damping(commands[-1]) and bench.controller.phase == Phase.IDLE
    np.testing.assert_allclose(positions[100, 1], 0.9 + 0.2, atol=5e-3)  # half way back after 0.2 s
    np.testing.assert_allclose(positions[200], DEFAULT, atol=5e-3)
    np.testing.assert_allclose(positions[575], (DEFAULT + LYING) / 2, atol=5e-3)
    np.testing.assert_allclose(positions[949], LYING, atol=5e-3)


def test_an_end_while_standing_up_goes_straight_down():
    bench = Bench()
    for _ in range(300):
        bench.tick(Request.STAND)
    half_way = bench.position.copy()
    np.testing.assert_allclose(bench.tick(Request.IDLE).position, half_way, atol=1e-2)
    for _ in range(755):
        bench.tick(Request.IDLE)
    np.testing.assert_allclose(bench.position, LYING, atol=1e-3)
    assert bench.controller.phase == Phase.IDLE


@pytest.mark.parametrize("change, reason", [({"buttons": 0x0220}, "L2+B on the remote"), ({"driver_failure": "broke"}, "broke")])
def test_a_fault_while_lying_down_damps_at_once(change, reason):
    bench = Bench()
    bench.stand()
    bench.tick(Request.IDLE)
    assert bench.controller.phase == Phase.LYING_DOWN
    assert is_damping(bench.tick(Request.IDLE, **change)) and bench.controller.reason == reason


def test_legs_that_do_not_move_are_no_standing():
    bench = Bench()
    bench.follows = False
    ticks = 0
    while bench.controller.phase in (Phase.IDLE, Phase.STANDING_UP):
        bench.tick(Request.STAND)
        ticks += 1
    assert ticks * TICK_S == pytest.approx(1.2 + 0.5, abs=0.01)
    assert bench.controller.phase == Phase.FAULT
    assert "FR_calf_joint is 0.85 rad from the default pose, limit 0.30 rad" in bench.controller.reason


def test_it_stands_within_0_3_rad_and_not_beyond():
    for error, phase in ((0.29, Phase.STANDING), (0.31, Phase.FAULT)):
        bench = Bench(DEFAULT + one(7, error))
        bench.follows = False
        for _ in range(900):
            bench.tick(Request.STAND)
        assert bench.controller.phase == phase


def test_a_robot_that_stands_for_too_long_lies_down_and_stays_there():
    """Nobody walks it: after stand_timeout_s it lies down, though the last request is still to stand; a new one is heard."""
    bench = Bench()
    bench.stand()
    bench.now_s += LIMITS.stand_timeout_s
    for _ in range(2000):
        bench.tick(Request.STAND)
    assert bench.controller.phase == Phase.IDLE
    bench.asked_s = bench.now_s
    bench.stand()


def test_gaps_of_low_state_before_the_motors_are_live_are_waited_for():
    bench = Bench(lead=False)
    for _ in range(100):
        bench.tick(Request.IDLE)
    for age in range(30, 300, 2):  # 0.3 s without LowState
        bench.tick(Request.STAND, age_s=age * 1e-3)
    assert bench.controller.phase == Phase.CONNECTING
    for _ in range(145):
        bench.tick(Request.IDLE)
    assert bench.controller.phase == Phase.CONNECTING, "damping for 0.3 s begins again"
    for _ in range(7):
        bench.tick(Request.IDLE)
    assert bench.controller.phase == Phase.IDLE
    assert is_damping(bench.tick(Request.STAND, age_s=0.06)) and bench.controller.phase == Phase.IDLE
    bench.tick(Request.STAND)
    assert bench.controller.phase == Phase.STANDING_UP
