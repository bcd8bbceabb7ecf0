"""Randomization terms: how each robot differs from the nominal one for an episode. Each writes into Robots' arrays in place.

A parameter is the [lowest, highest] of a uniform distribution; `scale` multiplies the nominal value. Terms apply in the order given.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from rfx.state import Array


class Robots:
    """n robots about to begin an episode: nominal, until terms change them."""

    def __init__(self, model: mujoco.MjModel, num: int, num_joints: int):
        self.model, self.num = model, num
        self.base = int(model.jnt_bodyid[np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)[0]])
        self.fields: dict[str, Array] = {}
        self.encoder_offset = np.zeros((num, num_joints), np.float32)  # rad, measured minus true position
        self.imu_tilt = np.zeros((num, 3), np.float32)  # rad, rotation vector from the base's frame to the sensor's
        self.latency_s = np.zeros(num)  # from an action to its effect

    def field(self, name: str) -> Array:
        """A field of MjModel, a row for each robot: the model's values until a term changes them. (n, ...)."""
        if name not in self.fields:
            self.fields[name] = np.repeat(getattr(self.model, name)[None], self.num, axis=0)
        return self.fields[name]


def floor_friction(robots: Robots, rng: np.random.Generator, coefficient: Sequence[float]) -> None:
    """Sliding friction of every contact. It stands in every geom, whichever of two geoms a model lets decide."""
    robots.field("geom_friction")[:, :, 0] = rng.uniform(*coefficient, (robots.num, 1))


def base_mass(robots: Robots, rng: np.random.Generator, scale: Sequence[float]) -> None:
    """The trunk's mass, and its inertia with it."""
    factor = rng.uniform(*scale, robots.num)
    robots.field("body_mass")[:, robots.base] *= factor
    robots.field("body_inertia")[:, robots.base] *= factor[:, None]


def payload(robots: Robots, rng: np.random.Generator, range_kg: Sequence[float]) -> None:
    """A point mass at the trunk's centre of mass; a negative one lightens it. Raises ValueError when no mass would be left."""
    mass = robots.field("body_mass")
    mass[:, robots.base] += rng.uniform(*range_kg, robots.num)
    if not (mass[:, robots.base] > 0.0).all():
        nominal = robots.model.body_mass[robots.base]
        raise ValueError(f"env.randomization.payload.range_kg is {list(range_kg)}: a trunk of {nominal:.1f} kg would have no mass left")


def center_of_mass(robots: Robots, rng: np.random.Generator, range_m: Sequence[float]) -> None:
    """The trunk's centre of mass, moved along each axis."""
    robots.field("body_ipos")[:, robots.base] += rng.uniform(*range_m, (robots.num, 3))


def link_mass(robots: Robots, rng: np.random.Generator, scale: Sequence[float]) -> None:
    """Mass and inertia of every link of the legs."""
    factor = rng.uniform(*scale, (robots.num, robots.model.nbody))
    factor[:, robots.base] = 1.0
    robots.field("body_mass")[...] *= factor
    robots.field("body_inertia")[...] *= factor[:, :, None]


def motor_strength(robots: Robots, rng: np.random.Generator, scale: Sequence[float]) -> None:
    """Torque that each motor gives for the torque it is asked for, and the most it gives."""
    factor = rng.uniform(*scale, (robots.num, robots.model.nu, 1))
    for name in ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange"):
        robots.field(name)[...] *= factor


def kp(robots: Robots, rng: np.random.Generator, scale: Sequence[float]) -> None:
    """Position gain of each motor."""
    factor = rng.uniform(*scale, (robots.num, robots.model.nu))
    robots.field("actuator_gainprm")[:, :, 0] *= factor
    robots.field("actuator_biasprm")[:, :, 1] *= factor


def kd(robots: Robots, rng: np.random.Generator, scale: Sequence[float]) -> None:
    """Damping gain of each motor."""
    robots.field("actuator_biasprm")[:, :, 2] *= rng.uniform(*scale, (robots.num, robots.model.nu))


def joint_friction(robots: Robots, rng: np.random.Generator, scale: Sequence[float]) -> None:
    """Dry friction of each joint."""
    robots.field("dof_frictionloss")[...] *= rng.uniform(*scale, (robots.num, robots.model.nv))


def joint_armature(robots: Robots, rng: np.random.Generator, scale: Sequence[float]) -> None:
    """Rotor inertia of each motor, as seen at its joint."""
    robots.field("dof_armature")[...] *= rng.uniform(*scale, (robots.num, robots.model.nv))


def encoder_offset(robots: Robots, rng: np.random.Generator, range_rad: Sequence[float]) -> None:
    """What each joint's encoder reads too much; the motor's own position control is off by it too."""
    robots.encoder_offset[...] += rng.uniform(*range_rad, robots.encoder_offset.shape)


def imu_tilt(robots: Robots, rng: np.random.Generator, range_rad: Sequence[float]) -> None:
    """How far the IMU is turned about each axis against the base that it is mounted on."""
    robots.imu_tilt[...] += rng.uniform(*range_rad, robots.imu_tilt.shape)


def action_latency(robots: Robots, rng: np.random.Generator, range_s: Sequence[float]) -> None:
    """How long the motors go on with the last target after a new action: up to one control step, in whole physics steps."""
    robots.latency_s[...] += rng.uniform(*range_s, robots.num)
