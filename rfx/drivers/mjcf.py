"""Loads a robot's MJCF as a MuJoCo model that a RobotConfig drives.

Gains, torque limits and addresses are matched by joint name. The file need not be written for rfx. This module adds
what rfx's tasks need and the file lacks: position actuators, a floor, foot sites, sensors, a home keyframe. Masses,
joint damping, contact shapes and friction of the robot stay as in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from rfx.drivers.base import base_addresses, find_base
from rfx.drivers.contacts import check_floor, colliding, free_name, lay, touch_world_only, write_heights
from rfx.drivers.sensors import add_sensors
from rfx.drivers.shapes import lowest_point
from rfx.robot.config import FootConfig, RobotConfig
from rfx.robot.files import find_mjcf
from rfx.robot.height_field import HeightField

SPHERE = mujoco.mjtGeom.mjGEOM_SPHERE
NEEDED = ("constraint", "contact", "actuation", "sensor")  # MuJoCo flags without which no robot walks or feels
OF_A_JOINT = (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)


@dataclass(frozen=True, kw_only=True)
class MotorAddresses:
    """Addresses of the config's motors in a model, in motor order. Three int arrays (num_joints,)."""

    qpos: np.ndarray  # into qpos
    qvel: np.ndarray  # into qvel and every other array over degrees of freedom
    actuator: np.ndarray  # into ctrl and actuator_force


def load_model(
    config: RobotConfig,
    path: str | Path | None = None,
    *,
    timestep_s: float = 0.005,
    visual: bool = False,
    ground: HeightField | None = None,
) -> mujoco.MjModel:
    """Load the model at path, with position actuators that have the config's gains and limits.

    path defaults to the config's own file; it may also be menagerie:NAME (find_mjcf).
    The model's keyframe `home` is the config's default pose at the origin, with the feet on the floor. The robot
    touches only the world, never itself. The world may hold more than a floor: the robot is everything on the free
    joint above the config's joints.
    Geoms and materials for looks are left out unless visual is set: they would cost a tenth of the speed. Models with
    and without them have the same states, so one model can draw the motion of the other. ground replaces the file's
    flat floor, and takes over its friction and looks.
    Raises FileNotFoundError if there is no such file. Raises ValueError if the model lacks the config's joints, its
    feet or a floating base, or if it has a floor that is not level at z = 0.
    """
    path = find_mjcf(config, path)
    if not timestep_s > 0.0:
        raise ValueError(f"timestep_s is {timestep_s}, expected a positive time step in seconds")
    spec = mujoco.MjSpec.from_file(str(path))
    if not visual:
        _drop_missing_looks(spec)
    if gone := [name for name in disabled(spec.option.disableflags) if name in NEEDED]:
        raise ValueError(
            f"{path} disables {', '.join(gone)}, without which no robot walks: take the flag out of its option"
        )
    spec.option.timestep = timestep_s
    # The actuators' damping is stiff at long time steps.
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    _check_joints([joint.name for joint in spec.joints], config)
    if not config.feet:
        raise ValueError(f"robot {config.name!r} names no feet: expected feet in its robot.yaml")
    base = find_base(spec, config)
    feet = {foot.name: _foot_geoms(spec, config, foot) for foot in config.feet}
    _drive(spec, config)
    touch_world_only(spec, base)
    if ground is not None:
        lay(spec, base, ground)
    add_sensors(spec, config, base, feet)
    if not any(key.name == "home" for key in spec.keys):
        spec.add_key(name="home")
    spec.compiler.discardvisual = not visual
    model = spec.compile()
    soles = [geom.id for geoms in feet.values() for geom in geoms]
    _set_home(model, config, soles)
    if ground is None:
        check_floor(model, soles)
    else:
        write_heights(model, ground)
    return model


def disabled(flags: int) -> list[str]:
    """Names, as in the MJCF, of what disableflags switch off."""
    return [
        name.removeprefix("mjDSBL_").lower()
        for name, bit in mujoco.mjtDisableBit.__members__.items()
        if name.startswith("mjDSBL_") and flags & bit.value
    ]


def _drop_missing_looks(spec: mujoco.MjSpec) -> None:
    """Remove textures, and meshes that neither collide nor weigh, where their files are missing."""
    folders = {
        kind: Path(spec.modelfiledir) / folder
        for kind, folder in (("mesh", spec.meshdir), ("texture", spec.texturedir))
    }
    meshes = {mesh.name for mesh in spec.meshes if mesh.file and not (folders["mesh"] / mesh.file).is_file()}
    if meshes:
        solid = colliding(spec, spec.geoms)
        for geom in [
            geom for geom in spec.geoms if geom.meshname in meshes and geom not in solid and _is_light(spec, geom)
        ]:
            spec.delete(geom)
        meshes -= {geom.meshname for geom in spec.geoms}
        for mesh in [mesh for mesh in spec.meshes if mesh.name in meshes]:
            spec.delete(mesh)
    textures = {
        texture.name for texture in spec.textures if texture.file and not (folders["texture"] / texture.file).is_file()
    }
    for material in spec.materials:
        material.textures = ["" if name in textures else name for name in material.textures]
    for texture in [texture for texture in spec.textures if texture.name in textures]:
        spec.delete(texture)


def _is_light(spec: mujoco.MjSpec, geom: mujoco.MjsGeom) -> bool:
    """Whether a geom adds no mass."""
    low, high = spec.compiler.inertiagrouprange
    given = (
        geom.parent.explicitinertial
        and spec.compiler.inertiafromgeom != mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_TRUE
    )
    return given or geom.mass == 0.0 or geom.density == 0.0 or not low <= geom.group <= high


def motor_addresses(model: mujoco.MjModel, config: RobotConfig) -> MotorAddresses:
    """Addresses of the config's motors in the model, found by joint name.

    Raises ValueError naming the joints that the model lacks or does not drive.
    """
    _check_joints([model.joint(index).name for index in range(model.njnt)], config)
    joints = np.array([model.joint(name).id for name in config.joint_names])
    driven = [
        joint if kind == mujoco.mjtTrn.mjTRN_JOINT else -1
        for kind, joint in zip(model.actuator_trntype, model.actuator_trnid[:, 0])
    ]
    if idle := [name for name, joint in zip(config.joint_names, joints) if joint not in driven]:
        raise ValueError(f"the model has no actuator on {', '.join(idle)}: load it with load_model, which adds them")
    actuators = np.array([driven.index(joint) for joint in joints])
    return MotorAddresses(
        qpos=model.jnt_qposadr[joints].astype(int), qvel=model.jnt_dofadr[joints].astype(int), actuator=actuators
    )


def _check_joints(names: list[str], config: RobotConfig) -> None:
    if missing := [name for name in config.joint_names if name not in names]:
        there = ", ".join(filter(None, names)) or "none with a name"
        raise ValueError(f"the model lacks the joints {', '.join(missing)} of robot {config.name!r}; it has {there}")


def _foot_geoms(spec: mujoco.MjSpec, config: RobotConfig, foot: FootConfig) -> list[mujoco.MjsGeom]:
    """Collision geoms of a foot: the geoms in the config, or the geoms that collide on the body of the foot's site.

    A file that was not written for this robot.yaml may have neither. Then the foot is the lowest collision sphere below
    the joint that carries the foot in the robot's own file.
    """
    if geoms := colliding(spec, [geom for geom in spec.geoms if geom.name in foot.geoms]):
        return geoms
    if not foot.geoms and (site := spec.site(foot.site)) is not None:
        if geoms := colliding(spec, site.parent.geoms):
            return geoms
    joint = _joint_above(config, foot)
    body = spec.joint(joint).parent
    spheres = [geom for geom in colliding(spec, body.find_all("geom")) if geom.type == SPHERE]
    if not spheres:
        raise ValueError(
            f"the model has no foot {foot.name!r}: expected {foot.site or ' or '.join(foot.geoms)!r}, or a collision sphere on "
            f"the body {body.name!r}, below {joint}"
        )
    return [min(spheres, key=lambda geom: geom.parent.pos[2] * (geom.parent is not body) + geom.pos[2])]


def _joint_above(config: RobotConfig, foot: FootConfig) -> str:
    """Name of the last of the config's joints between the base and a foot in the robot's own file."""
    spec = mujoco.MjSpec.from_file(str(find_mjcf(config)))
    place = spec.site(foot.site) if foot.site else spec.geom(foot.geoms[0])
    if place is None:
        raise ValueError(
            f"{find_mjcf(config)} has no {foot.site or foot.geoms[0]!r}, which robot {config.name!r} names as its foot {foot.name!r}"
        )
    body = place.parent
    while body is not None and body.name != "world":
        if names := [joint.name for joint in body.joints if joint.name in config.joint_names]:
            return names[-1]
        body = body.parent
    raise ValueError(
        f"foot {foot.name!r} of robot {config.name!r} is above all of its joints: expected it at the end of a leg"
    )


def _drive(spec: mujoco.MjSpec, config: RobotConfig) -> None:
    """Give every joint a PD actuator: force = kp (target - position) - kd velocity, within the torque limit."""
    for joint in config.joints:
        there = [
            actuator for actuator in spec.actuators if actuator.target == joint.name and actuator.trntype in OF_A_JOINT
        ]
        if len(there) > 1:
            raise ValueError(
                f"the model has {len(there)} actuators on {joint.name}, expected one or none: remove the others from the file"
            )
        name = free_name(joint.name.removesuffix("_joint"), spec.actuators)
        actuator = there[0] if there else spec.add_actuator(name=name, target=joint.name)
        actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT
        actuator.set_to_position(kp=joint.kp, kv=joint.kd)
        actuator.gear = [1, 0, 0, 0, 0, 0]
        # The file's control limits may be limits of a torque. joint_targets clips positions.
        actuator.ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE
        # The actuator has no state of its own.
        actuator.actlimited, actuator.actrange, actuator.actdim = (mujoco.mjtLimited.mjLIMITED_FALSE, [0, 0], -1)
        actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
        actuator.forcerange = [-joint.max_torque_nm, joint.max_torque_nm]


def _set_home(model: mujoco.MjModel, config: RobotConfig, feet: list[int]) -> None:
    """Write the keyframe `home`: the default pose, level, on the floor at z = 0.

    The lowest foot is 0.1 mm inside the floor, so that it is in contact.
    """
    addresses, data = motor_addresses(model, config), mujoco.MjData(model)
    base = base_addresses(model)
    data.qpos[base.position], data.qpos[base.quaternion] = (0, 0, 0), (1, 0, 0, 0)
    data.qpos[addresses.qpos] = config.default_position
    mujoco.mj_kinematics(model, data)
    data.qpos[base.position.start + 2] = -min(lowest_point(model, data, foot) for foot in feet) - 0.0001
    home = model.key("home").id
    model.key_qpos[home], model.key_qvel[home] = data.qpos, 0.0
    model.key_ctrl[home, addresses.actuator] = config.default_position


@contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Suppress MuJoCo's line for every simulation that breaks, on the console and in MUJOCO_LOG.TXT.

    The caller reports broken simulations.
    """
    was = mujoco.MjLogConfig.get()
    quiet = mujoco.MjLogConfig.get()
    quiet.logto_console = quiet.logto_file = False
    quiet.set()
    try:
        yield
    finally:
        was.set()
