"""Checks whether the robot stands under its gains, what torque that takes, and how fast it is simulated."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError

from rfx.check.finding import Check, mistake, warning
from rfx.drivers.base import base_addresses, robot_bodies
from rfx.drivers.mjcf import disabled, load_model, motor_addresses, quiet_mujoco
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array

STAND_S, SETTLED_S = 5.0, 1.0  # the robot stands for STAND_S; only the last SETTLED_S count
TIMESTEPS_S = (0.002, 0.005, 0.01)
DOWN_SHARE, TILT_RAD = 0.25, 0.15  # a robot that sinks by more than this share of its height, or leans more, is down
TORQUE_WARNING, TORQUE_MISTAKE = 0.6, 0.9  # shares of max_torque_nm that standing takes
BESIDE_SHARE = 0.25  # share of the height; the centre of mass may be this far from the middle of the feet
NUM_SIMULATIONS, SPEED_S = 64, 1.0
GRAVITY_M_S2, GRAVITY_SPREAD_M_S2 = 9.81, 0.05  # 9.78 at the equator, 9.83 at the poles
AIR_KG_M3, AIR_PA_S = 2.0, 1e-4  # upper limits; air at sea level has 1.2 and 2e-5
FELT = ("gravity", "limit", "frictionloss", "spring", "damper")


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Worst values over the last second of a robot that stands under its gains, at one physics step."""

    timestep_s: float
    sunk_share: float  # share of the height at the default pose
    tilt_rad: float
    error_rad: Array  # each joint's distance from its target
    torque_share: Array  # each joint's torque as a share of max_torque_nm
    broke: bool  # MuJoCo gave up on the simulation

    @property
    def fell(self) -> bool:
        """Whether the robot did not stay standing."""
        return self.broke or not (self.sunk_share <= DOWN_SHARE and self.tilt_rad <= TILT_RAD)

    def action_share(self, config: RobotConfig) -> float:
        """Share of an action's range that makes up for the joint's error, for the joint that needs most."""
        return float((self.error_rad / config.action_scale).max())


def stand(config: RobotConfig, timestep_s: float, *, stiffer: float = 1.0, tireless: bool = False) -> Stand:
    """Let the robot stand under its gains from the default pose, for 5 s.

    stiffer multiplies kp, and its square root multiplies kd. tireless motors have no torque limit.
    """
    joints = tuple(
        dataclasses.replace(joint, kp=stiffer * joint.kp, kd=math.sqrt(stiffer) * joint.kd) for joint in config.joints
    )
    model = load_model(dataclasses.replace(config, joints=joints), timestep_s=timestep_s)
    if tireless:
        model.actuator_forcelimited[:] = model.jnt_actfrclimited[:] = 0
    data, motors = mujoco.MjData(model), motor_addresses(model, config)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    base = base_addresses(model)
    height_m, limit_nm = data.qpos[base.position][2], config.joint_array("max_torque_nm")
    lowest_m, tilt_rad, error_rad, torque_nm = np.inf, 0.0, np.zeros(len(limit_nm)), np.zeros(len(limit_nm))
    with quiet_mujoco():
        mujoco.mj_step(model, data, nstep=round((STAND_S - SETTLED_S) / timestep_s))
        for _ in range(round(SETTLED_S / timestep_s)):
            mujoco.mj_step(model, data)
            lowest_m = min(lowest_m, data.qpos[base.position][2])
            tilt_rad = max(
                tilt_rad, float(np.arccos(np.clip(1.0 - 2.0 * (data.qpos[base.quaternion][1:3] ** 2).sum(), -1.0, 1.0)))
            )
            np.maximum(error_rad, np.abs(data.qpos[motors.qpos] - config.default_position), out=error_rad)
            np.maximum(torque_nm, np.abs(data.actuator_force[motors.actuator]), out=torque_nm)
    return Stand(
        timestep_s=timestep_s,
        sunk_share=1.0 - lowest_m / height_m,
        tilt_rad=tilt_rad,
        error_rad=error_rad,
        torque_share=torque_nm / limit_nm,
        broke=any(warning.number for warning in data.warning),
    )


def check_world(model: mujoco.MjModel) -> Check:
    """Check that the simulated world is like the real one.

    Gravity is the earth's on every part of the robot, the medium is air, and no effect that a real robot feels is
    switched off.
    """
    found, gravity, own = [], model.opt.gravity, robot_bodies(model)
    if np.abs(gravity - (0.0, 0.0, -GRAVITY_M_S2)).max() > GRAVITY_SPREAD_M_S2:
        found.append(
            warning(
                f"gravity is {' '.join(f'{value:g}' for value in gravity)} m/s^2, on earth 0 0 -9.81",
                "take it out of the MJCF's option",
            )
        )
    if off := [name for name in disabled(model.opt.disableflags) if name in FELT]:
        found.append(
            warning(f"the MJCF disables {', '.join(off)}", "take the flag out of its option: a real robot feels it")
        )
    if (model.body_gravcomp[own] != 0.0).any():
        found.append(
            warning(
                "gravcomp holds parts of the robot up against gravity",
                "take it out of their bodies: a real robot carries its weight",
            )
        )
    if model.opt.density > AIR_KG_M3 or model.opt.viscosity > AIR_PA_S or model.opt.wind.any():
        wind = " ".join(f"{value:g}" for value in model.opt.wind)
        found.append(
            warning(
                f"the robot is in a medium of density {model.opt.density:g} kg/m^3, viscosity "
                f"{model.opt.viscosity:g} Pa s and wind {wind} m/s",
                "take them out of the MJCF's option",
            )
        )
    return Check(name="world", findings=found, measured=f"gravity {-gravity[2]:g} m/s^2")


def check_standing(config: RobotConfig, stands: Sequence[Stand]) -> Check:
    """Check that the robot stands under its gains at every physics step, and that actions can lift it to its pose.

    The pose is the default pose. If the robot falls only at the longest physics step, this is a warning.
    """
    found, fell = [], [stand for stand in stands if stand.fell]
    worst = max(fell or stands, key=lambda stand: (stand.broke, stand.sunk_share, stand.tilt_rad))
    weakest = config.joints[int(worst.error_rad.argmax())]
    gives_way = f"{weakest.name} gives way by {worst.error_rad.max():.2f} rad"
    if len(fell) == len(stands):
        found.append(mistake(f"falls under its gains: {gives_way}", _mend_of_fall(config)))
    elif fell:
        longest = max(stand.timestep_s for stand in stands if not stand.fell)
        finding = warning if [stand.timestep_s for stand in fell] == [max(TIMESTEPS_S)] else mistake
        found.append(
            finding(
                f"falls at a physics step of {_steps(fell)}",
                f"train with env.timestep_s={longest:g}; "
                "lower kp and kd, or more armature in the MJCF, allow longer steps",
            )
        )
    elif worst.action_share(config) > 1.0:  # soft legs are fine as long as a policy can stand up straight on them
        weakest = config.joints[int((worst.error_rad / config.action_scale).argmax())]
        found.append(
            warning(
                f"no action makes it stand upright: {weakest.name} gives way by {worst.error_rad[config.joints.index(weakest)]:.2f} rad, "
                f"and actions move its target by at most {weakest.action_scale_rad:g}",
                f"raise its kp ({weakest.kp:g}) or its action_scale_rad",
            )
        )
    standing = [stand for stand in stands if not stand.fell]
    measured = [f"falls at {_steps(fell)}"] if fell else []
    if standing:
        measured.append(
            f"sinks {max(stand.sunk_share for stand in standing):.0%}, leans {max(stand.tilt_rad for stand in standing):.2f} rad, "
            f"{max(stand.action_share(config) for stand in standing):.0%} of the actions' range makes up for it, at {_steps(standing)}"
        )
    return Check(name="stands", findings=found, measured="; ".join(measured))


def _mend_of_fall(config: RobotConfig) -> str:
    """Find by trial what keeps a falling robot up: stronger motors, its weight over its feet, or stiffer gains."""
    if not stand(config, TIMESTEPS_S[0], tireless=True).fell:
        return "with motors as strong as need be it stands: raise max_torque_nm, or save mass"
    model = load_model(config)
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    mujoco.mj_forward(model, data)
    base = base_addresses(model)
    ahead_m, left_m = data.subtree_com[base.body, :2] - np.mean(
        [data.sensor(f"{foot.name}_foot_position").data[:2] for foot in config.feet], axis=0
    )
    if math.hypot(ahead_m, left_m) > BESIDE_SHARE * data.qpos[base.position][2]:
        return (
            f"bring its centre of mass over its feet by default_rad: it is {1e3 * ahead_m:.0f} mm ahead of their middle and "
            f"{1e3 * left_m:.0f} mm to the left"
        )
    for stiffer in (2.0, 4.0, 8.0):
        if not stand(config, TIMESTEPS_S[0], stiffer=stiffer, tireless=True).fell:
            return f"raise kp and kd: with {stiffer:g} times kp and {math.sqrt(stiffer):.1f} times kd it stands"
    return "raise kp, or kd where it shakes; with 8 times kp it falls too"


def _steps(stands: Sequence[Stand]) -> str:
    return ", ".join(f"{1e3 * stand.timestep_s:g}" for stand in stands) + " ms"


def check_torque(config: RobotConfig, stand: Stand) -> Check:
    """Check that standing leaves the motors enough torque to walk."""
    worst, joint = float(stand.torque_share.max()), config.joints[int(stand.torque_share.argmax())]
    found, text = [], f"{joint.name} needs {worst:.0%} of its max_torque_nm {joint.max_torque_nm:g} to stand"
    if worst > TORQUE_WARNING:
        found.append(
            (mistake if worst > TORQUE_MISTAKE else warning)(
                text, "stand more upright, save mass, or take a stronger motor"
            )
        )
    return Check(
        name="torque", findings=found, measured=f"{worst:.0%} of {joint.max_torque_nm:g} N m at most, {joint.name}"
    )


def check_speed(config: RobotConfig, model: mujoco.MjModel) -> Check:
    """Measure how many control steps a second 64 standing simulations make, on all cores."""
    batch = Batch(model, NUM_SIMULATIONS, 0)
    home, num_substeps = model.key("home"), max(1, round(1.0 / config.control_freq_hz / model.opt.timestep))
    batch.reset(np.arange(NUM_SIMULATIONS), stage=mujoco.mjtStage.mjSTAGE_NONE)
    batch.bind("qpos")[:], batch.bind("ctrl")[:] = home.qpos, home.ctrl
    num_steps, begin_s = 0, time.perf_counter()
    try:
        with quiet_mujoco():
            while (elapsed_s := time.perf_counter() - begin_s) < SPEED_S:
                batch.step(nstep=num_substeps)
                num_steps += NUM_SIMULATIONS
    except SimulationError as error:
        return Check(
            name="speed", findings=[mistake(f"the simulation breaks: {error}", "mend what else is wrong first")]
        )
    return Check(
        name="speed",
        measured=f"{num_steps / elapsed_s:,.0f} env-steps/s at {1e3 * model.opt.timestep:g} ms x {num_substeps}",
    )
