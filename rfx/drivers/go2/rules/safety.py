"""Safety of a Go2, as pure functions: rules on a snapshot, and limits on joint targets.

The sender calls these before every command. A rule returns None if all is well. Otherwise it returns one line that says
what is wrong, and the sender damps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rfx.drivers.go2.rules.mailbox import UNKNOWN, Phase
from rfx.drivers.go2.wire.remote import EMERGENCY
from rfx.drivers.robot import MAX_VELOCITY_COMMAND
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array, projected_gravity

MOVING = (Phase.STANDING_UP, Phase.STANDING, Phase.POLICY, Phase.LYING_DOWN)  # the motors are stiff


@dataclass(frozen=True, kw_only=True)
class SafetyLimits:
    """Limits at which the driver damps or lies down, and constants for how it stands up, lies down and damps."""

    state_timeout_s: float = 0.05  # longest time without LowState while the motors are stiff
    idle_state_timeout_s: float = 3.0  # longest time without LowState while the motors are not stiff
    guard_timeout_s: float = 0.05  # longest silence of the sender before its guard takes over
    policy_timeout_s: float = 0.09  # longest time without a policy step; damping is sent before 100 ms are over
    stand_timeout_s: float = 60.0  # the robot lies down after standing this long without a word from the driver
    # The robot lies down if policy steps, averaged over slow_policy_s, take longer than this times the control period.
    slow_policy_factor: float = 1.5
    slow_policy_s: float = 1.0
    tilt_rad: float = 1.05  # 60 degrees; training ends an episode there too
    # Largest joint velocity, as a factor of max_velocity_rad_s. Simulated gaits reach 1.6 when a foot lands.
    joint_velocity_factor: float = 2.0
    joint_velocity_smoothing_s: float = 0.01  # time constant; a landing foot kicks its joints for a few milliseconds
    temperature_c: float = 85.0  # of a motor; our own choice, below the damage to magnets and windings
    target_velocity_factor: float = 4.0  # a target moves at most this times the joint's max_velocity_rad_s
    interpolation_s: float = 0.004  # two ticks; a target moves to the policy's next target in this time
    quaternion_norm: float = 0.1  # the norm may differ from 1 by this
    stand_charge: int = 20  # %; below this charge the robot does not stand up
    least_charge: int = 10  # %; at this charge the robot lies down
    low_charge_s: float = 1.0  # a low charge counts after this long
    lead_s: float = 0.3  # damping lasts this long before anything else: a robot may meet the writer late
    stand_s: float = 1.2  # Unitree's examples stand up in about this time
    stand_velocity_rad_s: float = 2.0  # standing up takes longer than stand_s if a joint would move faster than this
    rest_velocity_rad_s: float = 0.3  # a joint below this velocity counts as at rest
    settle_s: float = 0.5  # a motion waits at most this long for the joints to come to rest
    stand_error_rad: float = 0.3  # a robot with a joint further from the default pose does not stand
    command_s: float = 0.4  # the velocity command takes this long from zero to its maximum, or back
    # Before a planned end the policy goes on for this long with a command of zero. This covers the last steps and the
    # sway after them.
    brake_s: float = 0.8
    collect_s: float = 0.5  # from the policy's last pose to the default pose, to stand or before lying down
    lie_s: float = 1.5  # onto folded legs, from the default pose or from an unfinished stand
    stand_kp: float = 60.0  # N m/rad, Unitree's examples
    stand_kd: float = 5.0  # N m s/rad, Unitree's examples
    damping_kd: float = 2.0  # N m s/rad, Unitree's examples
    damping_s: float = 2.0  # damping is sent for this long before the sender ends
    service_timeout_s: float = 5.0  # for an answer of the robot's services
    lie_down_timeout_s: float = 10.0  # for the robot's own controller to lie down, before it is released
    release_timeout_s: float = 30.0  # for the robot's own controller to release the motors
    max_velocity_command: tuple[float, float, float] = MAX_VELOCITY_COMMAND


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that the sender knows at one moment.

    Times are time.monotonic(); arrays are (num_joints,) in motor order.
    """

    now_s: float
    phase: Phase
    phase_since_s: float
    state_time_s: float  # arrival of the last intact LowState
    joint_position: Array
    joint_velocity: Array
    joint_speed: Array  # smoothed absolute joint velocity
    temperature: Array  # motor temperatures, degrees C
    gyroscope: Array  # (3,), rad/s
    quaternion: Array  # (4,), wxyz
    buttons: int
    other_publishers: int  # number of other publishers of rt/lowcmd
    driver_alive: bool
    driver_failure: str  # failure that the driver reports, or ""
    policy_time_s: float  # time of the driver's last word; in Phase.POLICY, of the last policy step
    target: Array  # positions that the driver asked for, rad
    other_names: str = ""  # names of the other publishers
    num_damaged: int = 0  # LowStates with a wrong checksum since the last intact one
    battery: int = UNKNOWN  # charge, %
    driver_stopped: bool = False  # stopped by SIGSTOP or a debugger
    guard_failure: str = ""


Rule = Callable[[Snapshot, SafetyLimits, RobotConfig], str | None]


def driver_failed(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a policy that raised, gave a wrong action, or was asked to fail."""
    return now.driver_failure or None


def driver_gone(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a policy's process that has ended, was killed, or crashed."""
    return None if now.driver_alive else "the policy's process is gone"


def driver_stopped(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a policy's process that stands still: nobody could end what the robot does."""
    return "the policy's process was stopped" if now.driver_stopped and now.phase in MOVING else None


def guard_failed(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a guard that has failed: nobody would damp if the sender ended now."""
    return now.guard_failure or None


def remote_stop(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule for L2 and B together on the remote. The controller keeps a robot damped that is damped already."""
    return "L2+B on the remote" if now.phase in MOVING and now.buttons & EMERGENCY == EMERGENCY else None


def other_publisher(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against another publisher that may command the motors."""
    if not now.other_publishers:
        return None
    who = f" ({now.other_names})" if now.other_names else ""
    return f"{now.other_publishers} other publisher(s) of rt/lowcmd{who}: stop the other controller"


def stale_state(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a robot that has not reported for too long; while the motors are not stiff, the limit is higher."""
    age_s, limit_s = (
        now.now_s - now.state_time_s,
        limits.state_timeout_s if now.phase in MOVING else limits.idle_state_timeout_s,
    )
    if age_s <= limit_s:
        return None
    what = f"no intact LowState ({now.num_damaged} came with a wrong checksum)" if now.num_damaged else "no LowState"
    return f"{what} for {age_s * 1e3:.0f} ms, limit {limit_s * 1e3:.0f} ms"


def silent_policy(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a policy that has not made a step for too long."""
    age_s, limit_s = now.now_s - now.policy_time_s, limits.policy_timeout_s
    return (
        f"no policy step for {age_s * 1e3:.0f} ms, limit {limit_s * 1e3:.0f} ms"
        if now.phase == Phase.POLICY and age_s > limit_s
        else None
    )


def not_finite(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a measurement or a target that is not finite."""
    for name in ("joint_position", "joint_velocity", "gyroscope", "quaternion"):
        if not np.isfinite(getattr(now, name)).all():
            return f"LowState's {name.replace('_', ' ')} is not finite"
    if now.phase == Phase.POLICY and not np.isfinite(now.target).all():
        return "the policy's target is not finite"
    return None


def no_orientation(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a quaternion that is no orientation: zeros, for example, would count as level."""
    norm = float(np.linalg.norm(now.quaternion))
    return (
        f"LowState's quaternion has norm {norm:.2f}; expected 1" if abs(norm - 1.0) > limits.quaternion_norm else None
    )


def tilted(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a body that leans too far: it has fallen or is about to fall."""
    if now.phase not in MOVING:
        return None
    quaternion = np.asarray(now.quaternion, np.float32)
    down = -float(projected_gravity((quaternion / max(float(np.linalg.norm(quaternion)), 1e-6))[None])[0, 2])
    tilt_rad = math.acos(max(-1.0, min(1.0, down)))
    return f"tilted by {tilt_rad:.2f} rad, limit {limits.tilt_rad:.2f} rad" if tilt_rad > limits.tilt_rad else None


def too_fast(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a joint that turns faster than it ever should."""
    if now.phase not in MOVING:
        return None
    limit = limits.joint_velocity_factor * config.joint_array("max_velocity_rad_s")
    return _worst(now.joint_speed, limit, config, "turns at {:.1f} rad/s, limit {:.1f} rad/s")


def too_hot(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Rule against a motor that is too hot to go on; a simulator reports 0."""
    if now.phase not in MOVING:
        return None
    limit = np.full(len(now.temperature), limits.temperature_c)
    return _worst(np.asarray(now.temperature, np.float32), limit, config, "has a motor of {:.0f} C, limit {:.0f} C")


RULES: tuple[Rule, ...] = (
    driver_failed,
    driver_gone,
    driver_stopped,
    guard_failed,
    remote_stop,
    other_publisher,
    stale_state,
    silent_policy,
    not_finite,
    no_orientation,
    tilted,
    too_fast,
    too_hot,
)


def violation(now: Snapshot, limits: SafetyLimits, config: RobotConfig) -> str | None:
    """Return the message of the first broken rule, or None when all is well."""
    for rule in RULES:
        reason = rule(now, limits, config)
        if reason:
            return reason
    return None


def smoothed_speed(speed: Array, joint_velocity: Array, elapsed_s: float, limits: SafetyLimits) -> Array:
    """Update speed, a first-order low pass of the absolute joint velocity, with one more measurement.

    All (num_joints,), rad/s.
    """
    share = 1.0 - math.exp(-elapsed_s / limits.joint_velocity_smoothing_s)
    return speed + np.float32(share) * (np.abs(joint_velocity) - speed)


def limit_target(
    target: Array,
    last_target: Array,
    joint_position: Array,
    joint_velocity: Array,
    *,
    elapsed_s: float,
    kp: Array,
    kd: Array,
    limits: SafetyLimits,
    config: RobotConfig,
) -> Array:
    """Return the position nearest to target that satisfies the limits of joints, torque and rate.

    It is within the joint limits, moves no faster than allowed, and asks for no more torque than the motor may give:
    |kp (position - q) - kd dq| <= max_torque_nm. All (num_joints,), rad.
    If no position satisfies all limits in the measured state, joint limits go before torque, and torque before rate.
    """
    low, high = config.joint_range
    reach = limits.target_velocity_factor * config.joint_array("max_velocity_rad_s") * np.float32(elapsed_s)
    torque = config.joint_array("max_torque_nm")
    position = np.clip(target, last_target - reach, last_target + reach)
    holds = kp > 0.0  # without position gain no position asks for torque
    gain = np.where(holds, kp, np.float32(1.0))
    centre = joint_position + kd * joint_velocity / gain
    position = np.where(holds, np.clip(position, centre - torque / gain, centre + torque / gain), position)
    return np.clip(position, low, high)


def _worst(values: Array, limits: Array, config: RobotConfig, text: str) -> str | None:
    if not (values > limits).any():
        return None
    joint = int(np.argmax(values / limits))
    return f"{config.joint_names[joint]} " + text.format(float(values[joint]), float(limits[joint]))
