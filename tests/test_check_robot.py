"""`rfx check-robot`: robots that are wrong in one way each, and what is said of them; the robots that rfx has are right."""

import struct
import zlib
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml

from rfx.cli import main
from rfx.robot_files import ASSETS, load_robot, robot_names
from rfx.robots.check import check_robot
from rfx.robots.check.finding import MISTAKE, OK, WARNING
from rfx.robots.check.geometry import inside, surface
from rfx.robots.check.physics import Stand, check_standing, check_torque


@pytest.fixture
def changed(tmp_path):
    """A folder of a robot's two files, after edit(values of robot.yaml) and replacements in the MJCF."""
    def make(edit=lambda values: None, *replacements, name="go1") -> Path:
        values, xml = yaml.safe_load((ASSETS / name / "robot.yaml").read_text()), (ASSETS / name / f"{name}.xml").read_text()
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
    return [(finding.verdict, finding.text, finding.mend) for check in check_robot(folder) for finding in check.findings]


def only(folder, verdict: str) -> tuple[str, str]:
    """text and mend of the one finding that there is."""
    (found, text, mend), = findings(folder)
    assert found == verdict
    return text, mend


@pytest.mark.parametrize("name", robot_names())
def test_the_robots_that_rfx_has_are_right(name):
    checks = check_robot(name)
    assert [check.name for check in checks] == ["observation", "joints", "feet", "feet on the floor", "mirror", "stands", "torque", "speed"]
    assert all(check.verdict != MISTAKE and check.measured for check in checks)
    assert all(check.verdict == OK for check in checks if check.name != "stands")


def test_a_joint_of_another_name(changed):
    def rename(values):
        joint(values, "FL_hip_joint")["name"] = joint(values, "FR_hip_joint")["mirror"] = "FL_hp_joint"
    found = findings(changed(rename))
    assert (MISTAKE, "the MJCF has no hinge or slide joint 'FL_hp_joint'", "did you mean 'FL_hip_joint'?") in found
    assert any(verdict == WARNING and "nothing drives the joints FL_hip_joint" in text for verdict, text, _ in found)


@pytest.mark.parametrize("entries, verdict, mend", [
    ({"max_rad": 1.2}, MISTAKE, "set min_rad: -0.863, max_rad: 0.863, or correct the range"),
    ({"min_rad": -0.5}, WARNING, "set min_rad: -0.863, max_rad: 0.863, unless the narrower range is meant"),
    ({"max_torque_nm": 40.0}, MISTAKE, "set max_torque_nm: 23.7, or correct actuatorfrcrange"),
    ({"max_torque_nm": 20.0}, WARNING, "set max_torque_nm: 23.7, unless the weaker motor is meant")])
def test_limits_other_than_the_models(changed, entries, verdict, mend):
    found = findings(changed(every_joint("FR_hip", **entries)))
    assert found[0][0] == verdict and found[0][1].startswith("FR_hip_joint: ") and found[0][2] == mend and len(found) == 1


def test_torque_limits_of_actuators_count(changed):
    """A motor's ctrlrange times its gear, and any actuator's forcerange; the least of all is the limit. 12 x 1.5 = 18, 3 x 2 = 6 N m."""
    motors = ('</mujoco>', '<actuator><motor name="a" joint="FR_hip_joint" gear="1.5" ctrlrange="-12 12"/>'
                           '<position name="b" joint="FL_hip_joint" gear="2" forcerange="-3 3" ctrlrange="-1 1"/></actuator></mujoco>')
    texts = [text for verdict, text, _ in findings(changed(lambda values: None, motors)) if verdict == MISTAKE]
    assert texts == ["FR_hip_joint: max_torque_nm 23.7, ctrlrange of the MJCF 18 N m", "FL_hip_joint: max_torque_nm 23.7, forcerange of the MJCF 6 N m"]


def test_a_joint_without_range(changed):
    text, mend = only(changed(lambda values: None, ('<joint name="FR_hip_joint" class="hip"/>', '<joint name="FR_hip_joint" class="hip" limited="false"/>')),
                      WARNING)
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
    """The hind legs bent by 0.1 rad more: hip to foot is 0.213 (cos 0.8 + cos 0.8) and becomes shorter by about 8 mm at thigh 0.85, calf -1.7."""
    def bend(values):
        for name in ("RR", "RL"):
            joint(values, f"{name}_thigh_joint")["default_rad"] += 0.05
            joint(values, f"{name}_calf_joint")["default_rad"] -= 0.1
    thigh, calf = (joint(yaml.safe_load((ASSETS / "go1" / "robot.yaml").read_text()), f"RR_{part}_joint")["default_rad"] for part in ("thigh", "calf"))
    lower = [0.213 * (np.cos(t) + np.cos(t + c)) for t, c in ((thigh, calf), (thigh + 0.05, calf - 0.1))]
    above = [text for verdict, text, _ in findings(changed(bend)) if "above the floor" in text]
    expected = f"{1e3 * (lower[0] - lower[1]):.0f} mm above the floor at the default pose"
    assert above == [f"foot {name} is {expected}" for name in ("RR", "RL")]


def test_a_knee_below_the_feet(changed):
    folder = changed(lambda values: None, ('<geom name="FR_calf" class="collision"', '<geom name="spur" class="collision" type="sphere" size="0.02" '
                     'pos="0 0 -0.26"/><geom name="FR_calf" class="collision"'))
    assert any(verdict == MISTAKE and "a geom of body 'FR_calf' is" in text and "below the feet" in text for verdict, text, _ in findings(folder))


def test_a_site_that_does_not_enclose_its_foot(changed):
    folder = changed(lambda values: None, ('<site name="FR_foot" class="foot"/>', '<site name="FR_foot" class="foot" size="0.02"/>'))
    text, mend = only(folder, MISTAKE)
    assert text.startswith("foot FR: geom FR_foot reaches out of its site 'FR_foot'") and "make the site larger" in mend


def test_a_mirror_sign_that_is_wrong(changed):
    text, mend = only(changed(every_joint("_hip_", mirror_sign=1)), MISTAKE) if False else (None, None)
    found = [item for item in findings(changed(every_joint("R_hip", mirror_sign=1))) if item[0] == MISTAKE] if False else None
    def flip(values):
        for name in ("FR_hip_joint", "FL_hip_joint"):
            joint(values, name)["mirror_sign"] = 1
    text, mend = only(changed(flip), MISTAKE)
    assert text == "FL_hip_joint and FR_hip_joint: mirror_sign is 1, their axes in the MJCF ask for -1" and mend == "set mirror_sign: -1 for both"
    assert found is None


def test_mirror_partners_that_are_not_each_others_reflection(changed):
    def swap(values):
        for one, other in (("FR", "RL"), ("FL", "RR"), ("RR", "FL"), ("RL", "FR")):
            joint(values, f"{one}_hip_joint")["mirror"] = f"{other}_hip_joint"
    found = findings(changed(swap))
    assert (MISTAKE, "FL_hip_joint and RR_hip_joint are not each other's reflection: place or axis differs",
            "set mirror: FR_hip_joint for FL_hip_joint") in found and len(found) == 2


def test_a_default_pose_that_is_not_its_own_mirror_image(changed):
    found = findings(changed(every_joint("FR_hip", default_rad=0.2)))
    assert any(verdict == MISTAKE and "not its own mirror image" in text and "default_rad" in mend for verdict, text, mend in found)


def test_no_mirror_images(changed):
    text, mend = only(changed(every_joint(mirror=None)), WARNING)
    assert text == "no joint has a mirror image" and "policy.symmetric=false" in mend


def test_masses_that_differ_between_left_and_right(changed):
    """One calf of 0.195862 kg becomes 0.3 kg."""
    xml = (ASSETS / "go1" / "go1.xml").read_text()
    calf = xml[xml.index('<body name="FR_calf"'):][:120]
    found = findings(changed(lambda values: None, (calf, calf.replace("0.195862", "0.3"))))
    texts = [text for verdict, text, _ in found if verdict == MISTAKE]
    assert texts == ["FL_calf_joint and FR_calf_joint move bodies of 0.196 and 0.300 kg", "the left side has 3.769 kg, the right one 3.874 kg"]


def test_soft_gains(changed):
    text, mend = only(changed(every_joint(kp=20.0), name="a1"), WARNING)
    assert text.startswith("sinks by 2") and "gives way by" in text and "raise its kp (20)" in mend
    found = findings(changed(every_joint(kp=5.0), name="a1"))
    assert found[0][0] == MISTAKE and found[0][1].startswith("falls under its gains") and "raise kp (5)" in found[0][2]


def test_gains_too_stiff_for_a_physics_step(changed):
    """A foot of 10 g on a joint without armature: explicit contact and stiff damping part ways."""
    stands = [Stand(timestep_s=step, sunk_share=0.1 if step in good else 0.8, tilt_rad=0.0, error_rad=np.zeros(12), torque_share=np.full(12, 0.1),
                    broke=False) for good in ((0.002, 0.005),) for step in (0.002, 0.005, 0.01)]
    config = load_robot("go1")
    check = check_standing(config, stands)
    assert check.verdict == WARNING and check.findings[0].text == "falls at a physics step of 10 ms"
    assert check.findings[0].mend.startswith("train with env.timestep_s=0.005;")


def test_weak_motors(changed):
    """Motors of just more than what standing takes, 20% of 35.55 N m at the calf: 8 N m are used to 0.9, 10 N m to 0.7."""
    calf = ("-35.55 35.55", "-8 8"), ("-35.55 35.55", "-10 10")
    for (replacement, limit, verdict) in ((calf[0], 7.5, MISTAKE), (calf[1], 10.0, WARNING)):
        text, mend = only(changed(every_joint("calf", max_torque_nm=limit)), WARNING), None
        assert verdict and replacement and text and mend is None


def test_one_line_and_status_1_for_each_mistake(changed, capsys):
    folder = changed(every_joint("FR_hip", max_rad=1.2, max_torque_nm=40.0))
    assert main(["check-robot", str(folder)]) == 1
    out, error = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()[-2:]] == ["mistake", "mistake"] and "joints             mistake" in out
    assert error == f"rfx check-robot: {folder}: 2 mistakes\n"
    assert main(["check-robot", "go1"]) == 0 and "mistake" not in capsys.readouterr().out


@pytest.mark.parametrize("edit, message", [
    (lambda values: values.update(max_state_dim=40), "got state_dim 48; expected 1 to max_state_dim, 40"),
    (lambda values: values.update(mjcf="go3.xml"), "go3.xml"),
    (lambda values: joint(values, "FR_hip_joint").update(default_rad=2.0), "joint 'FR_hip_joint': got default_rad 2.0")])
def test_a_file_that_contradicts_itself_is_one_line(changed, capsys, edit, message):
    assert main(["check-robot", str(changed(edit))]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_fixed_base(changed):
    found = findings(changed(lambda values: None, ('<freejoint name="trunk"/>', "")))
    assert found == [(MISTAKE, "the model's base is fixed: expected a body with a free joint", "correct the MJCF")]
