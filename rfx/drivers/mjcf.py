"""From a robot's MJCF to a MuJoCo model that a RobotConfig drives: gains, torque limits and addresses, all by joint
name.

The file may be anyone's. What rfx's task needs and the file lacks (position actuators, a floor, foot sites, sensors, a
home keyframe) is added here; what it says about the robot's body (masses, joint damping, contact shapes and friction)
stays its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from rfx.robot.config import FootConfig, RobotConfig
from rfx.robot.files import find_mjcf
from rfx.robot.height_field import HeightField

SPHERE, BOX, PLANE = mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_PLANE
GROUND_DEPTH_M = 0.5  # of what is below the lowest height of a height field
STIFF_SOLREF, STIFF_SOLIMP = (
    [0.01, 1.0],
    [0.9, 0.95, 0.001, 0.5, 2.0],
)  # s, critically damped (MuJoCo takes 2 time steps at least); its own impedance
SITE = mujoco.mjtObj.mjOBJ_SITE


@dataclass(frozen=True, kw_only=True)
class MotorAddresses:
    """Where each motor of the config, in motor order, lives in a model. Three int arrays (num_joints,)."""

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
    """The model at path, by default the config's own, its joints driven by position actuators with the config's gains
    and limits.

    path may be menagerie:NAME too (find_mjcf).
    Its keyframe `home` is the config's default pose with the feet on the floor. The robot touches the floor only, never
    itself.
    Geoms and materials that are there for looks are left out unless visual: they would cost a tenth of the speed. The
    states of both are the same, so that a motion of the one can be drawn with the other. ground takes the place of the
    file's flat floor, and has its friction and looks.
    Raises FileNotFoundError without such a file, ValueError for one that lacks the config's joints, feet or a floating
    base.
    """
    path = find_mjcf(config, path)
    if not timestep_s > 0.0:
        raise ValueError(f"timestep_s is {timestep_s}, expected a positive time step in seconds")
    spec = mujoco.MjSpec.from_file(str(path))
    spec.option.timestep = timestep_s
    spec.option.integrator = (
        mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    )  # the actuators' damping is stiff at long time steps
    _check_joints([joint.name for joint in spec.joints], config)
    if not config.feet:
        raise ValueError(f"robot {config.name!r} names no feet: expected feet in its robot.yaml")
    base = _base(spec)
    feet = {foot.name: _foot_geoms(spec, config, foot) for foot in config.feet}
    _drive(spec, config)
    _touch_floor_only(spec)
    if ground is not None:
        _lay(spec, ground)
    _add_sensors(spec, config, base, feet)
    if not any(key.name == "home" for key in spec.keys):
        spec.add_key(name="home")
    spec.compiler.discardvisual = not visual
    model = spec.compile()
    if ground is not None:  # again, as heights that are all equal are not told from zero when a model is compiled
        model.hfield("ground").data[...] = _elevation(ground)[0]
    _set_home(model, config, [geom.id for geoms in feet.values() for geom in geoms])
    return model


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


def _base(spec: mujoco.MjSpec) -> mujoco.MjsBody:
    """The body that floats."""
    for joint in spec.joints:
        if joint.type == mujoco.mjtJoint.mjJNT_FREE:
            return joint.parent
    raise ValueError("the model's base is fixed: expected a body with a free joint")


def trunk_body(model: mujoco.MjModel) -> int:
    """The body that carries the robot's load: that of the site `trunk`, which may be another than the one that
    floats.
    """
    return int(model.site_bodyid[model.site("trunk").id])


def _foot_geoms(spec: mujoco.MjSpec, config: RobotConfig, foot: FootConfig) -> list[mujoco.MjsGeom]:
    """The collision geoms of a foot: those that the config names, or that collide on the body of its site.

    In a file that has neither, as one that was not written for this robot.yaml, they are those of the lowest collision
    sphere below the joint that carries the foot in the robot's own file.
    """
    if geoms := [geom for geom in spec.geoms if geom.name in foot.geoms and _collides(geom)]:
        return geoms
    if not foot.geoms and (site := spec.site(foot.site)) is not None:
        if geoms := [geom for geom in site.parent.geoms if _collides(geom)]:
            return geoms
    joint = _joint_above(config, foot)
    body = spec.joint(joint).parent
    spheres = [geom for geom in body.find_all("geom") if geom.type == SPHERE and _collides(geom)]
    if not spheres:
        raise ValueError(
            f"the model has no foot {foot.name!r}: expected {foot.site or ' or '.join(foot.geoms)!r}, or a collision sphere on "
            f"the body {body.name!r}, below {joint}"
        )
    return [min(spheres, key=lambda geom: geom.parent.pos[2] * (geom.parent is not body) + geom.pos[2])]


def _joint_above(config: RobotConfig, foot: FootConfig) -> str:
    """The last of the config's joints between the base and a foot in the robot's own file."""
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


def _collides(geom: mujoco.MjsGeom) -> bool:
    return bool(geom.contype or geom.conaffinity)


def _drive(spec: mujoco.MjSpec, config: RobotConfig) -> None:
    """Make every joint's actuator a PD one: force = kp (target - position) - kd velocity, within the torque limit."""
    for joint in config.joints:
        there = [actuator for actuator in spec.actuators if actuator.target == joint.name]
        if len(there) > 1:
            raise ValueError(
                f"the model has {len(there)} actuators on {joint.name}, expected one or none: remove the others from the file"
            )
        actuator = there[0] if there else spec.add_actuator(name=joint.name.removesuffix("_joint"), target=joint.name)
        actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT
        actuator.set_to_position(kp=joint.kp, kv=joint.kd)
        actuator.gear = [1, 0, 0, 0, 0, 0]
        actuator.ctrllimited = (
            mujoco.mjtLimited.mjLIMITED_FALSE
        )  # a motor's control was a torque; joint_targets clips positions
        actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
        actuator.forcerange = [-joint.max_torque_nm, joint.max_torque_nm]


def _touch_floor_only(spec: mujoco.MjSpec) -> None:
    """Let the robot's geoms collide with the world's and not with each other, so that touch sensors mean the floor; add
    a lit floor.
    """
    for geom in spec.geoms:
        if _collides(geom):
            geom.contype, geom.conaffinity = (1, 0) if geom.parent is spec.worldbody else (0, 1)
    if not any(_collides(geom) for geom in spec.worldbody.geoms):
        name = "floor" if all(geom.name != "floor" for geom in spec.geoms) else ""
        spec.worldbody.add_geom(
            name=name, type=PLANE, size=[0, 0, 0.05], contype=1, conaffinity=0, friction=[0.8, 0.02, 0.01]
        )
        if not spec.lights:
            spec.worldbody.add_light(pos=[0, 0, 3], dir=[-0.4, 0.5, -1], type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)


def _lay(spec: mujoco.MjSpec, ground: HeightField) -> None:
    """Put the ground where the flat floor is, and make every contact stiff.

    To MuJoCo a height field is prisms, side by side. A foot whose middle is below the surface is pushed sideways, out
    of one prism and into the next, and stays in the ground, even where it is level. MuJoCo's own time constant of 20 ms
    lets a landing foot of the Go2 2 cm in, of its radius of 22 mm.
    """
    for geom in spec.geoms:
        if _collides(geom):
            geom.solref, geom.solimp = STIFF_SOLREF, STIFF_SOLIMP
    floors = [geom for geom in spec.worldbody.geoms if _collides(geom)]
    if not all(geom.type == PLANE for geom in floors):
        raise ValueError(
            "the model's world has more than a flat floor: give a model without, as the terrain takes the floor's place"
        )
    for geom in floors[1:]:
        spec.delete(geom)
    floor, (elevation, range_m) = floors[0], _elevation(ground)
    num_rows, num_columns = ground.heights.shape
    half_x, half_y = 0.5 * ground.cell_m * (num_columns - 1), 0.5 * ground.cell_m * (num_rows - 1)
    size = [half_x, half_y, range_m, GROUND_DEPTH_M]
    spec.add_hfield(name="ground", nrow=num_rows, ncol=num_columns, size=size, userdata=elevation.ravel())
    floor.type, floor.hfieldname, floor.quat = mujoco.mjtGeom.mjGEOM_HFIELD, "ground", [1, 0, 0, 0]
    floor.pos = [ground.corner_m[0] + half_x, ground.corner_m[1] + half_y, float(ground.heights.min())]


def _elevation(ground: HeightField) -> tuple[np.ndarray, float]:
    """The heights as MuJoCo has them: shares (R, C), from 0 to 1, of the range in m that they are spread over."""
    above = ground.heights - ground.heights.min()
    range_m = max(float(above.max()), 1e-3)
    return (above / np.float32(range_m)).astype(np.float32), range_m


def _add_sensors(
    spec: mujoco.MjSpec, config: RobotConfig, base: mujoco.MjsBody, feet: dict[str, list[mujoco.MjsGeom]]
) -> None:
    """Add what is missing of rfx's sensors: an IMU, a touch sensor and a position per foot, a touch sensor of the
    trunk.
    """
    sites, sensors = {site.name for site in spec.sites}, {sensor.name for sensor in spec.sensors}

    def add(name: str, kind: mujoco.mjtSensor, site: str) -> None:
        if name not in sensors:
            spec.add_sensor(name=name, type=kind, objtype=SITE, objname=site)

    if "imu" not in sites:
        base.add_site(name="imu")
    if "trunk" not in sites:
        center, half_size = _collision_box(spec, base.name, spare_m=0.005)
        base.add_site(name="trunk", type=BOX, pos=center, size=half_size)
    add("imu_accelerometer", mujoco.mjtSensor.mjSENS_ACCELEROMETER, "imu")
    add("imu_gyro", mujoco.mjtSensor.mjSENS_GYRO, "imu")
    add("imu_framequat", mujoco.mjtSensor.mjSENS_FRAMEQUAT, "imu")
    for foot in config.feet:
        site, geoms = foot.site or f"{foot.name}_foot", feet[foot.name]
        if site not in sites:  # a little larger than the foot: contacts lie just below its surface
            body = geoms[0].parent
            if len(geoms) == 1 and geoms[0].type == SPHERE:
                body.add_site(name=site, type=SPHERE, pos=geoms[0].pos, size=[geoms[0].size[0] + 0.002, 0, 0])
            else:
                center, half_size = _collision_box(spec, body.name, spare_m=0.002)
                body.add_site(name=site, type=BOX, pos=center, size=half_size)
        add(f"{foot.name}_foot_touch", mujoco.mjtSensor.mjSENS_TOUCH, site)
        add(f"{foot.name}_foot_position", mujoco.mjtSensor.mjSENS_FRAMEPOS, site)
    add("base_touch", mujoco.mjtSensor.mjSENS_TOUCH, "trunk")


def _collision_box(spec: mujoco.MjSpec, body: str, spare_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half sizes of a box, in the body's frame, that holds the body's collision geoms with spare_m to spare.

    Two (3,), m.
    """
    model = spec.copy().compile()
    geoms = [
        geom
        for geom in range(model.ngeom)
        if model.geom(geom).bodyid == model.body(body).id and (model.geom_contype[geom] or model.geom_conaffinity[geom])
    ]
    if not geoms:
        raise ValueError(f"the model's body {body!r} has no collision geom, so its contacts cannot be felt")
    corners = []
    for geom in geoms:
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        center, half_size = model.geom_aabb[geom].reshape(2, 3)
        signs = np.stack(np.meshgrid((-1, 1), (-1, 1), (-1, 1)), axis=-1).reshape(8, 3)
        corners.append(model.geom_pos[geom] + (center + signs * half_size) @ rotation.reshape(3, 3).T)
    low, high = np.min(np.concatenate(corners), axis=0), np.max(np.concatenate(corners), axis=0)
    return 0.5 * (low + high), 0.5 * (high - low) + spare_m


def lowest_point(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> float:
    """Height of a geom's lowest point in the world, m: of a sphere, capsule, cylinder, box or ellipsoid; of others that
    of its bounding box.
    """
    z, size, (x_up, y_up, z_up) = data.geom_xpos[geom, 2], model.geom_size[geom], np.abs(data.geom_xmat[geom, 6:9])
    kind, types = model.geom_type[geom], mujoco.mjtGeom
    if kind == types.mjGEOM_SPHERE:
        return z - size[0]
    if kind == types.mjGEOM_CAPSULE:
        return z - size[0] - size[1] * z_up
    if kind == types.mjGEOM_CYLINDER:
        return z - size[0] * np.sqrt(max(0.0, 1.0 - z_up * z_up)) - size[1] * z_up
    if kind == types.mjGEOM_ELLIPSOID:
        return z - float(np.linalg.norm(size * (x_up, y_up, z_up)))
    center, half_size = model.geom_aabb[geom].reshape(2, 3)
    return z + float(data.geom_xmat[geom, 6:9] @ center) - float(half_size @ (x_up, y_up, z_up))


def _set_home(model: mujoco.MjModel, config: RobotConfig, feet: list[int]) -> None:
    """Write the keyframe `home`: default pose, level, the lowest foot 0.1 mm into the floor (at z = 0) so that it is in
    contact.
    """
    addresses, data = motor_addresses(model, config), mujoco.MjData(model)
    base = int(model.jnt_qposadr[np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)[0]])
    data.qpos[base : base + 7] = 0, 0, 0, 1, 0, 0, 0
    data.qpos[addresses.qpos] = config.default_position
    mujoco.mj_kinematics(model, data)
    data.qpos[base + 2] = -min(lowest_point(model, data, foot) for foot in feet) - 0.0001
    home = model.key("home").id
    model.key_qpos[home], model.key_qvel[home] = data.qpos, 0.0
    model.key_ctrl[home, addresses.actuator] = config.default_position


@contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Keep MuJoCo's line for every simulation that breaks off the console and out of MUJOCO_LOG.TXT: the caller reports
    them.
    """
    was = mujoco.MjLogConfig.get()
    quiet = mujoco.MjLogConfig.get()
    quiet.logto_console = quiet.logto_file = False
    quiet.set()
    try:
        yield
    finally:
        was.set()
