"""ONNX files: the same actions in ONNX Runtime as in rfx, metadata under mjlab's names, and such files as policies of a
robot.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import yaml
from virtual_deploy import deploy_in_virtual_time

import rfx
from rfx.commands.cli import main
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.export.to_onnx import export_onnx
from rfx.nn import MLP, ActorCritic, Policy
from rfx.nn.categorical import CategoricalMLP
from rfx.nn.networks import PrivilegedActorCritic
from rfx.policy.normalizer import ObservationNormalizer
from rfx.robot.mirror import Mirror

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WIDTHS = (
    12,
    12,
    3,
    3,
    3,
    12,
    3,
)  # joint positions and velocities, angular velocity, gravity, command, last action, clock


def normalizer_of(width: int, seed: int = 7) -> ObservationNormalizer:
    rng, normalizer = np.random.default_rng(seed), ObservationNormalizer(width, clip=3.0)
    normalizer.update(rng.normal(rng.normal(0.0, 2.0, width), rng.uniform(0.01, 20.0, width), (500, width)))
    return normalizer


def go2_folder(path, *, history: int = 1, symmetric: bool = False, hidden=(64, 32), training_info=None):
    """A policy folder of a network that nobody trained, with large actions and a normalizer."""
    rng = np.random.default_rng(history)
    policy, normalizer = ActorCritic(48, 12, hidden, history=history, rng=rng), normalizer_of(48)
    weights = {name: tensor.numpy() for name, tensor in rfx.nn.policy.get_state_dict(policy).items()}
    weights["actor_head.weight"] = weights["actor_head.weight"] * 300.0
    if symmetric:
        from train.ppo.symmetry import Symmetry

        mirror = Mirror(GO2_CONFIG)
        symmetry = Symmetry(
            mirror.observation(np.eye(48, dtype=np.float32)).T,
            mirror.action(np.eye(12, dtype=np.float32)).T,
            hidden,
            history,
        )
        weights = {name: symmetry.initial(name, values) for name, values in weights.items()}
        normalizer.symmetrize(mirror)
    rfx.nn.policy._set_weights(rfx.nn.policy.get_state_dict(policy), weights)
    return policy.actor().save(
        path,
        robot_config=GO2_CONFIG,
        normalizer=normalizer,
        training_info=training_info or {"name": "walker", "seed": 3},
    )


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


class Stack:
    """A graph's input as mjlab and Unitree's ObservationManager make it: a queue for each term, full of the first frame
    at the start.
    """

    def __init__(self, history: int):
        self.queues = [deque(maxlen=history) for _ in WIDTHS]

    def push(self, observation):
        parts, start = [], 0
        for queue, width in zip(self.queues, WIDTHS):
            queue.append(observation[start : start + width])
            while len(queue) < queue.maxlen:
                queue.append(queue[0])
            parts += queue
            start += width
        return np.concatenate(parts)[None]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("history", [1, 3])
def test_round_trip_over_random_observations(history, symmetric, tmp_path):
    """The file in ONNX Runtime alone, and as rfx loads it, against the folder: 1e-5, through three episodes of three
    robots.
    """
    folder = go2_folder(tmp_path / "policy", history=history, symmetric=symmetric)
    path = export_onnx(folder, tmp_path / "policy.onnx")
    ours, loaded, session = rfx.load_policy(folder), rfx.load_policy(path), session_of(path)
    rng, largest, spread = np.random.default_rng(0), 0.0, []
    for _ in range(3):
        stacks = [Stack(history) for _ in range(3)]
        ours.reset(), loaded.reset()
        for _ in range(40):
            observations = (rng.standard_normal((3, 48)) * rng.choice([0.1, 3.0, 50.0])).astype(np.float32)
            expected = ours({"state": observations})
            bare = np.concatenate(
                [session.run(None, {"obs": stack.push(row)})[0] for stack, row in zip(stacks, observations)]
            )
            again = loaded({"state": np.pad(observations, ((0, 0), (0, 16)))})
            largest = max(largest, np.abs(bare - expected).max(), np.abs(again - expected).max())
            spread.append(expected)
    assert np.std(spread) > 0.3  # the actions are no constant
    assert largest < 1e-5, largest


@pytest.mark.parametrize("earlier", [False, True], ids=["of this rfx", "of an earlier one"])
def test_small_and_constant_observations_are_scaled_as_in_the_folder(earlier, tmp_path):
    """Columns of 3e-5 and of a constant among those of 1; an earlier rfx left both unscaled, and its folders stay
    so.
    """
    rng, normalizer = np.random.default_rng(0), ObservationNormalizer(48)
    spreads = np.r_[np.full(8, 3e-5), np.zeros(8), np.ones(32)]
    normalizer.update(0.5 + spreads * rng.normal(size=(2000, 48)))
    if earlier:
        told = normalizer.to_dict()
        del told["resolution"]
        normalizer = ObservationNormalizer.from_dict(told)
    state = (0.5 + np.maximum(spreads, 0.01) * rng.normal(size=(20, 48))).astype(np.float32)
    folder = MLP(48, 12, [24], rng=rng).save(tmp_path / "policy", robot_config=GO2_CONFIG, normalizer=normalizer)
    ours, theirs = rfx.load_policy(folder), rfx.load_policy(export_onnx(folder, tmp_path / "policy.onnx"))
    np.testing.assert_allclose(theirs({"state": state}), ours({"state": state}), atol=1e-5)
    spread = ours.normalizer.normalize(state).std(axis=0)
    assert spread[:8].max() < 0.1 if earlier else spread[:8].min() > 0.3
    assert spread[8:16].max() < 0.1 and spread[16:].min() > 0.3


@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_the_graph_has_the_activation_of_the_policy(activation, tmp_path):
    policy = ActorCritic(6, 3, [9, 8], activation=activation, rng=np.random.default_rng(0))
    policy.actor_head.weight.assign(policy.actor_head.weight * 300.0).realize()
    folder, state = (
        policy.actor().save(tmp_path / "p"),
        np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32),
    )
    path = export_onnx(folder, tmp_path / "policy.onnx")
    np.testing.assert_allclose(
        rfx.load_policy(path)({"state": state}), rfx.load_policy(folder)({"state": state}), atol=1e-6
    )
    assert rfx.inspect_policy(path).arguments["activation"] == activation


@pytest.mark.parametrize("history", [1, 3])
def test_a_symmetric_policy_stays_so(history, tmp_path):
    path = export_onnx(go2_folder(tmp_path / "policy", history=history, symmetric=True), tmp_path / "policy.onnx")
    policy, mirror, rng = rfx.load_policy(path), Mirror(GO2_CONFIG), np.random.default_rng(1)
    for _ in range(20):
        state = rng.standard_normal((1, 48)).astype(np.float32)
        action, image = policy({"state": np.concatenate((state, mirror.observation(state)))})
        np.testing.assert_allclose(image, mirror.action(action), atol=1e-5)


@pytest.mark.parametrize(
    "policy",
    [
        MLP(64, 64, [24], history=2, rng=np.random.default_rng(0)),
        PrivilegedActorCritic(48, 12, 9, [24], history=2, rng=np.random.default_rng(0)),
    ],
    ids=["padded", "privileged"],
)
def test_padding_and_critics_are_left_out(policy, tmp_path):
    folder = policy.save(tmp_path / "policy", robot_config=GO2_CONFIG, normalizer=normalizer_of(48))
    path = export_onnx(folder, tmp_path / "policy.onnx")
    session = session_of(path)
    assert session.get_inputs()[0].shape == [1, 96] and session.get_outputs()[0].shape == [1, 12]
    ours, loaded, rng = rfx.load_policy(folder), rfx.load_policy(path), np.random.default_rng(0)
    for _ in range(10):
        state = np.pad(rng.standard_normal((2, 48)), ((0, 0), (0, 16))).astype(np.float32)
        np.testing.assert_allclose(loaded({"state": state}), ours({"state": state}), atol=1e-5)


def test_the_metadata_is_mjlabs(tmp_path):
    """Spelled out: what mjlab's exporter writes for a robot, as text with commas, for a Go2 in the order of its
    motors.
    """
    path = export_onnx(go2_folder(tmp_path / "policy", history=3), tmp_path / "policy.onnx")
    properties = session_of(path).get_modelmeta().custom_metadata_map
    config = json.loads(properties.pop("rfx_config"))
    assert properties == {
        "run_path": "walker",
        "robot": "go2",
        "joint_names": "FR_hip_joint,FR_thigh_joint,FR_calf_joint,FL_hip_joint,FL_thigh_joint,FL_calf_joint,"
        "RR_hip_joint,RR_thigh_joint,RR_calf_joint,RL_hip_joint,RL_thigh_joint,RL_calf_joint",
        "joint_stiffness": ",".join(["35"] * 12),
        "joint_damping": ",".join(["0.5"] * 12),
        "default_joint_pos": ",".join(["0,0.9,-1.8"] * 4),
        "action_scale": ",".join(["0.5"] * 12),
        "command_names": "twist",
        "joint_pos_lower_limit": "-1.0472,-1.5708,-2.7227,-1.0472,-1.5708,-2.7227,-1.0472,-0.5236,-2.7227,-1.0472,-0.5236,-2.7227",
        "joint_pos_upper_limit": "1.0472,3.4907,-0.83776,1.0472,3.4907,-0.83776,1.0472,4.5379,-0.83776,1.0472,4.5379,-0.83776",
        "joint_effort_limit": ",".join(["23.7,23.7,45.43"] * 4),
        "observation_names": "joint_pos,joint_vel,base_ang_vel,projected_gravity,command,actions,gait_clock",
        "observation_terms_width": "12,12,3,3,3,12,3",
        "observation_terms_scale": "1,1,1,1,1,1,1",
        "observation_terms_clip": ",".join(["-inf;inf"] * 7),
        "observation_terms_history_length": "3,3,3,3,3,3,3",
        "observation_terms_flatten_history_dim": "1,1,1,1,1,1,1",
        "step_dt": "0.02",
        "gait_freq_hz": "2.5",
        "gait_swing_share": "0.4",
        "foot_names": "FR,FL,RR,RL",
        "gait_offsets": "0.5,0,0,0.5",
    }
    assert config["arguments"] == {"obs_dim": 48, "act_dim": 12, "hidden": [64, 32], "history": 3}


def test_the_page_says_what_is_in_the_file(tmp_path, monkeypatch):
    """docs/export.md: its table names every property and no other, and its Python runs."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
    path = export_onnx(go2_folder(tmp_path / "policy", history=3), tmp_path / "policy.onnx")
    of_robots, of_gym = (
        page[page.index(begin) : page.index(end)]
        for begin, end in (
            ("| property |", "`rfx inspect FILE.onnx`"),
            ("| property of a Gymnasium policy |", "## Unitree's"),
        )
    )
    named, named_of_gym = (
        {
            name
            for line in table.splitlines()[2:]
            if line.startswith("|")
            for name in re.findall(r"`(\w+)`", line.split("|")[1])
        }
        for table in (of_robots, of_gym)
    )
    assert named == (of_walker := set(session_of(path).get_modelmeta().custom_metadata_map))
    box = export_onnx(gym_folder(tmp_path / "box", MLP(4, 2, [8]), **BOXES[0]), tmp_path / "box.onnx")
    choice = export_onnx(
        gym_folder(tmp_path / "choice", CategoricalMLP(4, 4, [8]), num_actions=4), tmp_path / "choice.onnx"
    )
    assert (
        named_of_gym
        == set().union(*(session_of(file).get_modelmeta().custom_metadata_map for file in (box, choice))) - of_walker
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    assert (
        names["actions"].shape == (1, 12)
        and names["scale"].tolist() == [0.5] * 12
        and names["names"][0] == "FR_hip_joint"
    )


def test_unitrees_folder(tmp_path, capsys):
    """The keys that its C++ reads (manager_based_rl_env.h, observation_manager.h, joint_actions.h), spelled out for a
    Go2.
    """
    folder = go2_folder(
        tmp_path / "policy",
        history=3,
        training_info={
            "env": {"commands": {"velocity": {"vx": [-0.6, 1], "vy": [-0.4, 0.4], "yaw_rate": [-0.8, 0.8]}}}
        },
    )
    assert (
        main(["export", str(folder), "--unitree", str(tmp_path / "v0")]) == 0
        and "params/deploy.yaml in" in capsys.readouterr().out
    )
    assert sorted(str(path.relative_to(tmp_path / "v0")) for path in (tmp_path / "v0").rglob("*.*")) == [
        "exported/policy.onnx",
        "params/deploy.yaml",
    ]
    text = (tmp_path / "v0" / "params" / "deploy.yaml").read_text()
    values = yaml.safe_load(text)
    assert "&" not in text  # no YAML anchors for other readers to stumble over
    observations = values.pop("observations")
    assert list(observations) == [
        "joint_pos_rel",
        "joint_vel_rel",
        "base_ang_vel",
        "projected_gravity",
        "velocity_commands",
        "last_action",
        "gait_clock",
    ]
    assert [len(term["scale"]) for term in observations.values()] == [12, 12, 3, 3, 3, 12, 3]
    assert all(
        set(term["scale"]) == {1.0} and term["clip"] is None and term["history_length"] == 3
        for term in observations.values()
    )
    assert observations["gait_clock"]["params"] == {"gait_freq_hz": 2.5} and observations["last_action"]["params"] == {}
    pose = [0.0, 0.9, -1.8] * 4
    front, rear = (
        [[-1.0472, 1.0472], [-1.5708, 3.4907], [-2.7227, -0.83776]],
        [[-1.0472, 1.0472], [-0.5236, 4.5379], [-2.7227, -0.83776]],
    )
    assert values == {
        "joint_ids_map": list(range(12)),
        "step_dt": 0.02,
        "stiffness": [35.0] * 12,
        "damping": [0.5] * 12,
        "default_joint_pos": pose,
        "commands": {
            "base_velocity": {
                "ranges": {
                    "lin_vel_x": [-0.6, 1.0],
                    "lin_vel_y": [-0.4, 0.4],
                    "ang_vel_z": [-0.8, 0.8],
                    "heading": None,
                }
            }
        },
        "actions": {
            "JointPositionAction": {
                "clip": [*front, *front, *rear, *rear],
                "joint_names": [".*"],
                "scale": [0.5] * 12,
                "offset": pose,
                "joint_ids": None,
            }
        },
    }
    assert main(["export", str(MLP(4, 2, [3]).save(tmp_path / "none")), "--unitree", str(tmp_path / "v1")]) == 1
    assert "does not say which robot it is for" in capsys.readouterr().err and not (tmp_path / "v1").exists()
    assert (
        main(["export", str(folder)]) == 1 and "expected --onnx, --unitree FOLDER, or both" in capsys.readouterr().err
    )


def test_everything_a_robot_needs_is_rebuilt(tmp_path):
    folder = go2_folder(tmp_path / "policy", history=2)
    path = export_onnx(folder, tmp_path / "policy.onnx")
    policy, info, original = rfx.load_policy(path, GO2_CONFIG), rfx.inspect_policy(path), rfx.inspect_policy(folder)
    assert (
        policy.robot_config == info.robot_config == GO2_CONFIG
        and policy.history == 2
        and policy.training_info == {"name": "walker", "seed": 3}
    )
    assert info.weight_shapes == original.weight_shapes and info.arguments == original.arguments
    np.testing.assert_array_equal(info.normalizer.mean, original.normalizer.mean)
    other = dataclasses.replace(GO2_CONFIG, control_freq_hz=40.0)
    with pytest.raises(ValueError, match="control_freq_hz: 50.0, the robot has 40.0"):
        rfx.load_policy(path, other)


BOXES = [
    {"action_shape": (2, 1), "action_dtype": "float32", "action_low": (0.0, -1.0), "action_high": (10.0, 3.0)},
    {"action_shape": (2,), "action_dtype": "float64", "action_low": (-0.4, 0.1), "action_high": (0.4, 0.3)},
    {"action_shape": (2,), "action_dtype": "int8", "action_low": (0, -3), "action_high": (1, 3)},
    {"action_shape": (2,), "action_dtype": "uint8", "action_low": (0, 7), "action_high": (255, 7)},
]


def gym_folder(path, network, **spaces):
    """A policy folder of a Gymnasium environment with observations (2, 2), and large actions."""
    weights = {name: tensor.numpy() for name, tensor in rfx.nn.policy.get_state_dict(network).items()}
    last = max(name for name in weights if name.endswith("weight"))
    rfx.nn.policy._set_weights(rfx.nn.policy.get_state_dict(network), weights | {last: 300.0 * weights[last]})
    info = {"task": "gym", "env": {"id": "Odd-v0"}, "spaces": {"observation_shape": (2, 2), **spaces}}
    return network.save(path, normalizer=normalizer_of(4), training_info=info)


@pytest.mark.parametrize("spaces", BOXES, ids=lambda spaces: spaces["action_dtype"])
def test_actions_of_an_environment_are_its_own(spaces, tmp_path):
    """In ONNX Runtime alone what the folder's policy gives the environment's step: of its type and shape, within its
    bounds, which the file says.
    """
    folder = gym_folder(tmp_path / "policy", MLP(4, 2, [8], rng=np.random.default_rng(0)), **spaces)
    path = export_onnx(folder, tmp_path / "policy.onnx")
    ours, loaded, session, rng, seen = (
        rfx.load_policy(folder),
        rfx.load_policy(path),
        session_of(path),
        np.random.default_rng(0),
        [],
    )
    for _ in range(200):
        observation = rng.normal(0.0, 3.0, (2, 2)).astype(np.float32)
        actions, raw = session.run(None, {"obs": observation.reshape(1, 4)})
        assert actions.dtype == spaces["action_dtype"] and actions.shape == (1, *spaces["action_shape"])
        np.testing.assert_array_equal(actions, ours.spaces.scale(raw))
        np.testing.assert_allclose(
            raw, ours({"state": observation.reshape(1, 4)}), atol=1e-3
        )  # float32, of sums of hundreds
        np.testing.assert_array_equal(loaded(observation), actions[0])
        seen.append(actions.reshape(-1))
    assert np.min(seen, axis=0) == pytest.approx(spaces["action_low"]) and np.max(seen, axis=0) == pytest.approx(
        spaces["action_high"]
    )
    properties = session.get_modelmeta().custom_metadata_map
    for name in ("action_low", "action_high"):
        assert [float(value) for value in properties[name].split(",")] == pytest.approx(list(spaces[name]))
    assert (
        properties["action_shape"] == ",".join(map(str, spaces["action_shape"]))
        and properties["action_dtype"] == spaces["action_dtype"]
    )
    assert properties["observation_shape"] == "2,2"


def test_a_policy_of_choices_is_exported(tmp_path):
    """The graph gives the choice, counted as the environment counts."""
    spaces = {"num_actions": 4, "start": 3, "action_dtype": "int64"}
    folder = gym_folder(tmp_path / "policy", CategoricalMLP(4, 4, [8], rng=np.random.default_rng(0)), **spaces)
    path = export_onnx(folder, tmp_path / "policy.onnx")
    ours, loaded, session, rng, seen = (
        rfx.load_policy(folder),
        rfx.load_policy(path),
        session_of(path),
        np.random.default_rng(0),
        set(),
    )
    for _ in range(100):
        observation = rng.normal(0.0, 3.0, (2, 2)).astype(np.float32)
        action = session.run(["actions"], {"obs": observation.reshape(1, 4)})[0]
        assert (
            action.shape == (1,) and action.dtype == np.int64 and action[0] == ours(observation) == loaded(observation)
        )
        assert loaded({"state": observation.reshape(1, 4)})[0] == action[0] - 3
        seen.add(int(action[0]))
    assert seen == {3, 4, 5, 6}
    properties = session.get_modelmeta().custom_metadata_map
    assert (properties["num_actions"], properties["action_start"]) == ("4", "3") and "action_low" not in properties
    assert rfx.inspect_policy(path).policy_type == "CategoricalMLP"


def test_choices_without_an_environment_are_counted_from_0(tmp_path):
    folder = CategoricalMLP(4, 3, [8], rng=np.random.default_rng(0)).save(tmp_path / "policy")
    session = session_of(export_onnx(folder, tmp_path / "policy.onnx"))
    state = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    assert session.run(["actions"], {"obs": state})[0].tolist() == rfx.load_policy(folder)({"state": state}).tolist()


def test_what_is_recommended_after_an_export_works(tmp_path, capsys):
    """rfx deploy for a robot's policy alone; a Gymnasium policy's file is judged as its folder is."""
    folder = gym_folder(tmp_path / "policy", MLP(4, 2, [8]), **BOXES[0])
    assert main(["export", str(folder), "--onnx"]) == 0
    assert "deploy" not in capsys.readouterr().out
    from train.judge.gym import gym_policy

    assert gym_policy(str(tmp_path / "policy.onnx")).spaces == rfx.load_policy(folder).spaces
    assert gym_policy(str(export_onnx(go2_folder(tmp_path / "walker"), tmp_path / "walker.onnx"))) is None


def test_a_policy_of_no_robot(tmp_path):
    folder = MLP(4, 2, [3], rng=np.random.default_rng(0)).save(tmp_path / "policy")
    path = export_onnx(folder, tmp_path / "sub" / "policy.onnx")
    state = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_allclose(
        rfx.load_policy(path)({"state": state}), rfx.load_policy(folder)({"state": state}), atol=1e-6
    )
    assert set(session_of(path).get_modelmeta().custom_metadata_map) == {
        "run_path",
        "rfx_config",
        *(
            f"observation_{name}"
            for name in (
                "names",
                "terms_width",
                "terms_scale",
                "terms_clip",
                "terms_history_length",
                "terms_flatten_history_dim",
            )
        ),
    }
    assert main(["deploy", str(path)]) == 1


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    from rfx.nn import policy as module

    monkeypatch.setattr(module, "_registered", dict(module._registered))

    @module.register_policy
    class Strange(Policy):
        def forward(self, obs):
            return obs

    with pytest.raises(ValueError, match="got a Strange; expected an MLP or ActorCritic"):
        export_onnx(Strange().save(tmp_path / "strange"), tmp_path / "strange.onnx")
    folder = MLP(4, 2, [3]).save(tmp_path / "p")
    with pytest.raises(ValueError, match="'.*weights.bin' to write to; expected a name that ends in .onnx"):
        export_onnx(folder, tmp_path / "weights.bin")
    joints = (dataclasses.replace(GO2_CONFIG.joints[0], name="a,b", mirror=None),)
    robot = rfx.RobotConfig(name="r", joints=joints, state_dim=1, action_dim=1)
    with pytest.raises(ValueError, match="names with commas"):
        export_onnx(MLP(1, 1, [3]).save(tmp_path / "q", robot_config=robot), tmp_path / "q.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_files_that_are_no_policy_are_refused(tmp_path, monkeypatch):
    path = export_onnx(go2_folder(tmp_path / "policy"), tmp_path / "policy.onnx")
    whole, bad = path.read_bytes(), tmp_path / "bad.onnx"

    def refused(match: str, change=None) -> None:
        if change is not None:
            model = onnx.load_model_from_string(whole)
            change(model)
            bad.write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=match):
            rfx.load_policy(bad)

    def say(**changed):
        def change(model):
            (entry,) = (entry for entry in model.metadata_props if entry.key == "rfx_config")
            entry.value = json.dumps(json.loads(entry.value) | changed)

        return change

    bad.write_bytes(whole[: len(whole) // 2])
    refused("not a file that ONNX Runtime can run")
    refused(
        "no metadata property 'rfx_config'; expected a file from `rfx export",
        lambda model: model.ClearField("metadata_props"),
    )
    refused(
        r"got a graph from and to .*48.*; its metadata says .*96",
        say(arguments={"obs_dim": 48, "act_dim": 12, "hidden": [], "history": 2}),
    )
    refused(
        "expected positive integers for obs_dim",
        say(arguments={"obs_dim": 48, "act_dim": True, "hidden": [], "history": 1}),
    )
    refused("got 'x' for 'robot_config'", say(robot_config="x"))
    refused("unknown key 'joint'", say(robot_config={"name": "a", "joint": []}))
    refused("this rfx reads format 2", say(format=3))
    monkeypatch.setattr("rfx.policy.onnx_policy.MAX_BYTES", len(whole) - 1)
    bad.write_bytes(whole)
    refused("expected at most")
    with pytest.raises(FileNotFoundError):
        rfx.load_policy(tmp_path / "none.onnx")


def test_a_graph_reads_no_other_file(tmp_path):
    """Weights that a file keeps outside of itself are not fetched from wherever it points to."""
    path = export_onnx(go2_folder(tmp_path / "policy"), tmp_path / "policy.onnx")
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "weight_0")
    (tmp_path / "outside").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="outside")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="not a file that ONNX Runtime can run"):
        rfx.load_policy(path)


def test_commands(tmp_path, capsys):
    """export, inspect, and deploy on the simulated robot; towards a Go2 the file goes the way of any policy."""
    folder = go2_folder(tmp_path / "policy", history=3)
    path = str(tmp_path / "policy.onnx")
    assert main(["export", f"{folder}/", "--onnx"]) == 0 and f"exported: {path}" in capsys.readouterr().out
    assert main(["inspect", path]) == 0
    out = capsys.readouterr().out
    assert "MLP, 11,756 weights" in out  # 144 x 64 + 64 + 64 x 32 + 32 + 32 x 12 + 12
    assert (
        "observation: 48 wide, the last 3 of them: joint_position" in out and "normalizer: from 500 observations" in out
    )
    deploy_in_virtual_time(path, "--robot", "sim", "--duration", "0.2", "--vx", "0.3")
    assert "10 steps, " in capsys.readouterr().out
    soft = dataclasses.replace(
        GO2_CONFIG, joints=tuple(dataclasses.replace(joint, kp=10.0) for joint in GO2_CONFIG.joints)
    )
    MLP(48, 12, [8]).save(tmp_path / "soft", robot_config=soft)
    assert main(["export", str(tmp_path / "soft"), "--onnx", str(tmp_path / "soft.onnx")]) == 0
    assert main(["deploy", str(tmp_path / "soft.onnx"), "--robot", "go2", "--interface", "lo"]) == 1
    assert "FR_hip_joint kp is 10, allowed are 17.5 to 52.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    "package, command", [("onnx", ["export", "{folder}", "--onnx"]), ("onnxruntime", ["deploy", "{path}"])]
)
def test_a_missing_package_is_one_line_and_status_2(package, command, tmp_path, capsys, monkeypatch):
    folder = go2_folder(tmp_path / "policy")
    path = export_onnx(folder, tmp_path / "policy.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    assert main([part.format(folder=folder, path=path) for part in command]) == 2
    error = capsys.readouterr().err
    assert error == f"rfx {command[0]}: this needs {package}, which is not installed: pip install -e '.[onnx]'\n"


def test_training_ends_with_it(tmp_path, monkeypatch):
    """export.onnx=true: the file holds the policy of the folder beside it.

    Without the package the run does not begin.
    """
    import io

    from rich.console import Console
    from tiny_run import make_config

    from train.runs.run import train

    console = Console(file=io.StringIO(), width=200)
    result = train(make_config(**{"export": {"onnx": True}, "trainer.total_steps": 128}), tmp_path / "run", console)
    assert result["status"] == "finished" and "ONNX" in console.file.getvalue()
    ours, loaded = rfx.load_policy(tmp_path / "run" / "policy"), rfx.load_policy(tmp_path / "run" / "policy.onnx")
    state = np.random.default_rng(0).standard_normal((4, 48)).astype(np.float32)
    np.testing.assert_allclose(loaded({"state": state}), ours({"state": state}), atol=1e-5)
    assert loaded.training_info["task"] == "legged"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"export.onnx is true, which needs onnx: pip install -e '.\[onnx\]'"):
        make_config(**{"export": {"onnx": True}})
