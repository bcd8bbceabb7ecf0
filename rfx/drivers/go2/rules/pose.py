"""Facts about a Go2's body that its RobotConfig lacks: its lying pose, and which gains a policy may use on it."""

from __future__ import annotations

import dataclasses

import numpy as np

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array

LYING = np.tile(np.array([0.0, 1.36, -2.65], np.float32), 4)  # rad: folded legs, as in Unitree's go2_stand_example
FOLDED_CALF_RAD = -2.2  # a folded leg's calf is below this: half way between standing, -1.8, and lying, -2.65

# A policy's gains may differ from the robot's by these factors. Within them, a stiff leg neither sags under the weight
# nor oscillates.
KP_FACTORS, KD_FACTORS = (0.5, 1.5), (0.5, 3.0)
MAX_SCALE_RAD = 1.0  # with a larger scale, an action of 1 would move a thigh through most of its range
MAX_DEFAULT_OFFSET_RAD = 0.3  # a policy's default pose may differ from the robot's by this
CONTROL_HZ = (25.0, 100.0)  # at a lower rate, a single late step would already exceed the sender's policy timeout


def unfolded_legs(joint_position: Array) -> list[str]:
    """Describe the legs that are not folded under the body, each with its calf's angle.

    joint_position (12,), rad, in motor order.
    """
    return [
        f"{leg} {angle:.2f} rad"
        for leg, angle in zip(("FR", "FL", "RR", "RL"), joint_position[2::3].tolist())
        if not angle < FOLDED_CALF_RAD
    ]


def adopt(config: RobotConfig, own: RobotConfig = GO2_CONFIG) -> RobotConfig:
    """Return a policy's config with this robot's own limits.

    Gains, default pose, scale and terms stay the policy's. Raises ValueError that lists everything out of bounds.
    """
    if config.joint_names != own.joint_names:
        raise ValueError(
            f"got a policy for joints {', '.join(config.joint_names)}; expected {', '.join(own.joint_names)}"
        )
    wrong = (
        []
        if CONTROL_HZ[0] <= config.control_freq_hz <= CONTROL_HZ[1]
        else [f"control_freq_hz is {config.control_freq_hz:g}, allowed are {CONTROL_HZ[0]:g} to {CONTROL_HZ[1]:g}"]
    )
    joints = []
    for joint, ours in zip(config.joints, own.joints):
        for name, value, low, high in (
            ("kp", joint.kp, KP_FACTORS[0] * ours.kp, KP_FACTORS[1] * ours.kp),
            ("kd", joint.kd, KD_FACTORS[0] * ours.kd, KD_FACTORS[1] * ours.kd),
            (
                "default_rad",
                joint.default_rad,
                ours.default_rad - MAX_DEFAULT_OFFSET_RAD,
                ours.default_rad + MAX_DEFAULT_OFFSET_RAD,
            ),
            ("action_scale_rad", joint.action_scale_rad, 0.0, MAX_SCALE_RAD),
        ):
            if not low <= value <= high:
                wrong.append(f"{joint.name} {name} is {value:g}, allowed are {low:g} to {high:g}")
        joints.append(
            dataclasses.replace(
                joint,
                **{name: getattr(ours, name) for name in ("min_rad", "max_rad", "max_velocity_rad_s", "max_torque_nm")},
                default_rad=float(np.clip(joint.default_rad, ours.min_rad, ours.max_rad)),
            )
        )
    if wrong:
        raise ValueError("this policy is out of the Go2's bounds: " + "; ".join(wrong))
    return dataclasses.replace(config, joints=tuple(joints))
