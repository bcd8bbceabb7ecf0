"""Simulated sensors: encoders with offsets, a tilted IMU, and noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from rfx.random.streams import Streams
from rfx.robot.state import Array, RobotState
from rfx.settings.terms import nearest

MEASURED = {
    "joint_position": "joint_position",
    "joint_velocity": "joint_velocity",
    "base_angular_velocity": "base_angular_velocity_b",
    "projected_gravity": "projected_gravity_b",
}  # observation terms, and the field of RobotState that each shows


class Sensing:
    """The sensors of N robots; `state` holds their readings. Perfect sensors read the true state itself.

    noise maps an observation term to its width: noise is uniform within +- the width, and new at every measurement.
    encoder_offset (N, num_joints), rad, is shared with its owner. Raises ValueError for a negative width, or for a term
    that no sensor measures.
    """

    def __init__(self, true: RobotState, encoder_offset: Array, noise: Mapping[str, float], perfect: bool):
        for name, width in noise.items():
            if name not in MEASURED:
                raise ValueError(f"env.noise has {name!r}, which is no sensor's: {nearest(name, MEASURED)}")
            if not width >= 0:
                raise ValueError(f"env.noise.{name} is {width!r}: it must be 0 or more")
        self._true, self._perfect, self._encoder_offset = true, perfect, encoder_offset
        self._noise = [(MEASURED[name], np.float32(width)) for name, width in noise.items()]
        # From the base frame to the sensor frame
        self.imu_rotation = np.tile(np.eye(3, dtype=np.float32), (len(true.gait_phase), 1, 1))
        copies = {name: getattr(true, name).copy() for name in MEASURED.values()}
        # The arrays of command, action and clock stay shared with the true state.
        self.state = true if perfect else dataclasses.replace(true, **copies)

    def tilt_imu(self, ids: Array, rotation_vector: Array) -> None:
        """Turn the IMUs of robots ids (n,) by rotation_vector (n, 3), rad, relative to the base."""
        self.imu_rotation[ids] = rotation_matrices(rotation_vector).transpose(0, 2, 1)

    def measure(self, rows: slice | Array, rng: Streams) -> None:
        """Read the sensors of the robots in rows. rng has the streams of all robots; each draws noise from its own."""
        if self._perfect:
            return
        true, said = self._true, self.state
        said.joint_position[rows] = true.joint_position[rows] + self._encoder_offset[rows]
        said.joint_velocity[rows] = true.joint_velocity[rows]
        for name in ("base_angular_velocity_b", "projected_gravity_b"):
            getattr(said, name)[rows] = np.einsum("nij,nj->ni", self.imu_rotation[rows], getattr(true, name)[rows])
        rng = rng.of(rows)
        for name, width in self._noise:
            values = getattr(said, name)
            noise = rng.random(values[rows].shape, np.float32)
            noise -= np.float32(0.5)
            noise *= np.float32(2.0) * width
            values[rows] += noise


def rotation_matrices(vector: Array) -> Array:
    """Rotation matrices (n, 3, 3) of rotation vectors (n, 3), rad: Rodrigues' formula."""
    angle = np.linalg.norm(vector, axis=1)[:, None, None]
    x, y, z = (vector / np.maximum(angle[:, :, 0], 1e-12)).T
    zero = np.zeros_like(x)
    cross = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
