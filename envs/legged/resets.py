"""Reset terms, which vary how episodes begin. Each writes into Start's arrays in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfx.random.streams import Streams
from rfx.robot.state import Array


@dataclass(frozen=True, kw_only=True)
class Start:
    """How n episodes begin: before the terms change it, robots rest in the default pose."""

    base_position_w: Array  # (n, 3), m
    base_quaternion: Array  # (n, 4), wxyz
    base_linear_velocity_w: Array  # (n, 3), m/s
    base_angular_velocity_b: Array  # (n, 3), rad/s
    joint_position: Array  # (n, num_joints), rad
    joint_velocity: Array  # (n, num_joints), rad/s


def joint_position(start: Start, rng: Streams, range_rad: Sequence[float] = (-0.1, 0.1)) -> None:
    """Add a uniform offset to every joint."""
    start.joint_position[...] += rng.uniform(*range_rad, start.joint_position.shape)


def yaw(start: Start, rng: Streams, range_rad: Sequence[float] = (-np.pi, np.pi)) -> None:
    """Turn the upright base to a uniform heading."""
    half = 0.5 * rng.uniform(*range_rad, len(start.base_quaternion))
    start.base_quaternion[...] = 0.0
    start.base_quaternion[:, 0], start.base_quaternion[:, 3] = np.cos(half), np.sin(half)


def base_velocity(
    start: Start, rng: Streams, range_m_s: Sequence[float] = (-0.2, 0.2), range_rad_s: Sequence[float] = (-0.2, 0.2)
) -> None:
    """Give the base a uniform linear and angular velocity along each axis."""
    start.base_linear_velocity_w[...] += rng.uniform(*range_m_s, start.base_linear_velocity_w.shape)
    start.base_angular_velocity_b[...] += rng.uniform(*range_rad_s, start.base_angular_velocity_b.shape)
