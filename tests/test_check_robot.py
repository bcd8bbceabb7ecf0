"""`rfx check-robot`: the shipped robots are sound, and each mistake that people make is named with its mend."""

import dataclasses
import shutil
import subprocess
import sys

import pytest

from rfx.cli import main
from rfx.config import RobotConfig
from rfx.robot_files import ASSETS, load_robot, robot_names
from rfx.robots.check import check_robot

GO2 = load_robot("go2")


def with_joint(name: str, **changes) -> RobotConfig:
    """The Go2 with some joints changed: those whose names end in name."""
    joints = tuple(dataclasses.replace(joint, **changes) if joint.name.endswith(name) else joint for joint in GO2.joints)
    return dataclasses.replace(GO2, joints=joints)


def mistakes(config: RobotConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    for finding in check_robot(config):
        if finding.status == "mistake":
            found[finding.check] = found.get(finding.check, "") + f"{finding.text} / {finding.mend}\n"
    return found


@pytest.mark.parametrize("name", robot_names())
def test_the_shipped_robots_are_sound(name):
    findings = check_robot(load_robot(name))
    assert {finding.status for finding in findings} == {"ok"}, findings
    assert {finding.check for finding in findings} == {"joints", "ranges", "feet", "mirror", "widths", "torque", "stands", "speed"}


def renamed() -> RobotConfig:
    joints = tuple(dataclasses.replace(joint, name=joint.name.replace("FR_hip_joint", "FR_abduction"), mirror=None) for joint in GO2.joints)
    return dataclasses.replace(GO2, joints=joints)


def swapped_signs() -> RobotConfig:
    joints = tuple(dataclasses.replace(joint, mirror_sign=-joint.mirror_sign) if "R_thigh" in joint.name or "L_thigh" in joint.name else joint
                   for joint in GO2.joints)
    return dataclasses.replace(GO2, joints=joints, feet=GO2.feet)


@pytest.mark.parametrize(("config", "check", "said"), [
    (renamed(), "joints", "the MJCF lacks FR_abduction / write the names as the MJCF has them; it also has "),
    (with_joint("FR_calf_joint", min_rad=-3.0), "ranges", "FR_calf_joint: [-3, -0.83776] rad, the MJCF has [-2.7227, -0.83776]"),
    (with_joint("FR_calf_joint", default_rad=-2.2), "feet", "FR is"),
    (with_joint("_hip_joint", mirror_sign=1), "mirror", "mm and 0.000 kg apart / turn mirror_sign"),
    (swapped_signs(), "mirror", "not its own mirror image"),
    (with_joint("_joint", kp=5.0), "stands", "raise kp"),
    (with_joint("_joint", max_torque_nm=11.3), "torque", "of the torque of"),
    (dataclasses.replace(GO2, state_dim=47), "widths", "observation 48 of 64, actions 12 of 64; state_dim says 47 / leave state_dim out"),
    (dataclasses.replace(GO2, feet=()), "feet", "robot.yaml names none"),
])
def test_a_mistake_is_named_with_its_mend(config, check, said):
    found = mistakes(config)
    assert check in found and said in found[check], found


@pytest.mark.parametrize(("old", "new", "check", "said"), [
    ('<site type="sphere" size="0.024" pos="-0.002 0 -0.213" group="4"/>', '<site type="sphere" size="0.01" pos="-0.002 0 -0.213" group="4"/>', "feet",
     "is outside the site 'FR_foot'"),
    ('forcerange="-45.43 45.43"', 'forcerange="-20 20"', "torque limits", "FR_calf_joint: max_torque_nm 45.43, the MJCF allows 20"),
    ("<mujoco", "<mujoko", "MJCF", ""),
])
def test_a_mistake_in_the_mjcf_is_named(tmp_path, old, new, check, said):
    folder = tmp_path / "mine"
    shutil.copytree(ASSETS / "go2", folder)
    text = (folder / "go2.xml").read_text()
    assert old in text
    (folder / "go2.xml").write_text(text.replace(old, new, 1))
    if check == "MJCF":
        with pytest.raises(ValueError):
            check_robot(load_robot(folder))
        return
    found = mistakes(load_robot(folder))
    assert check in found and said in found[check]


def test_the_command_tells_and_ends_with_its_verdict(tmp_path, capsys):
    command = [sys.executable, "-m", "rfx.cli", "check-robot", "go1", "--picture", str(tmp_path / "go1.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ASSETS.parent)
    assert done.returncode == 0, done.stderr
    assert "ok       stands         5 s under its gains at 2, 5 and 10 ms" in done.stdout and (tmp_path / "go1.png").stat().st_size > 10_000
    (tmp_path / "wrong").mkdir()
    text = (ASSETS / "go2" / "robot.yaml").read_text().replace("go2.xml", str(ASSETS / "go2" / "go2.xml"))
    (tmp_path / "wrong" / "robot.yaml").write_text(text.replace("FL_hip_joint", "FL_hip_jiont"))
    assert main(["check-robot", str(tmp_path / "wrong")]) == 1
    said = capsys.readouterr()
    assert "MISTAKE  joints         the MJCF lacks FL_hip_jiont" in said.out and "has mistakes: mend them" in said.err
