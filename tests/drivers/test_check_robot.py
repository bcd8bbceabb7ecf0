"""`rfx check-robot`: robots that are wrong in one way each, and what is said of them; the robots that rfx has are
right.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml

from rfx.check import check_robot
from rfx.check.finding import MISTAKE, OK, WARNING
from rfx.check.physics import Stand, check_standing
from rfx.commands.cli import main
from rfx.drivers.shapes import inside, surface
from rfx.robot.files import ASSETS, load_robot, robot_names


@pytest.fixture(autouse=True)
def _a_short_look_at_the_speed(monkeypatch):
    """A second of all cores for each robot here would be more than a minute."""
    monkeypatch.setattr("rfx.check.physics.SPEED_S", 0.02)


@pytest.fixture
def changed(tmp_path):
    """A folder of a robot's two files, after edit(values of robot.yaml) and replacements in the MJCF."""

    def make(edit=lambda values: None, *replacements, name="go1") -> Path:
        values, xml = (
            yaml.safe_load((ASSETS / name / "robot.yaml").read_text()),
            (ASSETS / name / f"{name}.xml").read_text(),
        )
        edit(values)
        for old, new in replacements:
            assert old in xml
            xml = xml.replace(old, new)
        (tmp_path / f"{name}.xml").write_text(xml)
        (tmp_path / "robot.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return tmp_path

    return make


def every_joint(part="", **entries):
    """An edit that sets entries of every joint whose name has that part."""
    return lambda values: [joint.update(entries) for joint in values["joints"] if part in joint["name"]]


def joint(values, name):
    return next(joint for joint in values["joints"] if joint["name"] == name)


def findings(folder) -> list[tuple[str, str, str]]:
    """(verdict, text, mend) of all but what was only ok."""
    return [
        (finding.verdict, finding.text, finding.mend) for check in check_robot(folder) for finding in check.findings
    ]


def only(folder, verdict: str) -> tuple[str, str]:
    """text and mend of the one finding that there is."""
    ((found, text, mend),) = findings(folder)
    assert found == verdict
    return text, mend


@pytest.mark.parametrize("name", robot_names())
def test_the_robots_that_rfx_has_are_right(name):
    checks = check_robot(name)
    assert [check.name for check in checks] == [
        "observation",
        "gait",
        "joints",
        "feet",
        "gains",
        "world",
        "feet on the floor",
        "mirror",
        "stands",
        "torque",
        "speed",
    ]
    assert all(check.verdict == OK and check.measured for check in checks)


def test_a_joint_of_another_name(changed):
    def rename(values):
        joint(values, "FL_hip_joint")["name"] = joint(values, "FR_hip_joint")["mirror"] = "FL_hp_joint"

    found = findings(changed(rename))
    assert (MISTAKE, "the MJCF has no hinge or slide joint 'FL_hp_joint'", "did you mean 'FL_hip_joint'?") in found
    assert any(verdict == WARNING and "nothing drives the joints FL_hip_joint" in text for verdict, text, _ in found)


@pytest.mark.parametrize(
    "entries, verdict, mend",
    [
        ({"max_rad": 1.2}, MISTAKE, "set min_rad: -0.863, max_rad: 0.863, or correct the range"),
        ({"min_rad": -0.5}, WARNING, "set min_rad: -0.863, max_rad: 0.863, unless the narrower range is meant"),
        ({"max_torque_nm": 40.0}, MISTAKE, "set max_torque_nm: 23.7, or correct actuatorfrcrange"),
        ({"max_torque_nm": 20.0}, WARNING, "set max_torque_nm: 23.7, unless the weaker motor is meant"),
    ],
)
def test_limits_other_than_the_models(changed, entries, verdict, mend):
    limit = (
        '<default class="hip"><joint axis="1 0 0"',
        '<default class="hip"><joint axis="1 0 0" actuatorfrcrange="-23.7 23.7"',
    )
    found = findings(changed(every_joint("FR_hip", **entries), limit))
    assert found[0][0] == verdict and found[0][1].startswith("FR_hip_joint: ") and found[0][2] == mend
    assert all(
        "its mirror image" in text for _, text, _ in found[1:]
    )  # that it differs from the other side is said too


def test_radians_that_are_taken_for_degrees(changed):
    found = findings(changed(lambda values: None, ('<compiler angle="radian"', '<compiler angle="degree"')))
    assert len(found) == 12 and all(
        finding[0] == MISTAKE and 'write <compiler angle="radian"/>' in finding[2] for finding in found
    )


def test_torque_limits_of_actuators_count(changed):
    """A motor's ctrlrange times its gear, and any actuator's forcerange; the least of all is the limit. 12 x 1.5 = 18,
    3 x 2 = 6 N m.
    """
    motors = (
        "</mujoco>",
        '<actuator><motor name="a" joint="FR_hip_joint" gear="1.5" ctrlrange="-12 12"/>'
        '<position name="b" joint="FL_hip_joint" gear="2" forcerange="-3 3" ctrlrange="-1 1"/></actuator></mujoco>',
    )
    texts = [text for verdict, text, _ in findings(changed(lambda values: None, motors)) if verdict == MISTAKE]
    assert texts == [
        "FR_hip_joint: max_torque_nm 23.7, ctrlrange of the MJCF 18 N m",
        "FL_hip_joint: max_torque_nm 23.7, forcerange of the MJCF 6 N m",
    ]


def test_a_joint_without_range(changed):
    text, mend = only(
        changed(
            lambda values: None, ('name="FR_hip_joint" class="hip"', 'name="FR_hip_joint" class="hip" limited="false"')
        ),
        WARNING,
    )
    assert "FR_hip_joint has no range" in text and mend == 'give it range="-0.863 0.863"'


def test_feet_that_are_not_there(changed):
    def rename(values):
        values["feet"][0]["geoms"], values["feet"][1]["site"] = ["FR_fot"], "FL_toe"

    found = findings(changed(rename))
    assert (MISTAKE, "foot FR: the MJCF has no geom 'FR_fot' that collides", "did you mean 'FR_foot'?") in found
    assert (WARNING, "foot FL: the MJCF has no site 'FL_toe'; one is put around its geoms") == found[1][:2]
    text, mend = only(changed(lambda values: values["feet"][0].update(site="FR_fot", geoms=[])), MISTAKE)
    assert text == "foot FR: the MJCF has no site 'FR_fot'" and mend == "did you mean 'FR_foot'?"


def test_feet_above_the_floor(changed):
    """Hind legs bent by 0.1 rad more are shorter: thigh and shin have 0.213 m each."""

    def bend(values):
        for name in ("RR", "RL"):
            joint(values, f"{name}_thigh_joint")["default_rad"] += 0.05
            joint(values, f"{name}_calf_joint")["default_rad"] -= 0.1

    thigh, calf = load_robot("go1").default_position[7:9]
    lower = [0.213 * (np.cos(t) + np.cos(t + c)) for t, c in ((thigh, calf), (thigh + 0.05, calf - 0.1))]
    above = [text for verdict, text, _ in findings(changed(bend)) if "above the floor" in text]
    expected = f"{1e3 * (lower[0] - lower[1]):.0f} mm above the floor at the default pose"
    assert above == [f"foot {name} is {expected}" for name in ("RR", "RL")]


def test_a_knee_below_the_feet(changed):
    folder = changed(
        lambda values: None,
        (
            '<geom name="FR_calf" class="collision"',
            '<geom name="spur" class="collision" type="sphere" size="0.02" '
            'pos="0 0 -0.26"/><geom name="FR_calf" class="collision"',
        ),
    )
    assert any(
        verdict == MISTAKE and "a geom of body 'FR_calf' is" in text and "below the feet" in text
        for verdict, text, _ in findings(folder)
    )


def test_a_site_that_does_not_enclose_its_foot(changed):
    folder = changed(
        lambda values: None, ('<site name="FR_foot" class="foot"/>', '<site name="FR_foot" class="foot" size="0.02"/>')
    )
    text, mend = only(folder, MISTAKE)
    assert text.startswith("foot FR: geom FR_foot reaches out of its site 'FR_foot'") and "make the site larger" in mend


@pytest.mark.parametrize(
    "site, encloses", [("sphere", 1), ("box", 1), ("cylinder", 1), ("capsule", 1), ("ellipsoid", 1), ("sphere", 0.97)]
)
@pytest.mark.parametrize(
    "geom, size",
    [
        ("sphere", "0.02"),
        ("capsule", "0.01 0.01"),
        ("cylinder", "0.014 0.014"),
        ("box", "0.011 0.011 0.011"),
        ("ellipsoid", "0.01 0.015 0.02"),
    ],
)
def test_inside_and_surface(geom, size, site, encloses):
    """Geoms that reach 20 mm from their centre (a box 19) are inside sites of 20 mm, turned and moved as they are, and
    not of 2 cm moved by 5 mm.
    """
    xml = f'''<mujoco><worldbody><body pos="1 2 3" euler="30 40 50"><geom type="{geom}" size="{size}"/>
              <site name="around" type="{site}" size="{0.0201 * encloses} {0.0201 * encloses} {0.0201 * encloses}"/>
              <site name="aside" type="{site}" size="0.02 0.02 0.02" pos="0.006 0.006 0.02"/></body></worldbody></mujoco>'''
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    points = surface(model, data, 0)
    reach = np.linalg.norm(points - data.geom_xpos[0], axis=1).max()
    assert reach == pytest.approx(0.02, abs=1e-3)
    assert inside(model, data, model.site("around").id, points, 0.0).all() == (reach <= 0.0201 * encloses)
    assert not inside(model, data, model.site("aside").id, points, 0.0).all()


def test_a_mirror_sign_that_is_wrong(changed):
    def flip(values):
        for name in ("FR_hip_joint", "FL_hip_joint"):
            joint(values, name)["mirror_sign"] = 1

    text, mend = only(changed(flip), MISTAKE)
    assert (
        text == "FL_hip_joint and FR_hip_joint: mirror_sign is 1, their axes in the MJCF ask for -1"
        and mend == "set mirror_sign: -1 for both"
    )


def test_mirror_partners_that_are_not_each_others_reflection(changed):
    def swap(values):
        for one, other in (("FR", "RL"), ("FL", "RR"), ("RR", "FL"), ("RL", "FR")):
            joint(values, f"{one}_hip_joint")["mirror"] = f"{other}_hip_joint"

    found = findings(changed(swap))
    assert [(verdict, text.partition(":")[0], mend) for verdict, text, mend in found] == [
        (
            MISTAKE,
            f"{one}_hip_joint and {other}_hip_joint are not each other's reflection",
            f"set mirror: {image}_hip_joint for {one}_hip_joint",
        )
        for one, other, image in (("FR", "RL", "FL"), ("FL", "RR", "FR"))
    ]


def test_a_default_pose_that_is_not_its_own_mirror_image(changed):
    found = findings(changed(every_joint("FR_hip", default_rad=0.2)))
    assert any(
        verdict == MISTAKE and "not its own mirror image" in text and "default_rad" in mend
        for verdict, text, mend in found
    )


def test_no_mirror_images(changed):
    text, mend = only(changed(every_joint(mirror=None)), WARNING)
    assert text == "no joint has a mirror image" and "policy.symmetric=false" in mend


def test_masses_that_differ_between_left_and_right(changed):
    """One calf of 0.195862 kg becomes 0.3 kg; 2 x (0.68 + 1.009 + 0.195862) = 3.770 kg."""
    xml = (ASSETS / "go1" / "go1.xml").read_text()
    calf = xml[xml.index('<body name="FR_calf"') :][:120]
    found = findings(changed(lambda values: None, (calf, calf.replace("0.195862", "0.3"))))
    texts = [text for verdict, text, _ in found if verdict == MISTAKE]
    assert texts == [
        "FL_calf_joint and FR_calf_joint move bodies of 0.196 and 0.300 kg",
        "the left side has 3.770 kg, the right one 3.874 kg",
    ]


def test_soft_gains(changed):
    """A calf of the Go1 gives way by 0.18 rad, and stands at 0.5 times an action: with 0.1 times no action lifts it to
    its pose.
    """
    text, mend = only(changed(every_joint("calf", action_scale_rad=0.1)), WARNING)
    assert "calf_joint gives way by 0.18 rad" in text and "at most 0.1" in text and "raise its kp (40)" in mend
    text, mend = findings(changed(every_joint(kp=10.0)))[0][1:]
    assert (
        text.startswith("falls under its gains: ")
        and mend == "raise kp and kd: with 4 times kp and 2.0 times kd it stands"
    )  # its own are 40


def test_gains_too_stiff_for_a_physics_step(changed):
    """A spring of 2,000 N m/rad on links of about 0.01 kg m^2 turns by 450 rad/s: more than a step of 10 ms can
    follow.
    """
    text, mend = only(changed(every_joint(kp=2000.0, kd=0.5)), WARNING)
    assert text == "falls at a physics step of 10 ms" and mend.startswith("train with env.timestep_s=0.005;")


def test_a_robot_that_falls_at_more_steps_is_a_mistake():
    """Falling only at 2 ms, or at 5 ms as well."""

    def stood(timestep_s, sunk_share):
        return Stand(
            timestep_s=timestep_s,
            sunk_share=sunk_share,
            tilt_rad=0.0,
            error_rad=np.zeros(12),
            torque_share=np.zeros(12),
            broke=False,
        )

    for sunk, steps, longest in (((0.1, 0.8, 0.8), "5, 10 ms", "0.002"), ((0.8, 0.1, 0.1), "2 ms", "0.01")):
        check = check_standing(
            load_robot("go1"), [stood(step, share) for step, share in zip((0.002, 0.005, 0.01), sunk)]
        )
        (finding,) = check.findings
        assert (
            finding.verdict == MISTAKE
            and finding.text == f"falls at a physics step of {steps}"
            and f"env.timestep_s={longest};" in finding.mend
        )


def test_motors_too_weak_to_stand(changed):
    """Standing takes 7.1 N m of a calf, by the table 20% of 35.55: 5 are too few, however stiff the gains."""
    text, mend = next(
        found[1:] for found in findings(changed(every_joint("calf", max_torque_nm=5.0))) if "falls" in found[1]
    )
    assert mend == "with motors as strong as need be it stands: raise max_torque_nm, or save mass"


def test_a_pose_with_the_feet_beside_the_weight(changed):
    """Thighs back by 0.8 rad more: feet 0.213 (sin 1.7 - sin 0.9 + sin(1.7 - 1.8) - sin(0.9 - 1.8)) = 0.19 m further
    back, under soft gains.
    """
    folder = changed(lambda values: (every_joint("thigh", default_rad=1.7)(values), every_joint(kp=20.0)(values)))
    mend = next(found[2] for found in findings(folder) if found[1].startswith("falls under its gains"))
    place = re.fullmatch(
        r"bring its centre of mass over its feet by default_rad: it is (\d+) mm ahead of their middle and -?\d mm to the left",
        mend,
    )
    assert int(place[1]) == pytest.approx(
        190, abs=25
    )  # the centre of mass moves with the legs, and is not quite over the feet before


@pytest.mark.parametrize(
    "edit, verdict, said",
    [
        (
            lambda values: [foot.update(gait_offset=0.25) for foot in values["feet"]],
            MISTAKE,
            (
                "all feet are in the air at once for a part of the gait cycle",
                "let gait_offset differ, 0.5 between left and right, or set a swing_share below 0.4",
            ),
        ),
        (
            lambda values: values.update(swing_share=0.55),
            MISTAKE,
            (
                "all feet are in the air at once for a part of the gait cycle",
                "let gait_offset differ, 0.5 between left and right, or set a swing_share below 0.55",
            ),
        ),
        (
            lambda values: values["feet"][0].update(gait_offset=1.5),
            MISTAKE,
            ("foot FR: gait_offset 1.5 is no place in the gait cycle", "set gait_offset: 0.5"),
        ),
        (
            lambda values: values.update(control_freq_hz=60.0),
            WARNING,
            (
                "control_freq_hz 60: no physics step of 2, 5 or 10 ms divides the control step",
                "set control_freq_hz: 50 or 100, or train with an env.timestep_s that does",
            ),
        ),
        (
            lambda values: values["feet"][0].update(gait_offset=0.75),
            MISTAKE,
            (
                "got gait offsets of robot 'go1' whose feet are [0.25, 0.5, 0.75] cycles apart from their mirror images; expected 0.5 for all of them, or 0",
                "correct mirror, mirror_sign, default_rad or gait_offset",
            ),
        ),
    ],
)
def test_gaits_that_are_none(changed, edit, verdict, said):
    assert (verdict, *said) in findings(changed(edit))


def test_half_of_a_trot_may_be_in_the_air(changed):
    assert findings(changed(lambda values: values.update(swing_share=0.5))) == []


def test_gains_that_hold_nothing_or_are_in_another_unit(changed):
    """Of a joint without a mirror image, lest its partner be named too. 40 N m/rad are 0.70 N m per degree."""
    actuator = (
        "</mujoco>",
        '<actuator><position joint="FR_hip_joint" gear="2" kp="10"/></actuator></mujoco>',
    )  # 10 x 2 x 2 = 40 N m/rad
    for entries, said in (
        (
            {"kp": 0.0},
            ("FR_hip_joint: kp is 0, so nothing holds it", "set kp, N m/rad: the stiffness that its motor is given"),
        ),
        (
            {"kp": 0.7},
            (
                "FR_hip_joint: kp is 0.7, the actuator of the MJCF has 40",
                "set kp in N m/rad, kd in N m s/rad, or correct the MJCF",
            ),
        ),
    ):
        found = findings(changed(every_joint("FR_hip", **entries), actuator))
        assert found[0] == (MISTAKE, *said)
    assert not [
        text for _, text, _ in findings(changed(every_joint("_hip", kp=60.0), actuator)) if "actuator" in text
    ]  # another tuning
    undamped = ('damping="0.1"', 'damping="0"')
    found = findings(changed(every_joint("FR_hip", kd=0.0), undamped))
    assert found[0] == (
        MISTAKE,
        "FR_hip_joint: kd is 0 and the MJCF has no damping, so nothing stops it",
        "set kd, N m s/rad",
    )


@pytest.mark.parametrize("key", ["kp", "kd", "max_torque_nm", "max_velocity_rad_s"])
def test_gains_that_differ_between_left_and_right(changed, key):
    default = joint(yaml.safe_load((ASSETS / "go1" / "robot.yaml").read_text()), "RR_thigh_joint")[key]
    text, mend = only(changed(every_joint("RR_thigh", **{key: 0.9 * default})), MISTAKE)
    assert (
        text == f"RL_thigh_joint has {key} {default:g}, its mirror image RR_thigh_joint {0.9 * default:g}"
        and mend == "set the same for both"
    )


@pytest.mark.parametrize("limit_nm, verdict", [(7.5, MISTAKE), (10.0, WARNING), (13.0, OK)])
def test_weak_motors(changed, limit_nm, verdict):
    """Standing still takes about 7.1 N m of a calf, by the table 20% of 35.55: 0.95, 0.71 and 0.55 of these limits."""
    check = next(
        check for check in check_robot(changed(every_joint("calf", max_torque_nm=limit_nm))) if check.name == "torque"
    )
    assert check.verdict == verdict
    assert "calf_joint" in check.measured and all(
        f"max_torque_nm {limit_nm:g} to stand" in finding.text for finding in check.findings
    )


def test_one_line_and_status_1_for_each_mistake(changed, capsys):
    folder = changed(every_joint("R_hip", max_rad=1.2))
    assert main(["check-robot", str(folder)]) == 1
    out, error = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()[-2:]] == [
        "mistake",
        "mistake",
    ] and "joints       mistake" in out
    assert error == f"rfx check-robot: {folder}: 2 mistakes\n"
    assert main(["check-robot", "go1"]) == 0 and "mistake" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda values: values.update(max_state_dim=40), "got state_dim 48; expected 1 to max_state_dim, 40"),
        (lambda values: values.update(mjcf="go3.xml"), "go3.xml"),
        (
            lambda values: joint(values, "FR_hip_joint").update(default_rad=2.0),
            "joint 'FR_hip_joint': got default_rad 2.0",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_one_line(changed, capsys, edit, message):
    assert main(["check-robot", str(changed(edit))]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_fixed_base_and_no_feet(changed):
    found = findings(changed(lambda values: None, ('<freejoint name="trunk"/>', "")))
    assert found == [(MISTAKE, "the model's base is fixed: expected a body with a free joint", "correct the MJCF")]
    found = findings(changed(lambda values: values.update(feet=[])))
    assert found == [(MISTAKE, "robot.yaml names no feet", "add the list feet, each with a name and its site or geoms")]


def test_a_width_that_its_terms_do_not_have(changed):
    text, mend = only(changed(lambda values: values.update(state_dim=47)), MISTAKE)
    assert text == "state_dim is 47, its observation terms are 48 wide" and "leave state_dim out" in mend


@pytest.mark.e2e
def test_a_picture(tmp_path):
    """A PNG that another decoder reads, with a robot in its middle: unlike the floor at its corners."""
    path = tmp_path / "go1.png"
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    done = subprocess.run(
        [sys.executable, "-m", "rfx.commands.cli", "check-robot", "go1", "--picture", str(path)],
        capture_output=True,
        text=True,
        cwd=ASSETS.parent,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if "no picture: no OpenGL to draw with" in done.stdout:
        pytest.skip(done.stdout.splitlines()[-1])
    picture = pytest.importorskip("matplotlib.image", reason="needs the extra viz").imread(path)
    assert picture.shape[:2] == (720, 960)
    middle, left = picture[300:420, 420:540, :3], picture[300:420, 0:60, :3]
    assert middle.std() > 3 * left.std()


@pytest.mark.e2e
def test_without_opengl_one_line_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rfx.commands.cli", "check-robot", "go1", "--picture", str(tmp_path / "go1.png")],
        capture_output=True,
        text=True,
        cwd=ASSETS.parent,
        env=os.environ | {"MUJOCO_GL": "disable"},
        timeout=120,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert (
        done.stdout.splitlines()[-1].startswith("no picture: no OpenGL to draw with:")
        and not (tmp_path / "go1.png").exists()
    )
