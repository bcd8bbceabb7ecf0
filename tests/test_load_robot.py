"""load_robot: a robot by its name or its path, sizes that follow from its file, and what is said of a broken one."""

import shutil
from pathlib import Path

import pytest
import yaml

import rfx
from rfx.robot_files import ASSETS, find_mjcf, load_robot, robot_names


def write(folder: Path, **changed) -> Path:
    """A folder with the Go2's two files, entries of robot.yaml changed; None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ASSETS / "go2" / "go2.xml", folder)
    values = yaml.safe_load((ASSETS / "go2" / "robot.yaml").read_text()) | changed
    (folder / "robot.yaml").write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return folder


def said(source) -> str:
    with pytest.raises(ValueError) as error:
        load_robot(source)
    return str(error.value)


def test_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    go2 = rfx.load_robot("go2")
    assert go2 == rfx.GO2_CONFIG and go2.mjcf == "go2/go2.xml" and find_mjcf(go2) == ASSETS / "go2" / "go2.xml"
    assert "go2" in robot_names() and all(load_robot(name).name == name for name in robot_names())


def test_by_path_of_a_folder_or_its_file(tmp_path, monkeypatch):
    folder = write(tmp_path / "mine", name="mine")
    robots = [load_robot(source) for source in (folder, str(folder), folder / "robot.yaml")]
    monkeypatch.chdir(tmp_path)
    robots.append(load_robot("mine"))
    assert all(robot == robots[0] for robot in robots) and robots[0].name == "mine"
    assert robots[0].mjcf == str(folder / "go2.xml") == str(find_mjcf(robots[0]))  # absolute: it is found from any folder


def test_a_name_in_the_assets_comes_before_a_folder_here(tmp_path, monkeypatch):
    write(tmp_path / "go2", name="other")
    monkeypatch.chdir(tmp_path)
    assert load_robot("go2").name == "go2" and load_robot("./go2").name == "other"


def test_a_file_of_another_name(tmp_path):
    folder = write(tmp_path / "mine", name="soft")
    (folder / "robot.yaml").rename(folder / "soft.yaml")
    assert load_robot(folder / "soft.yaml").name == "soft"
    assert said(folder) == f"{folder} holds no robot.yaml: expected a folder with robot.yaml and the MJCF that it names"


def test_an_unknown_name_names_the_nearest():
    assert said("go22") == "unknown robot 'go22': did you mean 'go2'?, or the path of a folder with robot.yaml"
    assert said("zzz").startswith("unknown robot 'zzz': possible are a1, ") and "go2" in said("zzz")


def test_widths_follow_from_joints_and_terms(tmp_path):
    """Three values a joint, and four times three: 3 x 12 + 12 = 48; without the gait clock 45; of 11 joints 45."""
    go2 = yaml.safe_load((ASSETS / "go2" / "robot.yaml").read_text())
    assert (load_robot("go2").state_dim, load_robot("go2").action_dim) == (48, 12)
    fewer = load_robot(write(tmp_path / "terms", observation_terms=go2["observation_terms"][:-1]))
    assert (fewer.state_dim, fewer.action_dim) == (45, 12)
    joints = [{key: value for key, value in joint.items() if not key.startswith("mirror")} for joint in go2["joints"][:11]]
    smaller = load_robot(write(tmp_path / "joints", joints=joints))
    assert (smaller.state_dim, smaller.action_dim) == (45, 11)


def test_widths_that_the_file_says_are_taken_as_they_are(tmp_path):
    assert load_robot(write(tmp_path / "mine", state_dim=40)).state_dim == 40
    assert said(write(tmp_path / "mine", action_dim=11)).endswith("robot 'go2': got 12 joints; expected action_dim, 11")
    path = write(tmp_path / "mine", max_state_dim=40) / "robot.yaml"
    assert said(path.parent) == f"{path}: robot 'go2': got state_dim 48; expected 1 to max_state_dim, 40"


@pytest.mark.parametrize(("changed", "message"), [
    ({"gait_freq": 2.0}, "unknown key 'gait_freq': did you mean 'gait_freq_hz'?"),
    ({"name": None}, "name is missing"),
    ({"swing_share": "half"}, "swing_share is 'half': it must be a number"),
    ({"swing_share": 1.0}, "robot 'go2': got swing_share 1.0; expected a share of the cycle, 0 to below 1"),
    ({"feet": [{"name": "FR"}]}, "foot 'FR': got neither site nor geoms; expected the name of its site or its geoms"),
    ({"feet": [{"name": "FR", "geom": ["a"]}]}, "unknown key 'feet[0].geom': did you mean 'geoms'?"),
    ({"joints": [{"name": "a"}, {"name": "b", "kp": "soft"}]}, "joints[1].kp is 'soft': it must be a number"),
    ({"joints": [{"name": "a"}, {"nam": "b"}]}, "unknown key 'joints[1].nam': did you mean 'name'?"),
    ({"joints": [{"name": "a", "min_rad": 1.0, "max_rad": 0.0}]}, "joint 'a': got min_rad 1.0 and max_rad 0.0; expected min < max"),
    ({"joints": {"a": {}}}, "joints is {'a': {}}: it must be a list of values"),
    ({"observation_terms": ["joint_positon"]}, "unknown term 'joint_positon' among observation terms: did you mean 'joint_position'?"),
])
def test_a_broken_file_names_its_path_and_the_key(tmp_path, changed, message):
    path = write(tmp_path / "mine", **changed) / "robot.yaml"
    text = said(path.parent)
    assert text.startswith(f"{path}: ") and message in text


@pytest.mark.parametrize("content", ["joints: [", "- 1", "", "just words", "\x00"])
def test_a_file_that_is_no_robot_names_its_path(tmp_path, content):
    (tmp_path / "robot.yaml").write_text(content)
    assert said(tmp_path).startswith(f"{tmp_path / 'robot.yaml'}: ")


def test_an_mjcf_that_is_not_there_is_named_with_its_path(tmp_path):
    folder = write(tmp_path / "mine", mjcf="none.xml")
    with pytest.raises(FileNotFoundError, match=f"no MJCF of robot 'go2' at {folder / 'none.xml'}"):
        find_mjcf(load_robot(folder))
    with pytest.raises(ValueError, match="robot 'go2' names no MJCF"):
        find_mjcf(load_robot(write(tmp_path / "mine", mjcf=None)))
