"""Finds a robot's floating base in a model that may hold more than the robot."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from rfx.robot.config import RobotConfig
from rfx.robot.state import Array


@dataclass(frozen=True, kw_only=True)
class BaseAddresses:
    """The base's body, and the addresses of its free joint in a model."""

    body: int
    position: slice  # slice of qpos: (3,), m, world
    quaternion: slice  # slice of qpos: (4,), wxyz
    velocity: slice  # slice of qvel: (6,), linear and angular velocity
    linear_velocity: slice  # slice of qvel: (3,), m/s, world
    angular_velocity: slice  # slice of qvel: (3,), rad/s, in the base's frame


def find_base(spec: mujoco.MjSpec, config: RobotConfig) -> mujoco.MjsBody:
    """Find the body whose free joint carries all of the config's joints. Raises ValueError unless there is one."""
    bases = {}
    for name in config.joint_names:
        body = spec.joint(name).parent
        while body is not None and not any(joint.type == mujoco.mjtJoint.mjJNT_FREE for joint in body.joints):
            body = body.parent
        if body is None:
            raise ValueError("the model's base is fixed: expected a body with a free joint")
        bases.setdefault(body, name)
    if len(bases) != 1:
        raise ValueError(
            f"the joints {', '.join(bases.values())} of robot {config.name!r} hang on {len(bases)} floating "
            "bodies: expected one"
        )
    return next(iter(bases))


def trunk_body(model: mujoco.MjModel) -> int:
    """Id of the body that carries the robot's load; `base_touch` feels its contacts.

    It need not be the floating body.
    """
    return int(model.site_bodyid[model.sensor("base_touch").objid[0]])


def base_addresses(model: mujoco.MjModel) -> BaseAddresses:
    """Addresses of the base in a model from load_model."""
    body = int(model.body_rootid[trunk_body(model)])
    joint = model.body_jntadr[body]
    qpos, qvel = int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])
    return BaseAddresses(
        body=body,
        position=slice(qpos, qpos + 3),
        quaternion=slice(qpos + 3, qpos + 7),
        velocity=slice(qvel, qvel + 6),
        linear_velocity=slice(qvel, qvel + 3),
        angular_velocity=slice(qvel + 3, qvel + 6),
    )


def robot_bodies(model: mujoco.MjModel) -> Array:
    """Mask of the robot's bodies in a model from load_model. (nbody,), bool."""
    return model.body_rootid == base_addresses(model).body


def robot_mass_kg(model: mujoco.MjModel, body_mass: Array) -> Array:
    """Total mass of the robot for each set of masses body_mass (..., nbody). (...), kg."""
    return np.where(robot_bodies(model), body_mass, 0.0).sum(axis=-1)
