"""Files that were not written for rfx: what they say is driven, felt and varied as it is, or refused in one line."""

import dataclasses

import mujoco
import numpy as np
import pytest
from small_robot import BASE, FLOOR, FOOT, FOOT_M, LEG_M, LEGS, MASS_KG, small_robot

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from rfx import SimRobot
from rfx.check import check_robot
from rfx.check.finding import MISTAKE, WARNING
from rfx.drivers.base import base_addresses
from rfx.drivers.mjcf import load_model, motor_addresses
from rfx.robot.height_field import HeightField
from train.judge.conditions import worst_corner
from train.judge.models import ModelChange, changed_model

GRAVITY = 9.81
HEIGHT_M = LEG_M + FOOT_M - 0.0001  # of the base at home: the feet are 0.1 mm in the floor
PAIRS = (
    "<contact>"
    + "".join(f'<pair geom1="floor" geom2="{name}_foot" friction="0.8 0.8 0.005 0.0001 0.0001"/>' for name in LEGS)
    + "</contact>"
)
SLOPE = '<option gravity="0 9.81 -9.81"/>'  # 45 degrees, as a robot on it feels it: it slides to its left
BALL = '<body name="ball" pos="3 0 0.1"><freejoint name="ball"/><geom size="0.1" mass="7"/></body>'
DOOR = '<body name="door" pos="3 0 0.6"><joint name="hinge" axis="0 0 1"/><geom type="box" size="0.4 0.02 0.5" mass="7"/></body>'
ACTUATORS = (
    "motor",
    'position kp="3" timeconst="0.2"',
    'velocity kv="2"',
    'intvelocity kp="3" actrange="-1 1"',
    'damper ctrlrange="0 1"',
    "cylinder",
    'muscle ctrlrange="0 1"',
    'general dyntype="filterexact" dynprm="0.3" actlimited="true" actrange="-2 2" gainprm="4"',
)


@pytest.fixture
def make(tmp_path):
    """small_robot in this test's folder."""
    return lambda **parts: small_robot(tmp_path / "robot", **parts)


@pytest.fixture(autouse=True)
def _a_short_look_at_the_speed(monkeypatch):
    monkeypatch.setattr("rfx.check.physics.SPEED_S", 0.02)


def environment(robot, num_envs=1, **overrides) -> LeggedEnv:
    overrides = {"randomize": False, "num_envs": num_envs} | overrides
    return LeggedEnv(config=EnvConfig.load("go2", **overrides), robot=robot, threads=1)


def at_home(model) -> mujoco.MjData:
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    mujoco.mj_forward(model, data)
    return data


def measured_friction(env: LeggedEnv, num_steps: int = 20) -> np.ndarray:
    """Coefficients of robots that slide down a slope of 45 degrees, by Coulomb: impulse along the floor by impulse
    across it. (N,).
    """
    env.reset(seed=0)
    simulation, ids = env.simulation, np.arange(env.num_envs)
    simulation.reset(ids, *simulation.home(len(ids)))
    for step in range(num_steps):
        if step == 4:
            begin = env.simulation.batch.qvel[:, env.simulation.base.linear_velocity].copy()
        simulation.step(np.zeros((len(ids), 4), np.float32))
    _, along, up = (simulation.batch.qvel[:, simulation.base.linear_velocity] - begin).T
    free = GRAVITY * (num_steps - 4) * simulation.control_step_s  # m/s that gravity gives along each axis
    return (free - along) / (free + up)


@pytest.mark.parametrize("after", ["", PAIRS])
def test_friction_that_is_drawn_is_what_a_robot_slides_with(make, after):
    """Whether geoms or pairs say what friction is."""
    robot = make(after=after, option=SLOPE)
    for coefficient in (0.05, 0.3):
        env = environment(
            robot,
            randomize=True,
            noise={},
            pushes={},
            randomization={"floor_friction": {"coefficient": (coefficient, coefficient)}},
        )
        assert measured_friction(env) == pytest.approx(coefficient, abs=0.04)
        assert env.state.floor_friction == pytest.approx(coefficient)


def test_without_randomization_the_friction_is_the_pairs(make):
    env = environment(make(floor=FLOOR.replace("0.8", "0.1"), after=PAIRS, option=SLOPE))
    assert env.state.floor_friction == pytest.approx(0.8) and measured_friction(env) == pytest.approx(0.8, abs=0.04)


def test_where_no_geom_decides_the_larger_friction_is_told(make):
    """Geoms of one priority: MuJoCo takes the larger sliding friction.

    A robot's geoms have 1 where their file does not say.
    """
    env = environment(make(floor=FLOOR.replace(' priority="1"', ""), option=SLOPE))
    assert env.state.floor_friction == pytest.approx(1.0) and measured_friction(env) == pytest.approx(1.0, abs=0.04)


def test_each_robot_has_a_friction_of_its_own_and_a_ramp_begins_at_the_pairs(make):
    robot = make(after=PAIRS, option=SLOPE)
    drawn = {
        "randomize": True,
        "noise": {},
        "pushes": {},
        "randomization": {"floor_friction": {"coefficient": (0.1, 0.6)}},
    }
    env = environment(robot, 4, **drawn)
    found = measured_friction(env)
    assert np.ptp(env.state.floor_friction) > 0.1 and found == pytest.approx(env.state.floor_friction, abs=0.04)
    ramped = environment(robot, 4, disturbance_ramp=(0, 1_000_000), **drawn)
    ramped.reset(seed=0)
    assert ramped.state.floor_friction == pytest.approx(0.8)


def test_the_worst_corner_is_slippery(make):
    robot = make(after=PAIRS, option=SLOPE)
    env = environment(robot, noise={}, pushes={}, **worst_corner(robot, MASS_KG))
    assert (
        env.reset(seed=0)
        and env.state.floor_friction == pytest.approx(0.4)
        and measured_friction(env) == pytest.approx(0.4, abs=0.04)
    )


def test_a_model_of_other_friction_has_it_in_its_pairs(make, tmp_path):
    robot = make(after=PAIRS)
    (tmp_path / "slippery.xml").write_text(
        changed_model(robot, ModelChange(floor_friction=0.2, foot_solimp=(0.5, 0.6, 0.01, 0.5, 2.0))).to_xml()
    )
    model = load_model(robot, tmp_path / "slippery.xml")
    assert (
        (model.pair_friction[:, :2] == 0.2).all()
        and (model.geom_friction[:, 0] == 0.2).all()
        and (model.pair_solimp[:, 0] == 0.5).all()
    )


def test_a_pair_within_the_robot_is_not_felt(make):
    """Two of its geoms that reach into each other: touch sensors mean the world, so a robot does not touch itself."""
    inside = '<geom name="{name}_knee" size="0.05" mass="0" pos="0 0 0.02" contype="0" conaffinity="0"/>'
    bar = '<geom name="bar" type="box" size="0.25 0.35 0.01" mass="0" contype="0" conaffinity="0"/>'
    robot = make(
        base=BASE + bar, shin=inside, after=PAIRS.replace("</contact>", '<pair geom1="bar" geom2="FR_knee"/></contact>')
    )
    assert at_home(load_model(robot)).ncon == 4


@pytest.mark.parametrize("actuator", ACTUATORS)
def test_any_actuator_of_a_joint_becomes_the_motor_that_the_config_says(make, actuator):
    bare = load_model(make())
    words = actuator.split(" ", 1)
    lines = "".join(f'<{words[0]} name="{name}" joint="{name}" {"".join(words[1:])}/>' for name in LEGS)
    model = load_model(make(after=f"<actuator>{lines}</actuator>"))
    for field in (
        "trntype",
        "trnid",
        "gear",
        "dyntype",
        "dynprm",
        "gaintype",
        "gainprm",
        "biastype",
        "biasprm",
        "ctrllimited",
        "forcelimited",
        "forcerange",
        "actlimited",
        "actnum",
    ):
        np.testing.assert_array_equal(
            getattr(model, f"actuator_{field}"), getattr(bare, f"actuator_{field}"), err_msg=field
        )
    assert model.na == 0


def test_an_actuator_of_a_tendon_called_as_a_joint_stays_its_own(make):
    """Names are unique within a kind alone."""
    tendon = '<tendon><fixed name="FR"><joint joint="FR" coef="1"/></fixed></tendon><actuator><motor name="FR" tendon="FR"/></actuator>'
    model = load_model(robot := make(after=tendon))
    assert model.nu == 5 and model.actuator_trntype.tolist().count(mujoco.mjtTrn.mjTRN_TENDON) == 1
    assert len(set(motor_addresses(model, robot).actuator)) == 4


# --- what is in the world besides


@pytest.fixture(params=[BALL, DOOR, BALL + DOOR], ids=["ball", "door", "both"])
def scene(request, make, tmp_path):
    """The robot behind other things that move, and the robot alone."""
    return make(before=request.param), small_robot(tmp_path / "alone")


def test_things_ahead_of_the_robot_in_the_file_change_nothing(scene):
    """Observations, rewards and ends are the lone robot's, from one reset to the next."""
    envs = [environment(robot, 2, episode_length_s=0.3) for robot in scene]
    seen, ended = [], 0
    for env in envs:
        rng, rows = np.random.default_rng(0), [env.reset(seed=3)[0]["state"]]
        for _ in range(25):
            observation, reward, terminated, truncated, _ = env.step(rng.uniform(-0.1, 0.1, (2, 4)))
            rows.append(np.column_stack((observation["state"], reward, terminated, truncated)))
            ended += truncated.sum()
        seen.append(rows)
    assert ended >= 4
    for ours, alone in zip(*seen):
        np.testing.assert_allclose(ours, alone, atol=2e-3)
    assert all(env.simulation.mass_kg == pytest.approx(MASS_KG) for env in envs)


def test_only_the_robot_is_varied_and_pushed(make):
    robot = make(before=BALL + DOOR)
    varied = {
        "link_mass": {"scale": (2.0, 2.0)},
        "joint_friction": {"scale": (2.0, 2.0)},
        "joint_damping": {"coefficient": (0.7, 0.7)},
        "joint_armature": {"scale": (3.0, 3.0)},
    }
    env = environment(robot, randomize=True, noise={}, pushes={}, randomization=varied)
    env.reset(seed=0)
    model, batch = env.simulation.model, env.simulation.batch
    assert env.simulation.mass_kg == pytest.approx(2 * MASS_KG - 3.0)  # the base, of 3 kg, is not a link
    hinge, legs = model.joint("hinge").dofadr[0], motor_addresses(model, robot).qvel
    assert batch.expanded("body_mass")[0, [model.body("ball").id, model.body("door").id]].tolist() == [7.0, 7.0]
    assert batch.expanded("dof_damping")[0, hinge] == 0.0 and (batch.expanded("dof_damping")[0, legs] == 0.7).all()
    assert batch.expanded("dof_armature")[0, legs] == pytest.approx(0.03)
    before = batch.qvel.copy()
    env.simulation.push(np.array([0]), np.arange(1.0, 7.0)[None])
    (changed,) = np.nonzero((batch.qvel - before)[0])
    assert changed.tolist() == list(range(*base_addresses(model).velocity.indices(model.nv)))


def test_the_simulated_robot_and_the_check_find_the_base(scene):
    sims = [SimRobot(robot) for robot in scene]
    for sim in sims:
        sim.physics.place(sim.config.default_position, height=0.5, quaternion=(0.0, 1.0, 0.0, 0.0))
        sim.physics.push(np.array([0.0, 1.0, 0.0]))
        sim.physics.step(10)  # 50 ms: it falls freely on its back, and flies to its left
        assert sim.physics.base_position_w == pytest.approx((0.0, 0.05, 0.5 - 0.5 * GRAVITY * 0.05**2), abs=2e-3)
        assert sim.physics.base_linear_velocity_w == pytest.approx((0.0, 1.0, -GRAVITY * 0.05), abs=1e-2)
        assert abs(sim.physics.base_quaternion[1]) == pytest.approx(1.0, abs=1e-3)
    checks = [
        [
            check
            for check in check_robot(robot.mjcf.rsplit("/", 1)[0])
            if check.name not in ("speed", "joints", "torque")
        ]
        for robot in scene
    ]
    assert [(check.name, check.verdict, check.measured) for check in checks[0]] == [
        (check.name, check.verdict, check.measured) for check in checks[1]
    ]


def test_the_robot_feels_what_moves_in_the_world(make):
    """A ball of 7 kg that lies on its back is felt by its trunk, and the ball rests on the floor when it is not
    there.
    """
    robot = make(before=BALL.replace("3 0 0.1", "0 0 0.4"))
    model = load_model(robot)
    data = at_home(model)
    mujoco.mj_step(model, data, nstep=60)
    assert data.sensor("base_touch").data[0] > 0.0
    model = load_model(make(before=BALL))
    data = at_home(model)
    mujoco.mj_step(model, data, nstep=400)
    assert data.body("ball").xpos[2] == pytest.approx(0.1, abs=5e-3)


def test_joints_of_two_robots_are_refused(make):
    robot = make()
    path = robot.mjcf
    text = open(path).read()
    leg = text[
        text.index('<body name="RL_leg"') : text.index("</body>", text.index('<body name="RL_leg"')) + len("</body>")
    ]
    open(path, "w").write(
        text.replace(leg, "").replace("</worldbody>", f'<body pos="0 0 3"><freejoint/>{leg}</body></worldbody>')
    )
    with pytest.raises(ValueError, match="hang on 2 floating bodies"):
        load_model(robot)


def test_a_fixed_robot_beside_a_ball_is_refused(make):
    robot = make(before=BALL)
    text = open(robot.mjcf).read().replace("<freejoint/>", "")
    open(robot.mjcf, "w").write(text)
    with pytest.raises(ValueError, match="fixed"):
        load_model(robot)


# --- names


def test_bodies_without_names(make):
    """Base, legs and feet: sites and sensors are put on them all the same, and feel the floor."""
    data = at_home(load_model(make(base_name="", leg_name="")))
    assert (
        all(data.sensor(f"{name}_foot_touch").data[0] > 0.0 for name in LEGS)
        and data.sensor("base_touch").data[0] == 0.0
    )
    assert [data.sensor(f"{name}_foot_position").data[2] for name in LEGS] == pytest.approx([FOOT_M] * 4, abs=2e-4)


def on_its_back(robot) -> LeggedEnv:
    """An environment whose one robot lies on its back."""
    env = environment(robot)
    env.reset(seed=0)
    qpos, qvel = env.simulation.home(1)
    qpos[:, env.simulation.base.position] = 0.0, 0.0, 0.05
    qpos[:, env.simulation.base.quaternion] = 0.0, 1.0, 0.0, 0.0
    env.simulation.reset(np.array([0]), qpos, qvel)
    env.simulation.step(np.zeros((1, 4), np.float32))
    return env


@pytest.mark.parametrize(
    "base",
    [
        BASE + '<site name="trunk" pos="0 0 0.1"/>',
        BASE + '<site name="trunk" type="box" size="0.2 0.2 0.04"/>',
        BASE
        + '<body pos="0 0 0.06"><geom size="0.01" mass="0.1" contype="0" conaffinity="0"/><site name="trunk" size="0.5"/></body>',
    ],
)
def test_a_site_that_is_only_called_trunk_does_not_feel_for_the_base(make, base):
    assert on_its_back(make(base=base)).state.base_contact[0]


def test_a_site_trunk_that_encloses_its_body_is_kept(make):
    model = load_model(make(base=BASE + '<site name="trunk" type="box" size="0.16 0.11 0.06"/>'))
    assert model.site(int(model.sensor("base_touch").objid[0])).name == "trunk"


def test_sites_and_sensors_that_are_only_called_like_ours(make):
    """A foot's site on the knee, an IMU on a leg, and sensors of other kinds."""
    shin = '<site name="{name}_foot"/><site name="{name}_tip"/>'
    sensors = """<sensor><velocimeter name="imu_gyro" site="FR_tip"/><framepos name="FL_foot_position" objtype="site" objname="RR_tip"/>
                 <touch name="base_touch" site="FR_tip"/></sensor>"""
    robot = make(shin=shin, base=BASE + '<site name="imu" pos="0.1 0 0" euler="0 1 0"/>', after=sensors)
    model = load_model(robot)
    data = at_home(model)
    assert all(data.sensor(f"{name}_foot_touch").data[0] > 0.0 for name in LEGS)
    assert [data.sensor(f"{name}_foot_position").data[2] for name in LEGS] == pytest.approx([FOOT_M] * 4, abs=2e-4)
    assert data.sensor("imu_gyro").data == pytest.approx(np.zeros(3)) and data.sensor(
        "imu_framequat"
    ).data == pytest.approx((1.0, 0.0, 0.0, 0.0))
    assert on_its_back(robot).state.base_contact[0]


# --- feet


def test_a_foot_is_its_geoms_and_not_the_rest_of_its_body(make):
    """A foot of two balls below a shin of the same body: its middle is theirs, and contacts of the shin are not its
    own.
    """
    foot = "".join(
        f'<geom name="{{name}}_foot{end}" size="0.02" pos="{x} 0 -0.2" mass="0.05"/>'
        for end, x in (("", -0.03), ("_toe", 0.03))
    )
    robot = make(foot=foot)
    robot = dataclasses.replace(
        robot,
        feet=tuple(
            dataclasses.replace(each, geoms=(f"{each.name}_foot", f"{each.name}_foot_toe")) for each in robot.feet
        ),
    )
    model = load_model(robot)
    site = model.site(int(model.sensor("FR_foot_touch").objid[0]))
    assert site.size == pytest.approx((0.052, 0.022, 0.022)) and site.pos == pytest.approx((0.0, 0.0, -0.2))
    assert at_home(model).sensor("FR_foot_touch").data[0] > 0.0


def test_a_foot_in_a_frame(make):
    model = load_model(
        make(foot='<frame pos="0 0 -0.1"><geom name="{name}_foot" size="0.02" pos="0 0 -0.1" mass="0.1"/></frame>')
    )
    assert all(at_home(model).sensor(f"{name}_foot_touch").data[0] > 0.0 for name in LEGS)


def test_a_foot_that_is_a_mesh_stands_on_its_lowest_corner(make):
    """A tetrahedron, turned by -0.5 rad about x and 0.6 about its new y: a box around it would reach lower than it
    does.
    """
    corners = 0.02 * np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)])
    mesh = f'<asset><mesh name="cut" vertex="{" ".join(map(str, corners.ravel()))}"/></asset>'
    robot = make(
        foot='<geom name="{name}_foot" type="mesh" mesh="cut" pos="0 0 -0.2" euler="-0.5 0.6 0" mass="0.1"/>',
        option=mesh,
    )
    lowest = (corners @ (-np.cos(0.5) * np.sin(0.6), -np.sin(0.5), np.cos(0.5) * np.cos(0.6))).min()
    assert load_model(robot).key("home").qpos[2] == pytest.approx(LEG_M - lowest - 0.0001, abs=1e-6)


# --- what collides


def test_feet_that_collide_through_pairs_alone(make):
    foot = FOOT.replace("mass", 'contype="0" conaffinity="0" mass')
    robot = make(foot=foot, after=PAIRS)
    data = at_home(load_model(robot))
    assert data.ncon == 4 and all(data.sensor(f"{name}_foot_touch").data[0] > 0.0 for name in LEGS)
    assert not [
        finding
        for check in check_robot(robot.mjcf.rsplit("/", 1)[0])
        for finding in check.findings
        if finding.verdict == MISTAKE
    ]


def test_a_floor_that_collides_through_pairs_alone_is_the_floor(make):
    model = load_model(make(floor=FLOOR.replace("/>", ' contype="0" conaffinity="0"/>'), after=PAIRS))
    assert (model.geom_bodyid == 0).sum() == 1


@pytest.mark.parametrize("base", ["", BASE.replace("mass", 'contype="0" conaffinity="0" mass')])
def test_a_base_of_which_nothing_collides_is_not_felt(make, base):
    inertial = '<inertial pos="0 0 0" mass="3" diaginertia="0.02 0.02 0.02"/>'
    robot = make(base=inertial + base)
    assert environment(robot).reset(seed=0) and not at_home(load_model(robot)).sensor("base_touch").data[0]
    found = [finding for check in check_robot(robot.mjcf.rsplit("/", 1)[0]) for finding in check.findings]
    assert [finding.verdict for finding in found if "trunk" in finding.text] == [WARNING]


def test_looks_that_are_missing_stop_no_training(make):
    looks = '<geom type="mesh" mesh="shell" contype="0" conaffinity="0" group="2" material="paint"/>'
    assets = """<asset><mesh name="shell" file="nowhere.stl"/><texture name="coat" type="2d" file="nowhere.png"/>
                <material name="paint" texture="coat"/></asset>"""
    inertial = '<inertial pos="0 0 0" mass="3" diaginertia="0.02 0.02 0.02"/>'
    robot = make(base=inertial + BASE + looks, option=assets)
    assert load_model(robot).body_mass.sum() == pytest.approx(MASS_KG)
    for broken in (
        lambda: load_model(robot, visual=True),
        lambda: load_model(make(base=BASE + looks, option=assets)),
    ):  # it weighs something
        with pytest.raises(ValueError, match="nowhere"):
            broken()


# --- floors


@pytest.mark.parametrize(
    "floor",
    [
        f"<body>{FLOOR}</body>",
        f"<frame>{FLOOR}</frame>",
        f'<frame pos="0 0 0.3"><body pos="0 0 -0.3">{FLOOR}</body></frame>',
        '<geom name="floor" type="box" size="5 5 0.1" pos="0 0 -0.1"/>',
        "",
    ],
)
def test_level_floors_at_zero_however_they_are_written(make, floor):
    model = load_model(make(floor=floor))
    assert at_home(model).ncon == 4 and model.key("home").qpos[2] == pytest.approx(HEIGHT_M, abs=1e-6)
    assert (
        sum(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE) + sum(model.geom_size[:, 0] == 5.0) == 1
    )  # no second floor


@pytest.mark.parametrize(
    "floor",
    [
        FLOOR.replace("/>", ' pos="0 0 0.1"/>'),
        f'<body pos="0 0 0.1">{FLOOR}</body>',
        f'<frame pos="0 0 0.1">{FLOOR}</frame>',
        FLOOR.replace("/>", ' pos="0 0 -0.1"/>'),
        FLOOR.replace("/>", ' euler="0.3 0 0"/>'),
        '<geom name="wall" type="box" size="0.1 2 2" pos="3 0 0"/>',
    ],
)
def test_other_floors_are_refused_in_one_line(make, floor):
    robot = make(floor=floor)
    with pytest.raises(ValueError, match="at z = 0") as refused:
        load_model(robot)
    assert "\n" not in str(refused.value)
    found = [finding for check in check_robot(robot.mjcf.rsplit("/", 1)[0]) for finding in check.findings]
    assert [finding.verdict for finding in found if "z = 0" in finding.text] == [MISTAKE]


def test_a_terrain_takes_the_place_of_a_floor_or_refuses(make):
    ground = HeightField(heights=np.zeros((21, 21), np.float32), cell_m=0.1, corner_m=(-1.0, -1.0))
    for floor in (
        FLOOR,
        FLOOR.replace("/>", ' pos="0 0 0.1" euler="0.1 0 0"/>'),
        FLOOR + FLOOR.replace('"floor"', '"second"'),
    ):
        pairs = PAIRS + PAIRS.replace('"floor"', '"second"') if "second" in floor else PAIRS
        model = load_model(make(floor=floor, after=pairs), ground=ground)
        data = at_home(model)
        assert (model.geom_type == mujoco.mjtGeom.mjGEOM_HFIELD).sum() == 1 and len(set(model.pair_geom1)) == 1
        assert len(np.unique([np.sort(contact.geom) for contact in data.contact], axis=0)) == 4
        assert (model.pair_solref[:, 0] == 0.01).all()
    for floor in (f"<body>{FLOOR}</body>", f'<frame pos="0 0 0.1">{FLOOR}</frame>'):
        with pytest.raises(ValueError, match="worldbody"):
            load_model(make(floor=floor), ground=ground)


# --- options


@pytest.mark.parametrize(
    "option, base_name, said",
    [
        ('<option><flag gravity="disable"/></option>', 'name="base"', "gravity"),
        ('<option gravity="0 0 -1.62"/>', 'name="base"', "gravity"),
        ('<option gravity="0 1 -9.76"/>', 'name="base"', "gravity"),
        ("", 'name="base" gravcomp="1"', "gravcomp"),
        ('<option density="1000"/>', 'name="base"', "density"),
        ('<option><flag limit="disable"/></option>', 'name="base"', "limit"),
    ],
)
def test_a_world_unlike_ours_is_warned_of(make, option, base_name, said):
    robot = make(option=option, base_name=base_name)
    found = [
        (finding.verdict, finding.text)
        for check in check_robot(robot.mjcf.rsplit("/", 1)[0])
        for finding in check.findings
        if check.name == "world"
    ]
    assert len(found) == 1 and found[0][0] == WARNING and said in found[0][1]


@pytest.mark.parametrize("flag", ["contact", "constraint", "actuation", "sensor"])
def test_without_what_walking_needs_a_model_is_refused(make, flag):
    with pytest.raises(ValueError, match=flag):
        load_model(make(option=f'<option><flag {flag}="disable"/></option>'))
