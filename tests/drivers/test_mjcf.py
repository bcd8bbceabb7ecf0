"""The Go2 model against Unitree's figures and hand calculations; the loader against files that were not written for
it.
"""

import dataclasses
import itertools
import random
import xml.etree.ElementTree as ElementTree

import mujoco
import numpy as np
import pytest

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.mjcf import load_model, motor_addresses
from rfx.robot.files import find_mjcf

LEGS = ("FR", "FL", "RR", "RL")
GRAVITY = 9.81

# Unitree Go2, left front where sides differ (go2_description; MuJoCo Menagerie's unitree_go2): mass kg, centre of mass
# m,
# principal inertia kg m^2 and its axes as a quaternion wxyz.
BASE = (
    6.921,
    (0.021112, 0.0, -0.005366),
    (0.107027, 0.0980771, 0.0244531),
    (-0.000543471, 0.713435, -0.00173769, 0.700719),
)
HIP = (
    0.678,
    (-0.0054, 0.00194, -0.000105),
    (0.00088403, 0.000596003, 0.000479967),
    (0.497014, 0.499245, 0.505462, 0.498237),
)
THIGH = (
    1.152,
    (-0.00374, -0.0223, -0.0327),
    (0.00594973, 0.00584149, 0.000878787),
    (0.829533, 0.0847635, -0.0200632, 0.551623),
)
CALF = (
    0.241352,
    (0.00629595, -0.000622121, -0.141417),
    (0.0014901, 0.00146356, 5.31397e-05),
    (0.710672, 0.00154099, -0.00450087, 0.703508),
)


@pytest.fixture
def model():
    return load_model(GO2_CONFIG)


def at_home(model: mujoco.MjModel) -> mujoco.MjData:
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    mujoco.mj_forward(model, data)
    return data


def simulate(model: mujoco.MjModel, data: mujoco.MjData, seconds: float) -> None:
    mujoco.mj_step(model, data, nstep=round(seconds / model.opt.timestep))


def with_gains(kp: float, kd: float):
    return dataclasses.replace(
        GO2_CONFIG, joints=tuple(dataclasses.replace(joint, kp=kp, kd=kd) for joint in GO2_CONFIG.joints)
    )


def rotation(quaternion) -> np.ndarray:
    """Rotation matrix of a quaternion wxyz."""
    w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * skew + 2 * skew @ skew


def test_total_mass(model):
    assert model.body_mass.sum() == pytest.approx(6.921 + 4 * (0.678 + 1.152 + 0.241352), abs=1e-9)  # 15.206408 kg


@pytest.mark.parametrize("leg, part", [("", "base"), *itertools.product(LEGS, ("hip", "thigh", "calf"))])
def test_masses_and_inertias_are_mirrored(model, leg, part):
    """Left and right legs mirror in y, front and rear hips also in x; the calf is the same on all four."""
    mass, center, inertia, quaternion = {"base": BASE, "hip": HIP, "thigh": THIGH, "calf": CALF}[part]
    mirror = np.eye(3)
    if part in ("hip", "thigh") and leg[1] == "R":
        mirror[1, 1] = -1
    if part == "hip" and leg[0] == "R":
        mirror[0, 0] = -1
    axes = mirror @ rotation(quaternion)
    body = model.body(f"{leg}_{part}".lstrip("_"))
    assert body.mass[0] == pytest.approx(mass)
    np.testing.assert_allclose(body.ipos, mirror @ center, atol=1e-9)
    measured = rotation(body.iquat) @ np.diag(body.inertia) @ rotation(body.iquat).T
    np.testing.assert_allclose(measured, axes @ np.diag(inertia) @ axes.T, atol=1e-7)


def test_center_of_mass_is_on_the_mid_plane(model):
    # The four calves are 0.6 mm off, all to the right: 4 * 0.241352 * 0.000622 / 15.206 = 0.00004 m. Nothing else is.
    assert at_home(model).subtree_com[0, 1] == pytest.approx(-0.0000395, abs=2e-6)


@pytest.mark.parametrize(
    "name, low, high, torque",
    [
        ("FR_hip", -1.0472, 1.0472, 23.7),
        ("RL_hip", -1.0472, 1.0472, 23.7),
        ("FL_thigh", -1.5708, 3.4907, 23.7),
        ("RR_thigh", -0.5236, 4.5379, 23.7),
        ("FR_calf", -2.7227, -0.83776, 45.43),
        ("RL_calf", -2.7227, -0.83776, 45.43),
    ],
)
def test_limits_by_name(model, name, low, high, torque):
    np.testing.assert_allclose(model.joint(f"{name}_joint").range, (low, high))
    np.testing.assert_allclose(model.actuator(name).forcerange, (-torque, torque), rtol=1e-6)


def test_gains_and_torque_limits_come_from_the_config():
    joints = tuple(
        dataclasses.replace(joint, kp=20.0 + index, kd=1.0 + index, max_torque_nm=10.0 + index)
        for index, joint in enumerate(GO2_CONFIG.joints)
    )
    model = load_model(dataclasses.replace(GO2_CONFIG, joints=joints))
    for joint in joints:
        actuator = model.actuator(joint.name.removesuffix("_joint"))
        assert actuator.gainprm[0] == joint.kp and tuple(actuator.biasprm[:3]) == (0.0, -joint.kp, -joint.kd)
        assert tuple(actuator.forcerange) == (-joint.max_torque_nm, joint.max_torque_nm)


def test_home_is_the_default_pose_with_the_feet_just_on_the_floor(model):
    # Hip to knee and knee to foot are 0.213 m; thigh 0.9 and calf -1.8 rad leave the shin at -0.9; the foot is 2 mm
    # behind its end.
    height = 2 * 0.213 * np.cos(0.9) + 0.002 * np.sin(0.9) + 0.022
    data = at_home(model)
    assert data.qpos[2] == pytest.approx(height, abs=2e-4)
    np.testing.assert_allclose(data.qpos[motor_addresses(model, GO2_CONFIG).qpos], GO2_CONFIG.default_position)
    assert (
        data.ncon == 4
        and all(data.sensor(f"{leg}_foot_touch").data[0] > 0 for leg in LEGS)
        and data.sensor("base_touch").data[0] == 0
    )


def test_torque_that_holds_a_hanging_calf(model):
    """Base in free space, at rest: the calf's actuator must carry the calf's weight times its lever."""
    data = at_home(model)
    data.qpos[2] = 2.0
    mujoco.mj_forward(model, data)
    x, z = CALF[1][0], CALF[1][2]
    lever = np.cos(-0.9) * x + np.sin(-0.9) * z  # forward of the knee, with the shin pitched by 0.9 - 1.8 rad
    for leg in LEGS:
        dof = model.joint(f"{leg}_calf_joint").dofadr[0]
        assert data.qfrc_bias[dof] == pytest.approx(-CALF[0] * GRAVITY * lever, rel=1e-4)  # 0.272 N m


def test_calf_torque_of_a_standing_robot():
    """On an ideally slippery floor the feet carry vertical forces only, so statics gives them and the knees' torques by
    hand.
    """
    model = load_model(with_gains(kp=500.0, kd=5.0))
    model.geom_condim[:] = 1
    model.dof_frictionloss[:] = 0.0
    data = at_home(model)
    simulate(model, data, 5.0)
    thigh, shin = 0.9, 0.9 - 1.8

    def below(pitch, x, z):  # forward offset of a point (x, z) of a link that is pitched
        return np.cos(pitch) * x + np.sin(pitch) * z

    knee_x = below(thigh, 0.0, -0.213)
    center_x = (
        6.921 * BASE[1][0]
        + 4 * THIGH[0] * below(thigh, THIGH[1][0], THIGH[1][2])
        + 4 * CALF[0] * (knee_x + below(shin, CALF[1][0], CALF[1][2]))
    ) / 15.206408  # the hips' offsets cancel
    foot_x = knee_x + below(shin, -0.002, -0.213)
    front_share = (center_x - (-0.1934 + foot_x)) / (2 * 0.1934)
    for leg in LEGS:
        load = 15.206408 * GRAVITY * (front_share if leg[0] == "F" else 1.0 - front_share) / 2
        assert data.sensor(f"{leg}_foot_touch").data[0] == pytest.approx(load, rel=0.02)
        shin = (
            data.joint(f"{leg}_thigh_joint").qpos[0] + data.joint(f"{leg}_calf_joint").qpos[0]
        )  # the legs give way a little
        expected = load * below(shin, -0.002, -0.213) - CALF[0] * GRAVITY * below(shin, CALF[1][0], CALF[1][2])
        assert data.actuator(f"{leg}_calf").force[0] == pytest.approx(expected, rel=0.02)  # 5.9 N m


def test_stands_for_five_seconds(model):
    """At the default pose the legs carry the robot; at kp 35 they give way by some centimetres and it leans back."""
    data = at_home(model)
    simulate(model, data, 5.0)
    assert 0.22 < data.qpos[2] < 0.29 and abs(data.qpos[1]) < 0.002
    pitch = 2 * np.arcsin(data.qpos[5])
    assert abs(pitch) < 0.2 and abs(data.qpos[4]) < 0.002 and abs(data.qpos[6]) < 0.002
    assert np.abs(data.qvel).max() < 0.01
    assert data.sensor("base_touch").data[0] == 0
    assert sum(data.sensor(f"{leg}_foot_touch").data[0] for leg in LEGS) == pytest.approx(15.206408 * GRAVITY, rel=0.01)


def test_stands_tall_at_the_gains_unitree_holds_with():
    model = load_model(with_gains(kp=60.0, kd=5.0))
    data = at_home(model)
    simulate(model, data, 5.0)
    assert 0.26 < data.qpos[2] < 0.29 and abs(data.qpos[0]) < 0.035 and np.abs(data.qvel).max() < 0.005


def tumbles(model: mujoco.MjModel, num: int, seconds: float = 0.5):
    """Robots dropped in random attitudes and poses, one MjData after the other, shortly after the impact."""
    rng = np.random.default_rng(0)
    for _ in range(num):
        data = at_home(model)
        data.qpos[2], data.qpos[3:7] = rng.uniform(0.25, 0.4), rng.normal(size=4)
        data.qpos[7:] = rng.uniform(*model.jnt_range[1:].T)
        data.qvel[:] = rng.normal(scale=0.5, size=model.nv)
        simulate(model, data, rng.uniform(0.1, seconds))
        mujoco.mj_forward(model, data)
        yield data


def test_touch_sensors_tell_the_trunk_and_the_feet_from_the_rest(model):
    """base_touch is > 0 exactly when a trunk geom presses on the floor, a foot's exactly when that foot does."""
    seen = set()
    for data in tumbles(model, 100):
        pressing, force = set(), np.zeros(6)
        for index, contact in enumerate(data.contact):
            mujoco.mj_contactForce(model, data, index, force)
            assert "floor" in (names := {model.geom(geom).name for geom in contact.geom})
            if force[0] > 0:
                pressing |= names
        assert (data.sensor("base_touch").data[0] > 0) == any(name.startswith("trunk_") for name in pressing)
        for leg in LEGS:
            assert (data.sensor(f"{leg}_foot_touch").data[0] > 0) == (f"{leg}_foot" in pressing)
            np.testing.assert_allclose(data.sensor(f"{leg}_foot_position").data, data.geom(f"{leg}_foot").xpos)
        seen |= pressing
    assert {
        "trunk_body",
        "trunk_head",
        "trunk_chin",
        "FR_foot",
        "RL_foot",
        "RR_hip",
        "FL_thigh",
        "RL_calf_upper",
    } <= seen


def test_solver_limits_do_not_cost_accuracy(model):
    exact = load_model(GO2_CONFIG)
    exact.opt.iterations, exact.opt.ls_iterations, exact.opt.tolerance = 200, 100, 1e-12
    for data in tumbles(model, 40):
        acceleration = data.qacc.copy()
        mujoco.mj_forward(exact, data)
        np.testing.assert_allclose(acceleration, data.qacc, rtol=1e-4, atol=1e-3)


def test_looks_take_no_part_in_physics(model):
    """The model with its looks moves bit for bit like the one without, which is the quicker one."""
    dressed = load_model(GO2_CONFIG, visual=True)
    assert not np.any(model.geom_group == 2) and np.sum(dressed.geom_group == 2) > 50
    datas = [at_home(each) for each in (model, dressed)]
    for each, data in zip((model, dressed), datas):
        data.qvel[2] = -1.0
        simulate(each, data, 1.0)
    np.testing.assert_array_equal(datas[0].qpos, datas[1].qpos)


def write_foreign_go2(path, seed: int):
    """The same robot as another author might write it.

    Motors, other orders and names, parts that collide with each other, no sites, sensors or keyframe, and a floor only
    in odd ones.
    """
    shuffle = random.Random(seed).shuffle
    tree = ElementTree.parse(find_mjcf(GO2_CONFIG))
    root = tree.getroot()
    for tag in ("sensor", "keyframe"):
        root.remove(root.find(tag))
    world = root.find("worldbody")
    for child in [child for child in world if child.tag != "body" and not (child.tag == "geom" and seed % 2)]:
        world.remove(child)
    for geom in (root.find("default/default[@class='collision']/geom"), *world.findall("geom")):
        del geom.attrib["contype"], geom.attrib["conaffinity"]
    base = world.find("body")
    hips = base.findall("body")
    for body in list(base.iter("body")):
        for site in body.findall("site"):
            body.remove(site)
        for index, geom in enumerate(body.findall("geom")):
            geom.attrib.pop("name", None)
    for hip in hips:
        base.remove(hip)
    shuffle(hips)
    base.extend(hips)
    actuator = root.find("actuator")
    motors = list(actuator)
    shuffle(motors)
    actuator.clear()
    for motor in motors:
        ElementTree.SubElement(
            actuator, "motor", name="m_" + motor.get("name"), joint=motor.get("joint"), ctrlrange="-5 5", gear="2"
        )
    for element in root.iter("position"):  # defaults of the actuators that are gone
        element.attrib.clear()
    tree.write(path)
    return path


@pytest.mark.parametrize("seed", range(3))
def test_a_foreign_file_is_driven_by_name(model, tmp_path, seed):
    """Joints and actuators in any order: the same targets give the same motion, joint by joint."""
    foreign = load_model(GO2_CONFIG, write_foreign_go2(tmp_path / "foreign.xml", seed))
    models = (model, foreign)
    addresses = [motor_addresses(each, GO2_CONFIG) for each in models]
    assert tuple(addresses[1].qpos) != tuple(addresses[0].qpos) and tuple(addresses[1].actuator) != tuple(
        addresses[0].actuator
    )
    datas = [at_home(each) for each in models]
    rng = np.random.default_rng(seed)
    for _ in range(25):
        target = GO2_CONFIG.default_position + rng.uniform(-0.4, 0.4, 12)
        for each, data, address in zip(models, datas, addresses):
            data.ctrl[address.actuator] = target
            simulate(each, data, 0.02)
        np.testing.assert_allclose(datas[1].qpos[:7], datas[0].qpos[:7], atol=1e-6)
        for field, kind in (("qpos", "qpos"), ("qvel", "qvel"), ("actuator_force", "actuator")):
            ours, theirs = (getattr(data, field)[getattr(address, kind)] for data, address in zip(datas, addresses))
            np.testing.assert_allclose(theirs, ours, atol=1e-4, err_msg=field)
        for name in ["base_touch", *(f"{leg}_foot_{kind}" for leg in LEGS for kind in ("touch", "position"))]:
            np.testing.assert_allclose(datas[1].sensor(name).data, datas[0].sensor(name).data, atol=1e-2, err_msg=name)


def test_a_file_keeps_its_own_joint_damping(tmp_path):
    path = tmp_path / "damped.xml"
    path.write_text(find_mjcf(GO2_CONFIG).read_text().replace('damping="0.1"', 'damping="2"'))
    model = load_model(GO2_CONFIG, path)
    assert set(model.dof_damping[6:]) == {2.0} and set(model.actuator_gainprm[:, 0]) == {35.0}


def test_what_is_missing_is_named(tmp_path):
    path = tmp_path / "robot.xml"
    path.write_text(
        "<mujoco><worldbody><body><freejoint/><geom size='1'/><body><joint name='left_knee'/><geom size='1'/></body></body>"
        "</worldbody></mujoco>"
    )
    with pytest.raises(ValueError, match="lacks the joints FR_hip_joint, .* it has left_knee"):
        load_model(GO2_CONFIG, path)
    with pytest.raises(FileNotFoundError, match="nowhere.xml"):
        load_model(GO2_CONFIG, tmp_path / "nowhere.xml")
    path.write_text(find_mjcf(GO2_CONFIG).read_text().replace('<freejoint name="base"/>', ""))
    with pytest.raises(ValueError, match="free joint"):
        load_model(GO2_CONFIG, path)
    with pytest.raises(ValueError, match="timestep_s"):
        load_model(GO2_CONFIG, timestep_s=0.0)


def test_unpowered_joints_are_named(tmp_path):
    path = write_foreign_go2(tmp_path / "foreign.xml", 0)
    bare = mujoco.MjModel.from_xml_string(path.read_text().replace('joint="RL_calf_joint"', 'joint="RR_calf_joint"'))
    with pytest.raises(ValueError, match="no actuator on RL_calf_joint"):
        motor_addresses(bare, GO2_CONFIG)
