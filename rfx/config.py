"""What a robot is, as data: joints, gains, limits, rates and the observation terms its policies see."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """One actuated joint: its place in the robot's motor order, its limits, its default pose and its PD gains."""

    name: str
    index: int
    min_rad: float = -3.14159
    max_rad: float = 3.14159
    max_velocity_rad_s: float = 30.0
    max_torque_nm: float = 30.0
    default_rad: float = 0.0
    kp: float = 35.0  # N m / rad
    kd: float = 0.5  # N m s / rad


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """One camera: its name, picture size in pixels and frame rate in Hz."""

    name: str
    width: int = 640
    height: int = 480
    fps_hz: float = 30.0


@dataclass(frozen=True, kw_only=True)
class RobotConfig:
    """Everything a policy must agree on with the robot it runs on."""

    name: str
    urdf_path: str | None = None
    state_dim: int = 12
    action_dim: int = 6
    max_state_dim: int = 64
    max_action_dim: int = 64
    cameras: tuple[CameraConfig, ...] = ()
    joints: tuple[JointConfig, ...] = ()
    control_freq_hz: float = 50.0
    action_scale_rad: float = 0.5
    gait_freq_hz: float = 2.0
    observation_terms: tuple[str, ...] = ()
    hardware: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """Joint names in motor order."""
        return tuple(joint.name for joint in self.joints)

    def joint_array(self, attribute: str) -> np.ndarray:
        """One attribute of every joint, in motor order. (num_joints,), float32."""
        return np.array([getattr(joint, attribute) for joint in self.joints], np.float32)

    @cached_property
    def default_position(self) -> np.ndarray:
        """Default joint positions. (num_joints,), rad."""
        return self.joint_array("default_rad")

    @cached_property
    def joint_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper joint limits. Two (num_joints,), rad."""
        return self.joint_array("min_rad"), self.joint_array("max_rad")


def joint_targets(config: RobotConfig, action: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Joint position targets that an action asks for: default + scale * action, clipped to the joint limits.

    action (N, num_joints) in [-1, 1]; returns (N, num_joints), rad. The simulator and the drivers call this one function.
    """
    out = np.multiply(action, np.float32(config.action_scale_rad), out=out)
    out += config.default_position
    return np.clip(out, *config.joint_range, out=out)


def _go2_joints() -> tuple[JointConfig, ...]:
    # Limits, torques and velocities: Unitree's go2_description. Gains: actuator stiffness and damping trained with.
    thigh_range = {"F": (-1.5708, 3.4907), "R": (-0.5236, 4.5379)}
    joints = []
    for leg in ("FR", "FL", "RR", "RL"):
        for part, (low, high), default, torque, velocity in (
            ("hip", (-1.0472, 1.0472), 0.0, 23.7, 30.1),
            ("thigh", thigh_range[leg[0]], 0.9, 23.7, 30.1),
            ("calf", (-2.7227, -0.83776), -1.8, 45.43, 15.7),
        ):
            joints.append(JointConfig(name=f"{leg}_{part}_joint", index=len(joints), min_rad=low, max_rad=high,
                                      max_velocity_rad_s=velocity, max_torque_nm=torque, default_rad=default))
    return tuple(joints)


GO2_CONFIG = RobotConfig(
    name="go2", state_dim=48, action_dim=12, joints=_go2_joints(),
    observation_terms=("joint_position", "joint_velocity", "base_angular_velocity", "projected_gravity",
                       "velocity_command", "last_action", "gait_clock"),
)
