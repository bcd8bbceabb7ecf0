"""From a Go2 MJCF to a MuJoCo model that a RobotConfig drives: gains, torque limits and addresses, all by joint name.

The file may be anyone's. What rfx's task needs and the file lacks (position actuators, a floor, foot sites, sensors, a home
keyframe) is added here; what it says about the robot's body (masses, joint damping, contact shapes and friction) stays its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from rfx.config import RobotConfig
from rfx.height_field import HeightField

GO2_MJCF = Path(__file__).parents[2] / "assets" / "go2" / "go2.xml"

SPHERE, BOX, PLANE = mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_PLANE
GROUND_DEPTH_M = 0.5  # of what is below the lowest height of a height field
SITE = mujoco.mjtObj.mjOBJ_SITE


@dataclass(frozen=True, kw_only=True)
class MotorAddresses:
    """Where each motor of the config, in motor order, lives in a model. Three int arrays (num_joints,)."""

    qpos: np.ndarray  # into qpos
    qvel: np.ndarray  # into qvel and every other array over degrees of freedom
    actuator: np.ndarray  # into ctrl and actuator_force


def load_model(config: RobotConfig, path: str | Path | None = None, *, timestep_s: float = 0.005,
               visual: bool = False, ground: HeightField | None = None) -> mujoco.MjModel:
    """The model at path (rfx's own Go2 by default), its joints driven by position actuators with the config's gains and limits.

    Its keyframe `home` is the config's default pose with the feet on the floor. The robot touches the floor only, never itself.
    Geoms and materials that are there for looks are left out unless visual: they would cost a tenth of the speed. The states of
    both are the same, so that a motion of the one can be drawn with the other. ground takes the place of the file's flat floor, and has
    its friction and looks.
    Raises FileNotFoundError without such a file, ValueError for one that lacks the config's joints, feet or a floating base.
    """
    path = GO2_MJCF if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no MJCF at {path}: give the path of a model file, or none for rfx's own Go2 ({GO2_MJCF})")
    if not timestep_s > 0.0:
        raise ValueError(f"timestep_s is {timestep_s}, expected a positive time step in seconds")
    spec = mujoco.MjSpec.from_file(str(path))
    spec.option.timestep = timestep_s
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST  # the actuators' damping is stiff at long time steps
    _check_joints([joint.name for joint in spec.joints], config)
    base = _base(spec)
    feet = {name.removesuffix("_calf_joint"): _foot(spec, name) for name in config.joint_names if name.endswith("_calf_joint")}
    _drive(spec, config)
    _touch_floor_only(spec)
    if ground is not None:
        _lay(spec, ground)
    _add_sensors(spec, base, feet)
    if not any(key.name == "home" for key in spec.keys):
        spec.add_key(name="home")
    spec.compiler.discardvisual = not visual
    model = spec.compile()
    if ground is not None:  # again, as heights that are all equal are not told from zero when a model is compiled
        model.hfield("ground").data[...] = _elevation(ground)[0]
    _set_home(model, config, [foot.id for foot in feet.values()])
    return model


def motor_addresses(model: mujoco.MjModel, config: RobotConfig) -> MotorAddresses:
    """Addresses of the config's motors in the model, found by joint name.

    Raises ValueError naming the joints that the model lacks or does not drive.
    """
    _check_joints([model.joint(index).name for index in range(model.njnt)], config)
    joints = np.array([model.joint(name).id for name in config.joint_names])
    driven = [joint if kind == mujoco.mjtTrn.mjTRN_JOINT else -1 for kind, joint in zip(model.actuator_trntype, model.actuator_trnid[:, 0])]
    if idle := [name for name, joint in zip(config.joint_names, joints) if joint not in driven]:
        raise ValueError(f"the model has no actuator on {', '.join(idle)}: load it with load_model, which adds them")
    actuators = np.array([driven.index(joint) for joint in joints])
    return MotorAddresses(qpos=model.jnt_qposadr[joints].astype(int), qvel=model.jnt_dofadr[joints].astype(int), actuator=actuators)


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


def _foot(spec: mujoco.MjSpec, calf_joint: str) -> mujoco.MjsGeom:
    """The foot of a leg: the lowest collision sphere on its calf."""
    calf = spec.joint(calf_joint).parent
    spheres = [geom for geom in calf.find_all("geom") if geom.type == SPHERE and _collides(geom)]
    if not spheres:
        raise ValueError(f"the model has no foot below {calf_joint}: expected a collision sphere on the body {calf.name!r}")
    return min(spheres, key=lambda geom: geom.parent.pos[2] * (geom.parent is not calf) + geom.pos[2])


def _collides(geom: mujoco.MjsGeom) -> bool:
    return bool(geom.contype or geom.conaffinity)


def _drive(spec: mujoco.MjSpec, config: RobotConfig) -> None:
    """Make every joint's actuator a PD one: force = kp (target - position) - kd velocity, within the torque limit."""
    for joint in config.joints:
        there = [actuator for actuator in spec.actuators if actuator.target == joint.name]
        if len(there) > 1:
            raise ValueError(f"the model has {len(there)} actuators on {joint.name}, expected one or none: remove the others from the file")
        actuator = there[0] if there else spec.add_actuator(name=joint.name.removesuffix("_joint"), target=joint.name)
        actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT
        actuator.set_to_position(kp=joint.kp, kv=joint.kd)
        actuator.gear = [1, 0, 0, 0, 0, 0]
        actuator.ctrllimited = mujoco.mjtLimited.mjLIMITED_FALSE  # a motor's control was a torque; joint_targets clips positions
        actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
        actuator.forcerange = [-joint.max_torque_nm, joint.max_torque_nm]


def _touch_floor_only(spec: mujoco.MjSpec) -> None:
    """Let the robot's geoms collide with the world's and not with each other, so that touch sensors mean the floor; add a lit floor."""
    for geom in spec.geoms:
        if _collides(geom):
            geom.contype, geom.conaffinity = (1, 0) if geom.parent is spec.worldbody else (0, 1)
    if not any(_collides(geom) for geom in spec.worldbody.geoms):
        name = "floor" if all(geom.name != "floor" for geom in spec.geoms) else ""
        spec.worldbody.add_geom(name=name, type=PLANE, size=[0, 0, 0.05], contype=1, conaffinity=0, friction=[0.8, 0.02, 0.01])
        if not spec.lights:
            spec.worldbody.add_light(pos=[0, 0, 3], dir=[-0.4, 0.5, -1], type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)


def _lay(spec: mujoco.MjSpec, ground: HeightField) -> None:
    """Put the ground where the flat floor is."""
    floors = [geom for geom in spec.worldbody.geoms if _collides(geom)]
    if not all(geom.type == PLANE for geom in floors):
        raise ValueError("the model's world has more than a flat floor: give a model without, as the terrain takes the floor's place")
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


def _add_sensors(spec: mujoco.MjSpec, base: mujoco.MjsBody, feet: dict[str, mujoco.MjsGeom]) -> None:
    """Add what is missing of rfx's sensors: an IMU, a touch sensor and a position per foot, a touch sensor of the trunk."""
    sites, sensors = {site.name for site in spec.sites}, {sensor.name for sensor in spec.sensors}

    def add(name: str, kind: mujoco.mjtSensor, site: str) -> None:
        if name not in sensors:
            spec.add_sensor(name=name, type=kind, objtype=SITE, objname=site)

    if "imu" not in sites:
        base.add_site(name="imu")
    if "trunk" not in sites and "base_touch" not in sensors:
        center, half_size = _collision_box(spec, base)
        base.add_site(name="trunk", type=BOX, pos=center, size=half_size)
    add("imu_accelerometer", mujoco.mjtSensor.mjSENS_ACCELEROMETER, "imu")
    add("imu_gyro", mujoco.mjtSensor.mjSENS_GYRO, "imu")
    add("imu_framequat", mujoco.mjtSensor.mjSENS_FRAMEQUAT, "imu")
    for leg, geom in feet.items():
        if f"{leg}_foot" not in sites:  # a little larger than the foot: contacts lie just below its surface
            geom.parent.add_site(name=f"{leg}_foot", type=SPHERE, pos=geom.pos, size=[geom.size[0] + 0.002, 0, 0])
        add(f"{leg}_foot_touch", mujoco.mjtSensor.mjSENS_TOUCH, f"{leg}_foot")
        add(f"{leg}_foot_position", mujoco.mjtSensor.mjSENS_FRAMEPOS, f"{leg}_foot")
    add("base_touch", mujoco.mjtSensor.mjSENS_TOUCH, "trunk")


def _collision_box(spec: mujoco.MjSpec, body: mujoco.MjsBody) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half sizes of a box, in the body's frame, that holds the body's collision geoms with 5 mm to spare. Two (3,), m."""
    model = spec.copy().compile()
    geoms = [geom for geom in range(model.ngeom) if model.geom(geom).bodyid == model.body(body.name).id
             and (model.geom_contype[geom] or model.geom_conaffinity[geom])]
    if not geoms:
        raise ValueError(f"the model's base {body.name!r} has no collision geom, so a fall cannot be felt")
    corners = []
    for geom in geoms:
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        center, half_size = model.geom_aabb[geom].reshape(2, 3)
        signs = np.stack(np.meshgrid((-1, 1), (-1, 1), (-1, 1)), axis=-1).reshape(8, 3)
        corners.append(model.geom_pos[geom] + (center + signs * half_size) @ rotation.reshape(3, 3).T)
    low, high = np.min(np.concatenate(corners), axis=0), np.max(np.concatenate(corners), axis=0)
    return 0.5 * (low + high), 0.5 * (high - low) + 0.005


def _set_home(model: mujoco.MjModel, config: RobotConfig, feet: list[int]) -> None:
    """Write the keyframe `home`: default pose, level, the lowest foot 0.1 mm into the floor (at z = 0) so that it is in contact."""
    addresses, data = motor_addresses(model, config), mujoco.MjData(model)
    base = int(model.jnt_qposadr[np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)[0]])
    data.qpos[base:base + 7] = 0, 0, 0, 1, 0, 0, 0
    data.qpos[addresses.qpos] = config.default_position
    mujoco.mj_kinematics(model, data)
    data.qpos[base + 2] = -min(data.geom_xpos[foot, 2] - model.geom_size[foot, 0] for foot in feet) - 0.0001
    home = model.key("home").id
    model.key_qpos[home], model.key_qvel[home] = data.qpos, 0.0
    model.key_ctrl[home, addresses.actuator] = config.default_position
