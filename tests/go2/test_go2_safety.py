"""The safety rules and target limits, as pure functions: no DDS, no processes."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.mailbox import Phase
from rfx.drivers.go2.rules.safety import RULES, SafetyLimits, Snapshot, limit_target, smoothed_speed, violation
from rfx.drivers.go2.wire.remote import BUTTONS

LIMITS = SafetyLimits()
FINE = Snapshot(
    now_s=100.0,
    phase=Phase.POLICY,
    phase_since_s=90.0,
    state_time_s=99.999,
    joint_position=GO2_CONFIG.default_position,
    joint_velocity=np.zeros(12, np.float32),
    joint_speed=np.zeros(12, np.float32),
    temperature=np.full(12, 40, np.uint8),
    gyroscope=np.zeros(3, np.float32),
    quaternion=np.array([1.0, 0.0, 0.0, 0.0], np.float32),
    buttons=0,
    other_publishers=0,
    driver_alive=True,
    driver_failure="",
    policy_time_s=99.99,
    target=GO2_CONFIG.default_position,
)


def verdict(**changes) -> str | None:
    return violation(dataclasses.replace(FINE, **changes), LIMITS, GO2_CONFIG)


def one(index: int, value: float, rest: float = 0.0, num: int = 12) -> np.ndarray:
    values = np.full(num, rest, np.float32)
    values[index] = value
    return values


def rolled(angle: float) -> np.ndarray:
    return np.array([math.cos(angle / 2), math.sin(angle / 2), 0.0, 0.0], np.float32)


def test_all_is_well():
    assert verdict() is None


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"driver_failure": "the policy broke"}, "the policy broke"),
        ({"driver_alive": False}, "the policy's process is gone"),
        ({"buttons": BUTTONS["L2"] | BUTTONS["B"] | BUTTONS["A"]}, "L2+B on the remote"),
        ({"other_publishers": 2}, "2 other publisher(s) of rt/lowcmd: stop the other controller"),
        ({"state_time_s": 99.949}, "no LowState for 51 ms, limit 50 ms"),
        ({"policy_time_s": 99.909}, "no policy step for 91 ms, limit 90 ms"),
        ({"driver_stopped": True, "phase": Phase.LYING_DOWN}, "the policy's process was stopped"),
        ({"guard_failure": "the guard process is gone"}, "the guard process is gone"),
        (
            {"other_publishers": 1, "other_names": "'python3', process 7 on nx"},
            "1 other publisher(s) of rt/lowcmd ('python3', process 7 on nx): stop the other controller",
        ),
        (
            {"state_time_s": 99.94, "num_damaged": 29},
            "no intact LowState (29 came with a wrong checksum) for 60 ms, limit 50 ms",
        ),
        ({"phase": Phase.IDLE, "state_time_s": 96.9}, "no LowState for 3100 ms, limit 3000 ms"),
        ({"quaternion": np.zeros(4, np.float32)}, "LowState's quaternion has norm 0.00; expected 1"),
        ({"quaternion": np.array([0.8, 0.0, 0.0, 0.0], np.float32)}, "LowState's quaternion has norm 0.80; expected 1"),
        ({"joint_position": one(3, math.nan)}, "LowState's joint position is not finite"),
        ({"gyroscope": one(0, math.inf, num=3)}, "LowState's gyroscope is not finite"),
        ({"target": one(3, math.nan)}, "the policy's target is not finite"),
        ({"quaternion": rolled(1.06)}, "tilted by 1.06 rad, limit 1.05 rad"),
        ({"quaternion": rolled(-math.pi)}, "tilted by 3.14 rad, limit 1.05 rad"),
        ({"quaternion": rolled(1.06) * np.float32(0.95)}, "tilted by 1.06 rad, limit 1.05 rad"),
        ({"quaternion": rolled(1.06) * np.float32(1.05)}, "tilted by 1.06 rad, limit 1.05 rad"),
        (
            {"joint_speed": one(0, 61.0) + one(5, 40.0)},
            "FL_calf_joint turns at 40.0 rad/s, limit 31.4 rad/s",
        ),  # 1.27 times; the hip 1.01 times 60.2
        ({"joint_speed": one(2, 31.5)}, "FR_calf_joint turns at 31.5 rad/s, limit 31.4 rad/s"),
        ({"temperature": np.array([40] * 11 + [86], np.uint8)}, "RL_calf_joint has a motor of 86 C, limit 85 C"),
    ],
)
def test_each_rule(changes, reason):
    assert verdict(**changes) == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"buttons": BUTTONS["L2"]},
        {"buttons": BUTTONS["B"]},
        {"state_time_s": 99.951},
        {"policy_time_s": 99.911},
        {"quaternion": rolled(1.04)},
        {"quaternion": rolled(1.04) * np.float32(0.95)},
        {"joint_speed": one(0, 60.0)},
        {"joint_velocity": one(0, -90.0)},
        {"temperature": np.full(12, 85, np.uint8)},
        {"phase": Phase.STANDING, "policy_time_s": 0.0},
        {"phase": Phase.IDLE, "buttons": BUTTONS["L2"] | BUTTONS["B"]},
        {"phase": Phase.CONNECTING, "state_time_s": 97.1},
        {"phase": Phase.IDLE, "driver_stopped": True},
        {"quaternion": np.array([1.05, 0.0, 0.0, 0.0], np.float32)},
        {"phase": Phase.STANDING, "target": one(0, math.nan)},
        {"phase": Phase.IDLE, "quaternion": rolled(2.0)},
        {"phase": Phase.IDLE, "policy_time_s": 0.0},
        {"phase": Phase.IDLE, "temperature": np.full(12, 99, np.uint8)},
    ],
)
def test_what_is_no_violation(changes):
    """Just within limits; and a robot that is damped anyway may lie on its side, hot."""
    assert verdict(**changes) is None


def test_what_is_at_the_limit_is_within_it():
    """In numbers that binary fractions are."""
    limits = SafetyLimits(state_timeout_s=0.0625, policy_timeout_s=0.0625, quaternion_norm=0.125, tilt_rad=math.pi)
    upside_down = np.array([0.0, 1.0, 0.0, 0.0], np.float32)
    for changes in (
        {"state_time_s": 99.9375},
        {"policy_time_s": 99.9375},
        {"quaternion": np.array([1.125, 0.0, 0.0, 0.0])},
        {"quaternion": upside_down},
    ):
        assert violation(dataclasses.replace(FINE, **changes), limits, GO2_CONFIG) is None


def test_the_tilt_does_not_depend_on_where_the_robot_looks():
    """Upside down, rounding takes the cosine of the tilt beyond -1 in a fourth of all directions."""
    for yaw in np.linspace(0.0, 2.0 * math.pi, 500):
        looking = np.array([math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)], np.float32)
        assert verdict(quaternion=looking) is None
        assert verdict(quaternion=looking[[1, 0, 3, 2]]) == "tilted by 3.14 rad, limit 1.05 rad"


def test_every_rule_is_tested():
    """Each rule answers for something in test_each_rule."""
    cases = test_each_rule.pytestmark[0].args[1]
    answering = {
        rule.__name__
        for rule in RULES
        for changes, _ in cases
        if rule(dataclasses.replace(FINE, **changes), LIMITS, GO2_CONFIG)
    }
    assert answering == {rule.__name__ for rule in RULES}


def joints(low: float, high: float):
    return arrays(np.float32, 12, elements=st.floats(low, high, width=32))


LOW, HIGH = GO2_CONFIG.joint_range
TORQUE, SPEED = GO2_CONFIG.joint_array("max_torque_nm"), GO2_CONFIG.joint_array("max_velocity_rad_s")


def limited(target, last, position, velocity, kp=35.0, kd=0.5, elapsed_s=0.002):
    return limit_target(
        target,
        last,
        position,
        velocity,
        elapsed_s=elapsed_s,
        kp=np.full(12, kp, np.float32),
        kd=np.full(12, kd, np.float32),
        limits=LIMITS,
        config=GO2_CONFIG,
    )


@settings(max_examples=300)
@given(joints(-100, 100), joints(0, 1), joints(0, 1), joints(-15, 15))
def test_limited_targets_keep_to_limits(target, last, position, velocity):
    """From any state within the limits: within joint limits and torque, and as fast as allowed or to get within
    torque.
    """
    last, position = LOW + last * (HIGH - LOW), LOW + position * (HIGH - LOW)
    sent = limited(target, last, position, velocity)
    assert (sent >= LOW).all() and (sent <= HIGH).all()
    torque = 35.0 * (sent - position) - 0.5 * velocity
    assert (np.abs(torque) <= TORQUE + 1e-3).all()
    reach = 4.0 * SPEED * 0.002
    quick = np.abs(sent - last) > reach + 1e-5
    held = (
        35.0 * (last - position) - 0.5 * velocity
    )  # holding the last target would have asked for too much, or lies out of bounds
    assert (np.abs(held[quick]) > (TORQUE - reach * 35.0)[quick] - 1e-3).all()


@settings(max_examples=200)
@given(joints(-100, 100), joints(-4, 4), joints(-6, 6), joints(-60, 60), st.floats(0.0, 0.01))
def test_joint_limits_hold_whatever_was_measured(target, last, position, velocity, elapsed_s):
    for kp, kd in ((35.0, 0.5), (60.0, 5.0)):
        sent = limited(target, last, position, velocity, kp, kd, elapsed_s)
        assert (sent >= LOW).all() and (sent <= HIGH).all()


def test_a_target_within_reach_is_sent_as_it_is():
    target = GO2_CONFIG.default_position + np.float32(0.02)
    sent = limited(target, GO2_CONFIG.default_position, GO2_CONFIG.default_position, np.zeros(12, np.float32))
    np.testing.assert_array_equal(sent, target)


def test_rate_and_torque_by_hand():
    """A hip asked for 1 rad from 0 at rest: four times 30.1 rad/s for 2 ms is 0.2408 rad.

    For a lagging joint: 23.7 N m / 35 is 0.677 rad.
    """
    zeros, default = np.zeros(12, np.float32), GO2_CONFIG.default_position
    sent = limited(default + one(0, 1.0), default, default, zeros)
    assert sent[0] == pytest.approx(0.2408, abs=1e-6)
    sent = limited(default + one(0, 1.0), default + one(0, 0.9), default, zeros)
    assert sent[0] == pytest.approx(23.7 / 35.0, abs=1e-6)
    sent = limited(
        default + one(0, 1.0), default + one(0, 0.9), default, one(0, -10.0)
    )  # 5 N m of the 23.7 go to damping already
    assert sent[0] == pytest.approx((23.7 - 5.0) / 35.0, abs=1e-6)


def test_without_position_gain_there_is_no_nan():
    """kp 0 asks for no torque, wherever the target is; other joints are limited as ever."""
    kp = np.full(12, 35.0, np.float32)
    kp[4] = 0.0
    default = GO2_CONFIG.default_position
    sent = limit_target(
        default + one(0, 1.0) + one(4, 0.1),
        default + one(0, 0.9) + one(4, 0.1),
        default,
        np.ones(12, np.float32),
        elapsed_s=0.002,
        kp=kp,
        kd=np.full(12, 0.5, np.float32),
        limits=LIMITS,
        config=GO2_CONFIG,
    )
    assert np.isfinite(sent).all()
    assert sent[4] == pytest.approx(default[4] + 0.1, abs=1e-6) and sent[0] == pytest.approx(
        (23.7 + 0.5) / 35.0, abs=1e-6
    )


def test_a_weak_position_gain_limits_torque_too():
    """0.5 N m s/rad of 48 rad/s are 24 N m; 0.3 of them must go: 0.6 rad at 0.5 N m/rad."""
    default = GO2_CONFIG.default_position
    sent = limited(default, default, default, one(0, 48.0), kp=0.5)
    assert sent[0] == pytest.approx(0.6, abs=1e-5)


def test_speed_is_smoothed():
    """A kick of 50 rad/s for 2 ms counts for 9 rad/s; after 30 ms of 25 rad/s, 23.8 are seen."""
    kick = smoothed_speed(np.zeros(12, np.float32), one(2, -50.0), 0.002, LIMITS)
    assert kick[2] == pytest.approx(50.0 * (1.0 - math.exp(-0.2)), rel=1e-5) and kick[3] == 0.0
    speed = np.zeros(12, np.float32)
    for _ in range(15):
        speed = smoothed_speed(speed, one(2, -25.0), 0.002, LIMITS)
    assert speed[2] == pytest.approx(25.0 * (1.0 - math.exp(-3.0)), rel=1e-4)
