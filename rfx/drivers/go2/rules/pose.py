"""What the driver knows of a Go2's body beyond its RobotConfig: how it lies, and which policies' gains it may be
given.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array

LYING = np.tile(np.array([0.0, 1.36, -2.65], np.float32), 4)  # rad: folded legs, as in Unitree's go2_stand_example
FOLDED_CALF_RAD = -2.2  # a folded leg's calf is below this: half way between standing, -1.8, and lying, -2.65

# How far a policy's own values may be from the robot's: within these a stiff leg neither sags under the weight nor
# rings.
KP_FACTORS, KD_FACTORS = (0.5, 1.5), (0.5, 3.0)
MAX_SCALE_RAD = 1.0  # of an action: more and one action of 1 asks a thigh for most of its way
MAX_DEFAULT_OFFSET_RAD = 0.3  # of the default pose
CONTROL_HZ = (25.0, 100.0)  # slower, and a single late step would already be the sender's policy timeout


def unfolded_legs(joint_position: Array) -> list[str]:
    """Which legs are not folded under the body, each with its calf's angle. joint_position (12,), rad, in motor
    order.
    """
    return [
        f"{leg} {angle:.2f} rad"
        for leg, angle in zip(("FR", "FL", "RR", "RL"), joint_position[2::3].tolist())
        if not angle < FOLDED_CALF_RAD
    ]


def adopt(config: RobotConfig, own: RobotConfig = GO2_CONFIG) -> RobotConfig:
    """A policy's config as this robot may run it: gains, default pose, scale and terms are the policy's, limits are the
    robot's own.

    Raises ValueError that lists everything out of bounds.
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
