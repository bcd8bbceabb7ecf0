"""RobotConfig: checked on construction, the same after a dictionary or YAML, and told apart field by field."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.robot.config import CameraConfig, JointConfig, RobotConfig, joint_targets


def test_go2_config_is_the_robot_of_the_design():
    legs = ("FR", "FL", "RR", "RL")
    assert GO2_CONFIG.joint_names == tuple(f"{leg}_{part}_joint" for leg in legs for part in ("hip", "thigh", "calf"))
    assert (GO2_CONFIG.state_dim, GO2_CONFIG.action_dim, GO2_CONFIG.max_state_dim, GO2_CONFIG.max_action_dim) == (
        48,
        12,
        64,
        64,
    )
    np.testing.assert_allclose(GO2_CONFIG.default_position.reshape(4, 3), [[0.0, 0.9, -1.8]] * 4)
    assert GO2_CONFIG.control_freq_hz == 50.0


def test_dictionary_round_trip_through_json_changes_nothing():
    config = dataclasses.replace(
        GO2_CONFIG, cameras=(CameraConfig(name="front"),), hardware={"interface": "eth0", "ports": [1]}
    )
    data = json.loads(json.dumps(config.to_dict()))
    before = copy.deepcopy(data)
    assert RobotConfig.from_dict(data) == config
    assert data == before
    config.to_dict()["hardware"]["ports"].append(2)
    assert config.hardware == {"interface": "eth0", "ports": [1]}


def test_hardware_is_a_copy():
    hardware = {"ports": [1]}
    config = RobotConfig(name="r", hardware=hardware)
    hardware["ports"].append(2)
    assert config.hardware == {"ports": [1]}


def test_yaml(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(
        "name: arm\nstate_dim: 4\naction_dim: 2\ncontrol_freq_hz: 100\n"
        "joints:\n- {name: a, kp: 20}\n- {name: b}\n"
        "cameras:\n- {name: wrist, width: 320}\nhardware: {bus: can0}\n"
    )
    config = RobotConfig.from_yaml(path)
    assert config == RobotConfig(
        name="arm",
        state_dim=4,
        action_dim=2,
        control_freq_hz=100.0,
        hardware={"bus": "can0"},
        joints=(JointConfig(name="a", kp=20.0), JointConfig(name="b")),
        cameras=(CameraConfig(name="wrist", width=320),),
    )
    for text in ("name: [", "- 1", "name: arm\nstate_dmi: 4", "\x00"):
        path.write_text(text)
        with pytest.raises(ValueError, match="robot.yaml"):
            RobotConfig.from_yaml(path)


def test_equal_configs_hash_alike():
    again = RobotConfig.from_dict(GO2_CONFIG.to_dict())
    assert len({GO2_CONFIG, again}) == 1
    assert dataclasses.replace(again, hardware={"x": 1}) != GO2_CONFIG


@pytest.mark.parametrize(
    "change, kind, message",
    [
        ({"state_dim": 65}, ValueError, "max_state_dim, 64"),
        ({"state_dim": 0}, ValueError, "state_dim 0"),
        ({"state_dim": "12"}, ValueError, "state_dim is '12': it must be a whole number"),
        ({"action_dim": True}, ValueError, "action_dim is True: it must be a whole number"),
        ({"control_freq_hz": float("nan")}, ValueError, "finite"),
        ({"control_freq_hz": 10**400}, ValueError, "finite"),
        ({"control_freq_hz": 0}, ValueError, "more than 0"),
        ({"gait_freq_hz": -1.0}, ValueError, "gait_freq_hz"),
        ({"name": ""}, ValueError, "empty name"),
        ({"name": None}, ValueError, "name is None: it must be text"),
        ({"hardware": [1]}, ValueError, "hardware is .1.: it must be a group of keys"),
        (
            {"observation_terms": "joint_position"},
            ValueError,
            "observation_terms is 'joint_position': it must be a list",
        ),
        ({"joints": [{"name": "a"}]}, ValueError, "1 joints; expected action_dim, 6"),
        ({"action_dim": 2, "joints": [{"name": "a"}, {"name": "a"}]}, ValueError, "each once"),
        (
            {"action_dim": 2, "joints": [{"name": "a", "mirror": "b"}, {"name": "b", "mirror": "b"}]},
            ValueError,
            "whose own is 'b'",
        ),
        ({"action_dim": 1, "joints": [{"name": "a", "mirror": "c"}]}, ValueError, "mirror 'c' of joint 'a'"),
        ({"action_dim": 1, "joints": [{"name": "a", "mirror_sign": 2}]}, ValueError, "mirror_sign 2"),
        ({"feet": [{"name": "f"}]}, ValueError, "neither site nor geoms"),
        ({"swing_share": 1.0}, ValueError, "swing_share 1.0"),
        ({"action_dim": 1, "joints": [{"name": "a", "min_rad": 1.0, "max_rad": -1.0}]}, ValueError, "min < max"),
        ({"action_dim": 1, "joints": [{"name": "a", "default_rad": 9.0}]}, ValueError, "default_rad 9.0"),
        ({"action_dim": 1, "joints": [{"name": "a", "kp": -1}]}, ValueError, "kp -1"),
        ({"action_dim": 1, "joints": [{"kp": 1.0}]}, ValueError, r"joints\[0\].name is missing"),
        ({"action_dim": 1, "joints": [3]}, ValueError, r"joints\[0\] is 3: it must be a group of keys"),
        ({"cameras": [{"name": "c", "width": 0}]}, ValueError, "width 0"),
        ({"control_frequency": 50}, ValueError, "did you mean 'control_freq_hz'"),
    ],
)
def test_a_wrong_field_is_named(change, kind, message):
    with pytest.raises(kind, match=message):
        RobotConfig.from_dict({"name": "r", **change})


def test_differences_name_every_field_that_changes_what_an_action_means():
    joints = tuple(
        dataclasses.replace(joint, kp=20.0) if joint.name == "FL_calf_joint" else joint for joint in GO2_CONFIG.joints
    )
    other = dataclasses.replace(
        GO2_CONFIG,
        name="mine",
        hardware={"interface": "eth0"},
        joints=joints,
        control_freq_hz=100.0,
        observation_terms=GO2_CONFIG.observation_terms[::-1],
    )
    found = GO2_CONFIG.differences(other)
    assert [line.split(":")[0] for line in found] == ["control_freq_hz", "observation_terms", "joint FL_calf_joint kp"]
    assert found[2] == "joint FL_calf_joint kp: 35.0, the robot has 20.0"
    assert GO2_CONFIG.differences(dataclasses.replace(GO2_CONFIG, name="other", hardware={"a": 1})) == []


def test_differences_in_joint_names_are_reported_as_such():
    joints = tuple(dataclasses.replace(joint, name=joint.name.upper(), mirror=None) for joint in GO2_CONFIG.joints)
    (line,) = GO2_CONFIG.differences(dataclasses.replace(GO2_CONFIG, joints=joints))
    assert line.startswith("joint names: ['FR_hip_joint'")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(JointConfig) if field.type == "float"])
def test_every_joint_field_counts_as_a_difference(field):
    first = GO2_CONFIG.joints[0]
    changed = dataclasses.replace(first, **{field: getattr(first, field) + 0.01})
    other = dataclasses.replace(GO2_CONFIG, joints=(changed, *GO2_CONFIG.joints[1:]))
    (line,) = GO2_CONFIG.differences(other)
    assert line.startswith(f"joint {first.name} {field}:")


def test_joint_targets_scale_around_the_default_and_stop_at_the_limits():
    action = np.zeros((2, 12), np.float32)
    action[1, 0], action[1, 2] = 1.0, -1.0  # FR hip 0.5 rad out; FR calf 0.5 rad under -1.8
    targets = joint_targets(GO2_CONFIG, action)
    np.testing.assert_allclose(targets[0], GO2_CONFIG.default_position)
    np.testing.assert_allclose(targets[1, :3], [0.5, 0.9, -2.3], rtol=1e-6)
    np.testing.assert_allclose(joint_targets(GO2_CONFIG, action * 10.0)[1, :3], [1.0472, 0.9, -2.7227], rtol=1e-6)


def test_shared_arrays_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        GO2_CONFIG.default_position[0] = 1.0
