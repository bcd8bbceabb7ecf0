"""Randomization terms: how each robot differs from the nominal one for an episode.

Each term writes into the Draw's arrays in place. A parameter is the [lowest, highest] of a uniform distribution, unless
its term says otherwise. `scale` multiplies the nominal value. Terms apply in the given order.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from rfx.drivers.base import robot_bodies, trunk_body
from rfx.drivers.contacts import write_sliding_friction
from rfx.random.streams import Streams
from rfx.robot.state import Array


class Draw:
    """num robots that are about to begin an episode: they are nominal until terms change them."""

    def __init__(self, model: mujoco.MjModel, num: int, num_joints: int):
        self.model, self.num = model, num
        self.trunk, self.others = trunk_body(model), ~robot_bodies(model)  # bodies that are not the robot's
        self.fields: dict[str, Array] = {}
        self.encoder_offset = np.zeros((num, num_joints), np.float32)  # rad, measured minus true position
        self.imu_tilt = np.zeros((num, 3), np.float32)  # rad, rotation vector from the base's frame to the sensor's
        self.latency_s = np.zeros(num)  # s, from an action to its effect

    def field(self, name: str) -> Array:
        """A field of MjModel with a row for each robot, (n, ...): the model's values until a term changes them."""
        if name not in self.fields:
            self.fields[name] = np.repeat(getattr(self.model, name)[None], self.num, axis=0)
        return self.fields[name]

    def of_dofs(self, factor: Array) -> Array:
        """Set the factors (n, nv) of all degrees of freedom that are not the robot's to 1, in place."""
        factor[:, self.others[self.model.dof_bodyid]] = 1.0
        return factor

    def keep(self, share: float) -> None:
        """Keep this share, from 0 to 1, of every difference from the nominal robot."""
        for name, values in self.fields.items():
            nominal = getattr(self.model, name)
            values[...] = nominal + share * (values - nominal)
        for difference in (self.encoder_offset, self.imu_tilt, self.latency_s):
            difference *= share


def floor_friction(draw: Draw, rng: Streams, coefficient: Sequence[float]) -> None:
    """Set the sliding friction of every contact."""
    write_sliding_friction(draw.field, rng.uniform(*coefficient, (draw.num, 1))[:, 0])


def base_mass(draw: Draw, rng: Streams, scale: Sequence[float]) -> None:
    """Scale the trunk's mass, and its inertia with it."""
    factor = rng.uniform(*scale, draw.num)
    draw.field("body_mass")[:, draw.trunk] *= factor
    draw.field("body_inertia")[:, draw.trunk] *= factor[:, None]


def payload(draw: Draw, rng: Streams, range_kg: Sequence[float]) -> None:
    """Add a point mass at the trunk's centre of mass; a negative mass makes the trunk lighter.

    Raises ValueError when no mass would be left.
    """
    mass = draw.field("body_mass")
    mass[:, draw.trunk] += rng.uniform(*range_kg, draw.num)
    if not (mass[:, draw.trunk] > 0.0).all():
        nominal = draw.model.body_mass[draw.trunk]
        raise ValueError(
            f"env.randomization.payload.range_kg is {list(range_kg)}: a trunk of {nominal:.1f} kg would have no mass left"
        )


def center_of_mass(draw: Draw, rng: Streams, range_m: Sequence[float]) -> None:
    """Move the trunk's centre of mass along each axis."""
    draw.field("body_ipos")[:, draw.trunk] += rng.uniform(*range_m, (draw.num, 3))


def link_mass(draw: Draw, rng: Streams, scale: Sequence[float]) -> None:
    """Scale the mass and the inertia of every link but the trunk."""
    factor = rng.uniform(*scale, (draw.num, draw.model.nbody))
    factor[:, draw.trunk] = factor[:, draw.others] = 1.0
    draw.field("body_mass")[...] *= factor
    draw.field("body_inertia")[...] *= factor[:, :, None]


def motor_strength(draw: Draw, rng: Streams, scale: Sequence[float]) -> None:
    """Scale the torque that each motor produces for a requested torque, and its highest torque."""
    factor = rng.uniform(*scale, (draw.num, draw.model.nu, 1))
    for name in ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"):
        draw.field(name)[...] *= factor


def kp(draw: Draw, rng: Streams, scale: Sequence[float]) -> None:
    """Scale the position gain of each motor."""
    factor = rng.uniform(*scale, (draw.num, draw.model.nu))
    draw.field("actuator_gainprm")[:, :, 0] *= factor
    draw.field("actuator_biasprm")[:, :, 1] *= factor


def kd(draw: Draw, rng: Streams, scale: Sequence[float]) -> None:
    """Scale the damping gain of each motor."""
    draw.field("actuator_biasprm")[:, :, 2] *= rng.uniform(*scale, (draw.num, draw.model.nu))


def joint_friction(draw: Draw, rng: Streams, scale: Sequence[float]) -> None:
    """Scale the dry friction of each joint."""
    draw.field("dof_frictionloss")[...] *= draw.of_dofs(rng.uniform(*scale, (draw.num, draw.model.nv)))


def joint_damping(draw: Draw, rng: Streams, coefficient: Sequence[float]) -> None:
    """Set the viscous friction of a robot's joints, N m s/rad, to one value for all joints.

    Published models of the same robot have values from 0.1 to 2. The value is drawn log-uniformly, because a uniform
    draw from so wide a range would make most robots slow. Raises ValueError for a lowest of 0 or less.
    """
    lowest, highest = coefficient
    if not lowest > 0.0:
        raise ValueError(
            f"env.randomization.joint_damping.coefficient is {list(coefficient)}: it is drawn log-uniformly, its lowest must be above 0"
        )
    free = draw.model.jnt_type[draw.model.dof_jntid] == mujoco.mjtJoint.mjJNT_FREE
    joints = np.flatnonzero(~free & ~draw.others[draw.model.dof_bodyid])
    draw.field("dof_damping")[:, joints] = lowest * (highest / lowest) ** rng.random((draw.num, 1))


def joint_armature(draw: Draw, rng: Streams, scale: Sequence[float]) -> None:
    """Scale the rotor inertia of each motor, as seen at its joint."""
    draw.field("dof_armature")[...] *= draw.of_dofs(rng.uniform(*scale, (draw.num, draw.model.nv)))


def encoder_offset(draw: Draw, rng: Streams, range_rad: Sequence[float]) -> None:
    """Add an offset to each joint's encoder reading; the motor's own position control uses the same wrong reading."""
    draw.encoder_offset[...] += rng.uniform(*range_rad, draw.encoder_offset.shape)


def imu_tilt(draw: Draw, rng: Streams, range_rad: Sequence[float]) -> None:
    """Turn the IMU about each axis, relative to the base that it is mounted on."""
    draw.imu_tilt[...] += rng.uniform(*range_rad, draw.imu_tilt.shape)


def imu_tilt_aside(draw: Draw, rng: Streams, range_rad: Sequence[float]) -> None:
    """Turn the IMU about each axis by an angle in [lowest, highest], to a random side; lowest > 0 tilts every IMU."""
    size = rng.uniform(*range_rad, draw.imu_tilt.shape)
    draw.imu_tilt[...] += np.where(rng.random(size.shape) < 0.5, -size, size)


def action_latency(draw: Draw, rng: Streams, range_s: Sequence[float]) -> None:
    """Let the motors keep the last target for this time after a new action.

    The time is at most one control step, in whole physics steps.
    """
    draw.latency_s[...] += rng.uniform(*range_s, draw.num)
