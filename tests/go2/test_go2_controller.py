"""What is commanded from tick to tick, in simulated time."""

import dataclasses

import numpy as np
import pytest
from test_go2_safety import FINE, one

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.controller import Controller
from rfx.drivers.go2.rules.mailbox import Phase, Request
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.go2.wire.remote import BUTTONS

LIMITS = SafetyLimits()
DEFAULT = GO2_CONFIG.default_position
LYING = np.tile(np.array([0.0, 1.36, -2.65], np.float32), 4)
TICK_S = 0.002
EMERGENCY = BUTTONS["L2"] | BUTTONS["B"]


class Bench:
    """A controller that has damped for its first moment, whose robot follows perfectly, with a clock of its own."""

    def __init__(self, position=LYING, lead=True):
        self.controller, self.now_s, self.position = Controller(GO2_CONFIG, LIMITS), 50.0, position.copy()
        self.step_number, self.step_time_s, self.target = 0, 0.0, DEFAULT
        while lead and self.controller.phase == Phase.CONNECTING:
            self.tick(Request.IDLE)

    def tick(self, request=Request.STAND, state_age_s=0.0, **changes):
        self.now_s += TICK_S
        assert self.now_s < 50.0 + 65.0, "nothing here takes that long"
        snapshot = dataclasses.replace(
            FINE,
            now_s=self.now_s,
            state_time_s=self.now_s - state_age_s,
            phase=self.controller.phase,
            phase_since_s=self.controller.phase_since_s,
            joint_position=self.position,
            policy_time_s=self.step_time_s,
            target=self.target,
            **changes,
        )
        command = self.controller.step(snapshot, request, self.step_number)
        assert command.position.dtype == command.kp.dtype == command.kd.dtype == np.float32
        if self.controller.phase != snapshot.phase:
            assert self.controller.phase_since_s == self.now_s
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


def test_standing_from_a_walk_begins_at_what_was_sent_and_takes_half_a_second():
    """Legs give way under the weight, here by 0.1 rad: to hold them where they are measured would let go of it."""
    bench = Bench()
    bench.stand()
    for _ in range(20):
        bench.ask(DEFAULT + one(1, 0.2))
        walking = bench.tick(Request.POLICY).position
        bench.position = walking - 0.1
    np.testing.assert_allclose(walking, DEFAULT + one(1, 0.2), atol=1e-3)
    positions = []
    while bench.controller.phase != Phase.STANDING:
        positions.append(bench.tick(Request.STAND).position)
        bench.position = positions[-1] - 0.1
    assert np.abs(positions[0] - walking).max() < 0.005
    assert len(positions) * TICK_S == pytest.approx(0.5, abs=0.005)
    np.testing.assert_allclose(positions[125], DEFAULT + one(1, 0.1), atol=2e-3)  # 0.25 s: half way
    np.testing.assert_allclose(positions[-1], DEFAULT, atol=1e-6)


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
    assert command.position[0] == pytest.approx(0.05, abs=1e-4) and bench.tick(Request.POLICY).position[
        0
    ] == pytest.approx(0.0, abs=1e-4)


def test_a_pause_does_not_become_a_jump():
    """A calf that is asked for 0.9 rad after 40 ms without a tick moves as far as in 10 ms: four times 15.7 rad/s are
    0.628 rad.
    """
    bench = Bench()
    bench.stand()
    bench.ask(DEFAULT)
    bench.tick(Request.POLICY)
    bench.now_s += 0.04
    bench.ask(DEFAULT + one(2, 0.9))
    assert bench.tick(Request.POLICY).position[2] == pytest.approx(DEFAULT[2] + 0.628, abs=1e-5)


def test_a_violation_damps_for_good():
    bench = Bench()
    bench.stand()
    bench.ask(DEFAULT)
    bench.tick(Request.POLICY)
    assert is_damping(bench.tick(Request.POLICY, other_publishers=1))
    for request in Request:
        assert is_damping(bench.tick(request))
    assert bench.controller.phase == Phase.FAULT and "other publisher" in bench.controller.reason


def heights(positions):
    """How far the hips are above the feet, from thigh and calf (0.213 m each in Unitree's go2_description).

    (T, 12) -> (T,), m.
    """
    thigh, calf = positions[:, 1::3], positions[:, 2::3]
    return (0.213 * np.cos(thigh) + 0.213 * np.cos(thigh + calf)).mean(axis=1)


def lie_down(bench, request, **changes):
    commands = [bench.tick(request, **changes)]
    while bench.controller.phase == Phase.LYING_DOWN:
        commands.append(bench.tick(request, **changes))
    return commands


@pytest.mark.parametrize("walking", [False, True])
def test_a_planned_end_goes_to_the_default_pose_and_lies_down_in_1_5_seconds(walking):
    bench = Bench()
    bench.stand()
    if walking:
        bench.ask(DEFAULT + one(1, 0.4) + one(8, -0.5))
        for _ in range(20):
            bench.tick(Request.POLICY)
    commands = lie_down(bench, Request.LIE)
    stiff = np.array([command.position for command in commands[:-1]])
    assert {(command.kp[0], command.kd[0]) for command in commands[:-1]} == {(60.0, 5.0)}
    collect = 250 if walking else 0
    assert np.abs(stiff[collect + 3] - DEFAULT).max() < 0.02
    np.testing.assert_allclose(stiff[-1], LYING, atol=2e-3)  # a tick of the motion
    assert len(stiff) - collect == pytest.approx(750, abs=5)  # 1.5 s
    assert np.diff(heights(stiff)).min() / TICK_S > -0.3, "m/s"
    assert is_damping(commands[-1]) and bench.controller.phase == Phase.IDLE
    bench.stand()


def test_lying_down_from_the_middle_of_standing_up_goes_straight_down():
    bench = Bench()
    for _ in range(300):
        bench.tick(Request.STAND)
    stiff = np.array([command.position for command in lie_down(bench, Request.LIE)[:-1]])
    assert np.diff(heights(stiff)).max() <= 1e-6 and len(stiff) == pytest.approx(750, abs=5)


def test_only_what_damps_interrupts_lying_down():
    bench = Bench()
    bench.stand()
    for request in (Request.LIE, Request.STAND, Request.POLICY):
        assert bench.tick(request).kp[0] == 60.0 and bench.controller.phase == Phase.LYING_DOWN
    assert is_damping(bench.tick(Request.LIE, buttons=EMERGENCY)) and bench.controller.reason == "L2+B on the remote"
    bench = Bench()
    bench.stand()
    bench.tick(Request.LIE)
    assert is_damping(bench.tick(Request.IDLE)) and bench.controller.phase == Phase.IDLE


def test_a_leg_that_does_not_move_is_no_standing():
    """Its thigh stays 0.46 rad from the default pose, its calf 0.85 rad: half a second after the ramp it gives up."""
    bench, ticks = Bench(), 0
    while bench.controller.phase != Phase.FAULT:
        bench.tick(Request.STAND)
        bench.position[9:12] = LYING[9:12]
        ticks += 1
        assert bench.controller.phase in (Phase.STANDING_UP, Phase.FAULT)
    assert ticks * TICK_S == pytest.approx(1.2 + 0.5, abs=0.02)
    assert "RL_calf_joint is 0.85 rad from the default pose, limit 0.30 rad" in bench.controller.reason


@pytest.mark.parametrize("charge, stands", [(19, False), (20, True), (0, False), (-1, True)])
def test_a_low_battery_does_not_stand_up(charge, stands):
    """Below 20%; -1 is a simulator that does not say."""
    bench = Bench(lead=False)
    for _ in range(155):
        bench.tick(Request.STAND, battery=charge)
    assert bench.controller.phase == (Phase.STANDING_UP if stands else Phase.FAULT)
    assert stands or f"at {charge}%; standing up needs 20%" in bench.controller.reason


def test_an_empty_battery_lies_down():
    """10% for a second; for a moment only it is a slip of the gauge."""
    bench = Bench()
    bench.stand()
    for charge, ticks in ((11, 600), (10, 400), (11, 1), (10, 499)):
        for _ in range(ticks):
            bench.tick(Request.STAND, battery=charge)
    assert bench.controller.phase == Phase.STANDING
    lie_down(bench, Request.STAND, battery=10)
    lie_down(bench, Request.STAND, battery=10)
    assert bench.controller.phase == Phase.FAULT and "battery is at 10%: it lay down" in bench.controller.reason
    assert bench.controller.phase_since_s - bench.now_s < 0.01 and np.abs(bench.position - LYING).max() < 0.01, (
        "it lay before it was damped"
    )


@pytest.mark.parametrize("period_ticks, ends", [(10, False), (14, False), (32, True), (40, True)])
def test_a_policy_that_is_too_slow_lies_down(period_ticks, ends):
    """At 50 Hz: a step every 20 ms, 28 ms, 64 ms and 80 ms.

    The gait clock of the last is four times too slow; 1.5 times is allowed.
    """
    bench = Bench()
    bench.stand()
    for tick in range(1000):
        if tick % period_ticks == 0:
            bench.ask(DEFAULT)
        bench.tick(Request.POLICY)
        if bench.controller.phase != Phase.POLICY:
            break
    assert ends == (bench.controller.phase == Phase.LYING_DOWN)
    if ends:
        average = {32: 62, 40: 77}[period_ticks]  # 16 and 13 steps begin in the last second, its ends included
        assert tick * TICK_S < 1.2
        assert (
            bench.controller.reason
            == f"a policy step took {average} ms on average, its control period is 20 ms: it lay down"
        )


def test_a_policy_is_judged_by_a_whole_second():
    """31 steps in its first 0.98 s would be 32 ms each, of 30 ms that are allowed; but then it is quick: 35 by 1.02
    s.
    """
    bench = Bench()
    bench.stand()
    steps = {*np.cumsum([0] + [39] * 10).tolist(), *range(395, 600, 5)}  # ticks of 2 ms
    for tick in range(600):
        if tick in steps:
            bench.ask(DEFAULT)
        bench.tick(Request.POLICY)
    assert bench.controller.phase == Phase.POLICY


def test_standing_without_a_driver_lies_down_after_a_minute():
    bench = Bench()
    bench.stand()
    begun_s = bench.now_s
    while bench.controller.phase == Phase.STANDING:
        bench.tick(Request.STAND)
    assert bench.now_s - begun_s == pytest.approx(60.0, abs=0.01) and bench.controller.phase == Phase.LYING_DOWN
    assert bench.controller.reason == "it stood without a policy step for 60 s, and lay down"


@pytest.mark.parametrize("changes", [{"state_age_s": 0.06}, {"buttons": EMERGENCY}])
def test_it_waits_with_standing_up(changes):
    """A gap in LowState, or L2+B, while the motors are not live ends nothing."""
    bench = Bench()
    for _ in range(5):
        assert is_damping(bench.tick(Request.STAND, **changes)) and bench.controller.phase == Phase.IDLE
    bench.tick(Request.STAND)
    assert bench.controller.phase == Phase.STANDING_UP


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
