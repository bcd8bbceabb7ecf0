"""The Go2 as data, read from its file, and with what a policy may change of it."""

from __future__ import annotations

import dataclasses

from rfx.config import RobotConfig
from rfx.robot_files import load_robot

GO2_CONFIG = load_robot("go2")

# What a policy's folder may ask of each joint. Our own choice: training in use elsewhere has kp 20 to 80 N m/rad, kd 0.5 to 3 N m s/rad and
# action scales of 0.25 to 0.5 rad for this robot; more stiffness than 100 was never tried, and Unitree's examples damp with kd 2 and stand
# with 5.
SAFE_BOUNDS = {"kp": (10.0, 100.0), "kd": (0.2, 5.0), "action_scale_rad": (0.05, 1.0)}


def with_gains_of(policy: RobotConfig | None) -> RobotConfig:
    """The Go2 with the gains and action scales that a policy was trained with. All else stays ours, for the policy to be compared with.

    Raises ValueError for a value outside SAFE_BOUNDS, naming joint and bounds.
    """
    if policy is None or policy.joint_names != GO2_CONFIG.joint_names:
        return GO2_CONFIG  # what differs is told where the policy is compared with it
    joints = []
    for ours, theirs in zip(GO2_CONFIG.joints, policy.joints):
        asked = {name: getattr(theirs, name) for name in SAFE_BOUNDS}
        for name, value in asked.items():
            low, high = SAFE_BOUNDS[name]
            if not low <= value <= high:
                raise ValueError(f"the policy asks for {name} {value:g} of {ours.name}; expected {low:g} to {high:g}, which is safe on a Go2")
        joints.append(dataclasses.replace(ours, **asked))
    return dataclasses.replace(GO2_CONFIG, joints=tuple(joints))
