"""Compares robot.yaml with the MJCF: names, ranges, torque limits, the observation's width."""

from __future__ import annotations

from collections.abc import Iterable

import mujoco
import numpy as np

from rfx.check.finding import Check, Finding, mistake, warning
from rfx.drivers.contacts import colliding_ids
from rfx.robot.config import JointConfig, RobotConfig
from rfx.robot.observe import observation_width
from rfx.settings.terms import nearest

ONE_DOF = (mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE)
RANGE_RAD, TORQUE_SHARE = 1e-3, 0.01  # robot.yaml and the MJCF may differ by this: figures are rounded


def check_observation(config: RobotConfig) -> Check:
    """Check that the observation has terms, and the width in robot.yaml if one is given.

    RobotConfig already requires that it fits the padding.
    """
    width, found = observation_width(config), []
    if not config.observation_terms:
        found.append(mistake("robot.yaml names no observation_terms", "add the list: a policy sees nothing without"))
    elif width != config.state_dim:
        found.append(
            mistake(
                f"state_dim is {config.state_dim}, its observation terms are {width} wide",
                "leave state_dim out: it follows",
            )
        )
    return Check(
        name="observation",
        findings=found,
        measured=f"{config.state_dim} of {config.max_state_dim} values, "
        f"{config.action_dim} of {config.max_action_dim} actions",
    )


def check_joints(config: RobotConfig, file: mujoco.MjModel) -> Check:
    """Check that names, ranges and torque limits in robot.yaml equal those in the MJCF, or lie within them."""
    found, names = [], [file.joint(joint).name for joint in np.flatnonzero(np.isin(file.jnt_type, ONE_DOF))]
    for joint in config.joints:
        if joint.name not in names:
            found.append(mistake(f"the MJCF has no hinge or slide joint {joint.name!r}", nearest(joint.name, names)))
            continue
        found += _range_findings(joint, file)
        limits = _torque_limits(file, file.joint(joint.name).id)
        if limits:
            limit, place = min(limits)
            text, mend = (
                f"{joint.name}: max_torque_nm {joint.max_torque_nm:g}, {place} of the MJCF {limit:g} N m",
                f"set max_torque_nm: {limit:g}",
            )
            if joint.max_torque_nm > limit * (1.0 + TORQUE_SHARE):
                found.append(mistake(text, f"{mend}, or correct {place}"))
            elif joint.max_torque_nm < limit * (1.0 - TORQUE_SHARE):
                found.append(warning(text, f"{mend}, unless the weaker motor is meant"))
    idle = [name or "one without a name" for name in names if name not in config.joint_names]
    if idle:
        found.append(
            warning(
                f"nothing drives the joints {', '.join(idle)} of the MJCF",
                "add them to joints, or take them out of the MJCF",
            )
        )
    return Check(
        name="joints", findings=found, measured=f"{len(config.joints)} in robot.yaml, {len(names)} in the MJCF"
    )


def _range_findings(joint: JointConfig, file: mujoco.MjModel) -> Iterable[Finding]:
    there = file.joint(joint.name)
    if not file.jnt_limited[there.id]:
        yield warning(
            f"{joint.name} has no range in the MJCF: it turns past min_rad and max_rad",
            f'give it range="{joint.min_rad:g} {joint.max_rad:g}"',
        )
        return
    low, high = there.range
    text = f"{joint.name}: min_rad {joint.min_rad:g}, max_rad {joint.max_rad:g}, range of the MJCF {low:g} to {high:g}"
    if np.allclose(np.degrees([low, high]), [joint.min_rad, joint.max_rad], atol=0.01) and high > low:
        yield mistake(text, 'the MJCF\'s angles are taken for degrees: write <compiler angle="radian"/> in it')
    elif joint.min_rad < low - RANGE_RAD or joint.max_rad > high + RANGE_RAD:
        yield mistake(text, f"set min_rad: {low:g}, max_rad: {high:g}, or correct the range")
    elif joint.min_rad > low + RANGE_RAD or joint.max_rad < high - RANGE_RAD:
        yield warning(text, f"set min_rad: {low:g}, max_rad: {high:g}, unless the narrower range is meant")


def _torque_limits(file: mujoco.MjModel, joint: int) -> list[tuple[float, str]]:
    """Torque limits, N m, of a joint in the file, each with the attribute that sets it."""
    limits = []
    if file.jnt_actfrclimited[joint]:
        limits.append((float(np.abs(file.jnt_actfrcrange[joint]).max()), "actuatorfrcrange"))
    for actuator in np.flatnonzero(
        (file.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT) & (file.actuator_trnid[:, 0] == joint)
    ):
        gear = abs(file.actuator_gear[actuator, 0])
        if file.actuator_forcelimited[actuator]:
            limits.append((float(gear * np.abs(file.actuator_forcerange[actuator]).max()), "forcerange"))
        # The control of a plain motor is a torque.
        if file.actuator_ctrllimited[actuator] and file.actuator_biastype[actuator] == mujoco.mjtBias.mjBIAS_NONE:
            gain = gear * abs(file.actuator_gainprm[actuator, 0])
            limits.append((float(gain * np.abs(file.actuator_ctrlrange[actuator]).max()), "ctrlrange"))
    return limits


def check_feet_names(config: RobotConfig, file: mujoco.MjModel) -> Check:
    """Check that every foot's geoms or site are in the MJCF."""
    sites = [file.site(site).name for site in range(file.nsite)]
    geoms = [file.geom(geom).name for geom in colliding_ids(file)]
    found = []
    if not config.feet:
        found.append(mistake("robot.yaml names no feet", "add the list feet, each with a name and its site or geoms"))
    for foot in config.feet:
        found += [
            mistake(
                f"foot {foot.name}: the MJCF has no geom {name!r} that collides", nearest(name, filter(None, geoms))
            )
            for name in foot.geoms
            if name not in geoms
        ]
        if foot.site and foot.site not in sites:
            text, mend = (
                f"foot {foot.name}: the MJCF has no site {foot.site!r}",
                nearest(foot.site, filter(None, sites)),
            )
            found.append(warning(f"{text}; one is put around its geoms", mend) if foot.geoms else mistake(text, mend))
    return Check(name="feet", findings=found, measured=", ".join(config.foot_names))
