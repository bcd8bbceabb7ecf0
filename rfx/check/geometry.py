"""Checks of the robot's shape at its default pose: feet on the floor, left side the mirror image of the right."""

from __future__ import annotations

from collections.abc import Iterable

import mujoco
import numpy as np

from rfx.check.finding import Check, Finding, mistake, warning
from rfx.drivers.base import base_addresses, robot_bodies, robot_mass_kg, trunk_body
from rfx.drivers.contacts import colliding_ids
from rfx.drivers.sensors import SITE_M, foot_geoms, foot_sites
from rfx.drivers.shapes import inside, lowest_point, surface
from rfx.robot.config import JointConfig, RobotConfig
from rfx.robot.mirror import Mirror
from rfx.robot.state import Array

FOOT_M = 0.003  # a foot may be this far above the floor
# Left and right may differ by this: cables and covers do.
PLACE_M, CENTER_M, AXIS_RAD, MASS_SHARE = (0.002, 0.005, 0.02, 0.01)
MIDDLE_M = 0.01  # a body whose centre of mass is closer to the middle plane belongs to neither side


def check_feet(config: RobotConfig, model: mujoco.MjModel, data: mujoco.MjData) -> Check:
    """Check that only the feet touch the floor at the default pose, and that a foot's site encloses its geoms."""
    found, heights, of_feet = [], [], []
    for foot, site in zip(config.feet, map(model.site, foot_sites(model, config))):
        geoms = foot_geoms(model, foot)
        of_feet += geoms
        heights.append(min(lowest_point(model, data, geom) for geom in geoms))
        if heights[-1] > FOOT_M:
            found.append(
                mistake(
                    f"foot {foot.name} is {1e3 * heights[-1]:.0f} mm above the floor at the default pose",
                    "correct default_rad of its leg's joints, or its place in the MJCF",
                )
            )
        for geom in geoms:
            if (
                model.geom_bodyid[geom] != site.bodyid[0]
                or not inside(model, data, site.id, surface(model, data, geom), SITE_M).all()
            ):
                found.append(
                    mistake(
                        f"foot {foot.name}: geom {model.geom(geom).name or geom} reaches out of its site {site.name!r}, and "
                        "contacts out there are not felt",
                        "make the site larger, or leave it out: one is put around the geoms",
                    )
                )
    own = robot_bodies(model)[model.geom_bodyid]
    for geom in colliding_ids(model):
        if own[geom] and geom not in of_feet and (below := -lowest_point(model, data, geom)) > FOOT_M:
            found.append(
                mistake(
                    f"a geom of body {model.body(model.geom_bodyid[geom]).name!r} is {1e3 * below:.0f} mm below the feet at the "
                    "default pose",
                    "raise it, name it among the foot's geoms, or correct default_rad",
                )
            )
    if not (model.geom_bodyid[colliding_ids(model)] == trunk_body(model)).any():
        found.append(
            warning(
                "nothing of the trunk collides: a robot that lies on it is not felt", "give its body a geom that does"
            )
        )
    height_m = data.xpos[base_addresses(model).body, 2]
    return Check(
        name="feet on the floor",
        findings=found,
        measured=f"within {1e3 * max(np.abs(heights)):.1f} mm; base at {height_m:.3f} m",
    )


def check_mirror(config: RobotConfig, model: mujoco.MjModel, data: mujoco.MjData) -> Check:
    """Check that each joint's mirror image is its reflection in the plane between left and right.

    Place, axis, mass and centre of mass are compared at one pose that is its own mirror image. If axes and places
    mirror each other there, they do so at every pose, because a pose is a product of rotations about them.
    """
    if not any(joint.mirror for joint in config.joints):
        return Check(
            name="mirror",
            measured="none said",
            findings=[
                warning(
                    "no joint has a mirror image",
                    "say mirror and mirror_sign of every joint, or train with policy.symmetric=false",
                )
            ],
        )
    try:
        Mirror(config)
    except ValueError as error:
        return Check(
            name="mirror", findings=[mistake(str(error), "correct mirror, mirror_sign, default_rad or gait_offset")]
        )
    found = [finding for joint in config.joints for finding in _mirror_findings(config, joint, model, data)]
    for foot in config.feet:
        if foot.mirror is not None and foot.name <= foot.mirror:
            here, there = (
                np.mean(data.geom_xpos[foot_geoms(model, config.feet[config.foot_names.index(name)])], axis=0)
                for name in (foot.name, foot.mirror)
            )
            if (away_m := np.linalg.norm(reflected(here) - there)) > PLACE_M:
                found.append(
                    mistake(
                        f"feet {foot.name} and {foot.mirror}: {1e3 * away_m:.0f} mm from being each other's reflection",
                        "correct mirror, or their places in the MJCF",
                    )
                )
    own = robot_bodies(model)
    left, right = (float(model.body_mass[own & (side * data.xipos[:, 1] > MIDDLE_M)].sum()) for side in (1, -1))
    if abs(left - right) > MASS_SHARE * max(left, right):
        found.append(
            mistake(f"the left side has {left:.3f} kg, the right one {right:.3f} kg", "correct the masses in the MJCF")
        )
    return Check(
        name="mirror",
        findings=found,
        measured=f"left {left:.2f} kg, right {right:.2f} kg, middle "
        f"{robot_mass_kg(model, model.body_mass) - left - right:.2f} kg",
    )


def _mirror_findings(
    config: RobotConfig, joint: JointConfig, model: mujoco.MjModel, data: mujoco.MjData
) -> Iterable[Finding]:
    if joint.name > str(joint.mirror):  # each pair is checked once
        return
    pair = f"{joint.name} and {joint.mirror}" if joint.name != joint.mirror else joint.name
    one, other = model.joint(joint.name).id, model.joint(joint.mirror).id
    sign, away_m = _sign(model, data, one, other), _away_m(model, data, one, other)
    if sign is None or away_m > CENTER_M:
        what = "place or axis differs" if sign is None else f"the centres of mass are {1e3 * away_m:.0f} mm from it"
        images = [
            name
            for name in config.joint_names
            if _sign(model, data, one, image := model.joint(name).id) and _away_m(model, data, one, image) <= CENTER_M
        ]
        yield mistake(
            f"{pair} are not each other's reflection: {what}",
            f"set mirror: {images[0]} for {joint.name}" if images else "correct their bodies in the MJCF",
        )
        return
    if sign != joint.mirror_sign:
        yield mistake(
            f"{pair}: mirror_sign is {joint.mirror_sign}, their axes in the MJCF ask for {sign}",
            f"set mirror_sign: {sign} for both",
        )
    masses = [model.body_mass[model.jnt_bodyid[index]] for index in (one, other)]
    if abs(masses[0] - masses[1]) > MASS_SHARE * max(masses):
        yield mistake(f"{pair} move bodies of {masses[0]:.3f} and {masses[1]:.3f} kg", "correct the masses in the MJCF")


def _away_m(model: mujoco.MjModel, data: mujoco.MjData, joint: int, image: int) -> float:
    """Distance between the centre of mass of one joint's body and the reflection of the other's, m."""
    return float(np.linalg.norm(reflected(data.xipos[model.jnt_bodyid[joint]]) - data.xipos[model.jnt_bodyid[image]]))


def _sign(model: mujoco.MjModel, data: mujoco.MjData, joint: int, image: int) -> int | None:
    """mirror_sign of two joints: 1 if equal angles mirror each other, -1 if opposite angles do.

    None if the joints are not each other's reflection.
    """
    hinge = model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE
    axis, offset = reflected(data.xaxis[joint]), reflected(data.xanchor[joint]) - data.xanchor[image]
    along = float(axis @ data.xaxis[image]) * (-1.0 if hinge else 1.0)  # a reflection reverses rotations
    if abs(along) < np.cos(AXIS_RAD) or hinge and np.linalg.norm(np.cross(offset, axis)) > PLACE_M:
        return None
    return 1 if along > 0 else -1


def reflected(vector: Array) -> Array:
    """Reflect a vector (3,) in the plane between left and right of a robot that stands level at the origin. (3,)."""
    return vector * (1.0, -1.0, 1.0)
