"""Checks of the gait, the control rate and the gains in robot.yaml.

They tell whether a robot can walk with them, and whether anything holds its joints.
"""

from __future__ import annotations

from collections.abc import Iterable

import mujoco
import numpy as np

from rfx.check.finding import Check, Finding, mistake, warning
from rfx.check.physics import TIMESTEPS_S
from rfx.robot.config import RobotConfig

PHASES = np.linspace(0.0, 1.0, 200, endpoint=False)  # phases of the gait cycle
UNIT_FACTOR = 10.0  # a larger factor between the two files' gains means another unit, not other tuning
BOTH_SIDES = ("kp", "kd", "max_torque_nm", "max_velocity_rad_s")


def check_gait(config: RobotConfig) -> Check:
    """Check that feet step within the gait cycle and that some foot is always on the ground.

    It also checks that a physics step divides the control step.
    """
    found = [
        mistake(
            f"foot {foot.name}: gait_offset {foot.gait_offset:g} is no place in the gait cycle",
            f"set gait_offset: {foot.gait_offset % 1.0:g}",
        )
        for foot in config.feet
        if not 0.0 <= foot.gait_offset < 1.0
    ]
    offsets = np.array([foot.gait_offset for foot in config.feet])
    cycle = (PHASES[:, None] + offsets) % 1.0  # like the environment: first on the ground, then in the air
    on_ground = int((cycle < 1.0 - config.swing_share - 1e-9).sum(axis=1).min()) if len(offsets) else 0
    if len(offsets) and config.gait_freq_hz and not on_ground:
        found.append(
            mistake(
                "all feet are in the air at once for a part of the gait cycle",
                f"let gait_offset differ, 0.5 between left and right, or set a swing_share below {config.swing_share:g}",
            )
        )
    if not any(_divides(timestep_s, 1.0 / config.control_freq_hz) for timestep_s in TIMESTEPS_S):
        found.append(
            warning(
                f"control_freq_hz {config.control_freq_hz:g}: no physics step of 2, 5 or 10 ms divides the control step",
                "set control_freq_hz: 50 or 100, or train with an env.timestep_s that does",
            )
        )
    return Check(
        name="gait",
        findings=found,
        measured=f"{config.gait_freq_hz:g} Hz, at least {on_ground} of {len(offsets)} feet on the ground; "
        f"control at {config.control_freq_hz:g} Hz",
    )


def check_gains(config: RobotConfig, file: mujoco.MjModel) -> Check:
    """Check that every joint is held and damped, in rfx's units, and equally on the left and on the right."""
    found: list[Finding] = []
    for joint in config.joints:
        index = file.joint(joint.name).id
        if joint.kp == 0.0:
            found.append(
                mistake(
                    f"{joint.name}: kp is 0, so nothing holds it",
                    "set kp, N m/rad: the stiffness that its motor is given",
                )
            )
        if joint.kd == 0.0 and not file.dof_damping[file.jnt_dofadr[index]].any():
            found.append(
                mistake(f"{joint.name}: kd is 0 and the MJCF has no damping, so nothing stops it", "set kd, N m s/rad")
            )
        for kp in _stiffness(file, index):
            if joint.kp and not 1.0 / UNIT_FACTOR <= joint.kp / kp <= UNIT_FACTOR:
                found.append(
                    mistake(
                        f"{joint.name}: kp is {joint.kp:g}, the actuator of the MJCF has {kp:g}",
                        "set kp in N m/rad, kd in N m s/rad, or correct the MJCF",
                    )
                )
    by_name = {joint.name: joint for joint in config.joints}
    for joint in config.joints:
        if joint.mirror is not None and joint.name < joint.mirror:
            found += [
                mistake(
                    f"{joint.name} has {key} {getattr(joint, key):g}, its mirror image {joint.mirror} {value:g}",
                    "set the same for both",
                )
                for key in BOTH_SIDES
                if (value := getattr(by_name[joint.mirror], key)) != getattr(joint, key)
            ]
    return Check(
        name="gains", findings=found, measured=f"kp {_span(config, 'kp')} N m/rad, kd {_span(config, 'kd')} N m s/rad"
    )


def _stiffness(file: mujoco.MjModel, joint: int) -> Iterable[float]:
    """Stiffness of each position actuator that the file itself has on a joint, N m/rad."""
    for actuator in np.flatnonzero(
        (file.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT) & (file.actuator_trnid[:, 0] == joint)
    ):
        if (kp := -file.actuator_biasprm[actuator, 1] * file.actuator_gear[actuator, 0] ** 2) > 0.0:
            yield float(kp)


def _divides(timestep_s: float, control_step_s: float) -> bool:
    ratio = control_step_s / timestep_s
    return round(ratio) >= 1 and abs(round(ratio) - ratio) < 1e-6


def _span(config: RobotConfig, key: str) -> str:
    low, high = min(config.joint_array(key), default=0.0), max(config.joint_array(key), default=0.0)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
