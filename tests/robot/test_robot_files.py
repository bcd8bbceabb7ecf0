"""The robots' files in assets/: an MJCF and a robot.yaml each, held against each other, published masses and MuJoCo's
physics; and load_robot.
"""

import dataclasses
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml

import rfx
from rfx.robot.files import find_mjcf, load_robot, robot_names

ASSETS = Path(__file__).parents[2] / "assets"
ROBOTS = sorted(path.parent.name for path in ASSETS.glob("*/robot.yaml"))
TOUCH, SITE = mujoco.mjtSensor.mjSENS_TOUCH, mujoco.mjtObj.mjOBJ_SITE

# kg: the links of the sources that each MJCF names, added by hand.
PUBLISHED_MASS = {
    "a1": 4.713 + 4 * (0.696 + 1.013 + 0.226),
    "anymal_c": 52.135,  # every link of ANYbotics' URDF; the bare drives, faces and battery are 7.2 of them
    "g1": 33.341,
    "go1": 5.204 + 4 * (0.68 + 1.009 + 0.195862),
    "go2": 6.921 + 4 * (0.678 + 1.152 + 0.241352),
    "spot": 32.86 + 4 * (1.68 + 2.34 + 0.35),
}
# Share of its height by which a robot may sink, and rad by which it may tilt, when it stands. The Go2's gains are those
# that its
# policies were trained with: softer for its mass than the others'.
STANDING = {"go2": (0.21, 0.14)}

JOINT_KEYS = {
    "name",
    "min_rad",
    "max_rad",
    "max_torque_nm",
    "max_velocity_rad_s",
    "default_rad",
    "kp",
    "kd",
    "action_scale_rad",
    "mirror",
    "mirror_sign",
}
FOOT_KEYS = {"name", "site", "geoms", "gait_offset", "mirror"}


@cache
def robot_config(name: str) -> dict:
    return yaml.safe_load((ASSETS / name / "robot.yaml").read_text(encoding="utf-8"))


def load(name: str, timestep_s: float = 0.005) -> tuple[dict, mujoco.MjModel]:
    """robot.yaml, and the MJCF with position actuators and touch sensors after it: feet in order, then the trunk."""
    config = robot_config(name)
    spec = mujoco.MjSpec.from_file(str(ASSETS / name / config["mjcf"]))
    spec.option.timestep = timestep_s
    for element in [*spec.actuators, *spec.sensors, *spec.keys]:
        spec.delete(element)
    for joint in config["joints"]:
        actuator = spec.add_actuator(name=joint["name"], target=joint["name"], trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=joint["kp"], kv=joint["kd"])
        actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
        actuator.forcerange = [-joint["max_torque_nm"], joint["max_torque_nm"]]
    for site in [*(foot["site"] for foot in config["feet"]), "trunk"]:
        spec.add_sensor(name=f"{site}_touch", type=TOUCH, objtype=SITE, objname=site)
    return config, spec.compile()


def joint_values(config: dict, key: str) -> np.ndarray:
    return np.array([joint[key] for joint in config["joints"]])


def mirrored(config: dict, values: np.ndarray) -> np.ndarray:
    """Joint positions of the mirror image, by the file's partners and signs."""
    index = {joint["name"]: i for i, joint in enumerate(config["joints"])}
    return joint_values(config, "mirror_sign") * values[[index[joint["mirror"]] for joint in config["joints"]]]


def posed(config: dict, model: mujoco.MjModel, position: np.ndarray) -> mujoco.MjData:
    """The robot in the air, level, at the origin, with these joint positions; kinematics done."""
    data = mujoco.MjData(model)
    data.qpos[:7] = 0, 0, 0, 1, 0, 0, 0
    data.qpos[[model.joint(joint["name"]).qposadr[0] for joint in config["joints"]]] = position
    mujoco.mj_forward(model, data)
    return data


def lowest_points(config: dict, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Height of every foot's lowest point. (num_feet,), m."""

    def bottom(geom: int) -> float:
        radius, half_length, _ = model.geom_size[geom]  # a sphere's half length is 0, a capsule's is along its z axis
        assert mujoco.mjtGeom(model.geom_type[geom]) in (mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_CAPSULE)
        return data.geom_xpos[geom, 2] - radius - abs(data.geom_xmat[geom, 8]) * half_length

    return np.array([min(bottom(model.geom(name).id) for name in foot["geoms"]) for foot in config["feet"]])


def standing(config: dict, model: mujoco.MjModel) -> mujoco.MjData:
    """In the default pose with the lowest foot on the floor, its motors told to stay."""
    default = joint_values(config, "default_rad")
    data = posed(config, model, default)
    data.qpos[2] = -lowest_points(config, model, data).min()
    data.ctrl[:] = default
    return data


def tilt(data: mujoco.MjData) -> float:
    """Angle between the base's z axis and the world's, rad."""
    _, x, y, _ = data.qpos[3:7]
    return float(np.arccos(1.0 - 2.0 * (x * x + y * y)))


def test_every_robot_is_there():
    assert ROBOTS == sorted(PUBLISHED_MASS)


@pytest.mark.parametrize("name", ROBOTS)
def test_robot_yaml_is_complete_and_fits_the_padding(name):
    config = robot_config(name)
    assert config["name"] == name
    names = [joint["name"] for joint in config["joints"]]
    assert len(set(names)) == len(names)
    assert all(set(joint) == JOINT_KEYS for joint in config["joints"])
    assert all(set(foot) == FOOT_KEYS for foot in config["feet"])
    assert (
        3 * len(names) + 12 <= config["max_state_dim"]
    )  # position, velocity and action of each joint; four vectors of three
    assert len(names) <= config["max_action_dim"]
    low, high, default = (joint_values(config, key) for key in ("min_rad", "max_rad", "default_rad"))
    assert ((low < default) & (default < high)).all()
    for foot in config["feet"]:
        partner = next(other for other in config["feet"] if other["name"] == foot["mirror"])
        assert abs(partner["gait_offset"] - foot["gait_offset"]) == 0.5  # left and right take turns


@pytest.mark.parametrize("name", ROBOTS)
def test_joints_are_the_models_with_its_ranges(name):
    config, model = load(name)
    hinges = [model.joint(index) for index in range(model.njnt) if model.jnt_type[index] == mujoco.mjtJoint.mjJNT_HINGE]
    assert {joint.name for joint in hinges} == {joint["name"] for joint in config["joints"]}
    assert model.njnt == len(hinges) + 1 and model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
    for joint in config["joints"]:
        np.testing.assert_allclose(model.joint(joint["name"]).range, [joint["min_rad"], joint["max_rad"]], atol=1e-4)


@pytest.mark.parametrize("name", ROBOTS)
def test_mass_is_the_published_one(name):
    _, model = load(name)
    assert model.body_mass.sum() == pytest.approx(PUBLISHED_MASS[name], rel=0.01)


@pytest.mark.parametrize("name", ROBOTS)
def test_robot_touches_the_floor_only(name):
    _, model = load(name)
    floor = model.geom("floor")
    assert model.geom_type[floor.id] == mujoco.mjtGeom.mjGEOM_PLANE and floor.priority[0] == 1
    assert (floor.contype[0], floor.conaffinity[0]) == (1, 0)
    collides = (model.geom_bodyid > 0) & ((model.geom_contype != 0) | (model.geom_conaffinity != 0))
    assert (model.geom_contype[collides] == 0).all() and (model.geom_conaffinity[collides] == 1).all()
    assert (model.geom_condim[collides] == 3).all()
    assert model.camera("tracking").mode[0] == mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM
    assert model.site("imu").bodyid[0] == 1 and model.nlight > 0  # the IMU moves with the base


@pytest.mark.parametrize("name", ROBOTS)
def test_feet_of_the_default_pose_are_level(name):
    config, model = load(name)
    lowest = lowest_points(config, model, posed(config, model, joint_values(config, "default_rad")))
    assert np.ptp(lowest) < 0.003


@pytest.mark.parametrize("name", ROBOTS)
def test_mirrored_joints_give_mirrored_bodies(name):
    config, model = load(name)
    default = joint_values(config, "default_rad")
    np.testing.assert_allclose(mirrored(config, default), default, atol=1e-9)
    low, high = joint_values(config, "min_rad"), joint_values(config, "max_rad")
    swapped_low, swapped_high = mirrored(config, low), mirrored(config, high)
    np.testing.assert_allclose(np.minimum(swapped_low, swapped_high), low, atol=1e-6)
    np.testing.assert_allclose(np.maximum(swapped_low, swapped_high), high, atol=1e-6)
    for key in ("max_torque_nm", "max_velocity_rad_s", "kp", "kd", "action_scale_rad"):
        np.testing.assert_array_equal(np.abs(mirrored(config, joint_values(config, key))), joint_values(config, key))

    position = np.random.default_rng(0).uniform(np.maximum(low, -1.5), np.minimum(high, 1.5))
    ours, image = posed(config, model, position), posed(config, model, mirrored(config, position))
    flip = np.array([1, -1, 1])
    for joint in config["joints"]:
        body, partner = (model.joint(joint[key]).id for key in ("name", "mirror"))
        body, partner = model.jnt_bodyid[body], model.jnt_bodyid[partner]
        np.testing.assert_allclose(image.xpos[partner], ours.xpos[body] * flip, atol=2e-4, err_msg=joint["name"])
        np.testing.assert_allclose(
            image.xipos[partner], ours.xipos[body] * flip, atol=3e-3, err_msg=joint["name"]
        )  # centre of mass
        assert model.body_mass[body] == pytest.approx(model.body_mass[partner], rel=1e-6)
        np.testing.assert_allclose(
            model.body_inertia[body], model.body_inertia[partner], rtol=5e-3, err_msg=joint["name"]
        )
    for foot in config["feet"]:
        partner = next(other for other in config["feet"] if other["name"] == foot["mirror"])
        np.testing.assert_allclose(
            image.site(partner["site"]).xpos, ours.site(foot["site"]).xpos * flip, atol=3e-4, err_msg=foot["name"]
        )
    assert abs(model.body_ipos[1, 1]) < 0.005  # the base's centre of mass is in the middle


@pytest.mark.parametrize("timestep_s", [0.002, 0.005, 0.01])
@pytest.mark.parametrize("name", ROBOTS)
def test_stands_for_five_seconds_under_its_gains(name, timestep_s):
    config, model = load(name, timestep_s)
    data = standing(config, model)
    height, lowest, steepest = data.qpos[2], np.inf, 0.0
    weight = 9.81 * model.body_mass.sum()
    for _ in range(round(5.0 / timestep_s)):
        mujoco.mj_step(model, data)
        lowest, steepest = min(lowest, data.qpos[2]), max(steepest, tilt(data))
    max_drop, max_tilt = STANDING.get(name, (0.15, 0.1))
    assert lowest > (1.0 - max_drop) * height
    assert steepest < max_tilt
    assert not any(warning.number for warning in data.warning)
    *feet, trunk = data.sensordata
    assert trunk == 0.0 and min(feet) > 0.05 * weight
    assert sum(feet) == pytest.approx(weight, rel=0.03)  # the foot sites hold all contact points


@pytest.mark.parametrize("name", ROBOTS)
def test_trunk_site_feels_a_robot_that_lies(name):
    config, model = load(name)
    data = standing(config, model)
    half_turn = (
        0.25 * np.pi if len(config["feet"]) == 2 else 0.5 * np.pi
    )  # a humanoid on its face, others on their backs
    axis = [0, 1, 0] if len(config["feet"]) == 2 else [1, 0, 0]
    data.qpos[3:7] = np.cos(half_turn), *(np.sin(half_turn) * np.array(axis))
    data.qpos[2] = 0.4
    felt = 0.0
    for _ in range(300):
        mujoco.mj_step(model, data)
        felt = max(felt, data.sensordata[-1])
    assert felt > 0.1 * 9.81 * model.body_mass.sum()


@pytest.mark.parametrize("name", ROBOTS)
def test_load_robot_takes_a_name_a_folder_or_a_file(name):
    config, values = load_robot(name), robot_config(name)
    assert config == load_robot(ASSETS / name) == load_robot(str(ASSETS / name / "robot.yaml"))
    assert config.mjcf == f"{name}/{name}.xml" and find_mjcf(config) == ASSETS / name / f"{name}.xml"
    assert config.joint_names == tuple(joint["name"] for joint in values["joints"])
    assert config.state_dim == 3 * len(values["joints"]) + 12 and config.action_dim == len(values["joints"])
    np.testing.assert_allclose(config.default_position, joint_values(values, "default_rad"), rtol=1e-6)


def test_names_and_what_is_exported():
    assert robot_names() == ROBOTS and rfx.load_robot("go2") == rfx.GO2_CONFIG


@pytest.fixture
def robot_yaml(tmp_path):
    """Writes a robot.yaml of the Go1 with other entries, None for none of that name, and returns its folder."""

    def write(**entries) -> Path:
        values = {key: value for key, value in (robot_config("go1") | entries).items() if value is not None}
        (tmp_path / "robot.yaml").write_text(yaml.safe_dump(values))
        return tmp_path

    return write


def test_a_robot_from_elsewhere_has_its_own_mjcf(robot_yaml, monkeypatch):
    folder = robot_yaml(mjcf="mine.xml")
    assert load_robot(folder).mjcf == str(folder / "mine.xml")
    with pytest.raises(FileNotFoundError, match=f"no MJCF of robot 'go1' at {folder / 'mine.xml'}"):
        find_mjcf(load_robot(folder))
    (folder / "mine.xml").write_text("<mujoco/>")
    monkeypatch.chdir(
        folder.parent
    )  # a path in robot.yaml is from its folder on, one that the user gives from the current one
    assert find_mjcf(load_robot(folder)) == folder / "mine.xml"
    assert find_mjcf(load_robot("go1"), f"{folder.name}/mine.xml") == Path(folder.name) / "mine.xml"
    with pytest.raises(ValueError, match="robot 'go1' names no MJCF: give the path"):
        find_mjcf(load_robot(robot_yaml(mjcf=None)))


def test_a_folder_called_as_a_robot_of_rfx_is_meant_by_its_path(robot_yaml, monkeypatch):
    folder = robot_yaml(name="other")
    folder = folder.rename(folder.with_name("go2"))
    monkeypatch.chdir(folder.parent)
    assert (
        load_robot("go2").name == "go2"
        and load_robot("./go2").name == load_robot("go2/robot.yaml").name == load_robot(folder).name == "other"
    )


def test_widths_follow_from_joints_and_terms(robot_yaml):
    terms = ["joint_position", "projected_gravity"]
    config = load_robot(robot_yaml(observation_terms=terms))
    assert (config.state_dim, config.action_dim) == (12 + 3, 12)
    joints = [{**joint, "mirror": None} for joint in robot_config("go1")["joints"][:5]]
    feet = [{"name": "only", "geoms": ["FR_foot"]}]
    config = load_robot(robot_yaml(joints=joints, feet=feet))
    assert (config.state_dim, config.action_dim, len(config.feet)) == (3 * 5 + 12, 5, 1)


@pytest.mark.parametrize(
    "name, hint",
    [
        ("go3", "did you mean 'go"),
        ("anymal", "did you mean 'anymal_c'?"),
        ("spt", "did you mean 'spot'?"),
        ("quadruped", "possible are a1, anymal_c, g1, go1, go2, spot"),
    ],
)
def test_an_unknown_name_gives_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"unknown robot '{name}': ") as caught:
        load_robot(name)
    assert hint in str(caught.value) and "the path of a folder with robot.yaml" in str(caught.value)


def test_a_folder_without_a_robot(tmp_path):
    with pytest.raises(
        ValueError, match=f"{tmp_path} holds no robot.yaml: expected a folder with robot.yaml and the MJCF"
    ):
        load_robot(tmp_path)


@pytest.mark.parametrize(
    "entries, said",
    [
        ({"gait_frequency": 2.0}, "unknown key 'gait_frequency': did you mean 'gait_freq_hz'?"),
        ({"control_freq_hz": "fast"}, "control_freq_hz is 'fast': it must be a number"),
        ({"name": None}, "name is missing"),
        ({"joints": [{"name": "a", "kpp": 3.0}]}, "unknown key 'joints[0].kpp': did you mean 'kp'?"),
        ({"joints": [{"name": "a", "kp": "stiff"}]}, "joints[0].kp is 'stiff': it must be a number"),
        ({"feet": [{"name": "f"}]}, "foot 'f': got neither site nor geoms"),
        ({"observation_terms": ["joint_positions"]}, "unknown term 'joint_positions'"),
        ({"max_state_dim": 40}, "got state_dim 48; expected 1 to max_state_dim, 40"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_path_and_key(robot_yaml, entries, said):
    folder = robot_yaml(**entries)
    with pytest.raises(ValueError) as caught:
        load_robot(folder)
    assert str(caught.value).startswith(f"{folder / 'robot.yaml'}: ") and said in str(caught.value)


@pytest.mark.parametrize("text", ["joints: [", "", "- go2", "3"])
def test_a_file_that_is_no_robot(tmp_path, text):
    (tmp_path / "robot.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"^{tmp_path / 'robot.yaml'}: "):
        load_robot(tmp_path)


def test_differences_between_robots_are_named():
    go2 = load_robot("go2")
    stiff = dataclasses.replace(go2, joints=[dataclasses.replace(joint, kp=60.0) for joint in go2.joints])
    assert len(go2.differences(stiff)) == 12 and go2.differences(load_robot("go2")) == []
