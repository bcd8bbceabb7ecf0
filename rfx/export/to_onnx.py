"""A policy as an ONNX file for deployments that are not ours: normalizer and history inside, and everything they must
know as metadata.

Names and formats of the properties are those of mjlab (src/mjlab/rl/exporter_utils.py: lists as text with commas),
where it has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rfx
from rfx.loading.loaded_policy import LoadedPolicy, actor_of, load_policy
from rfx.policy.folder import FORMAT, plain
from rfx.policy.onnx_policy import INPUT, OUTPUT, PROPERTY, SUFFIX, OnnxPolicy, term_order, terms_of
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array
from rfx.system.extras import missing
from rfx.system.folders import replace_file

OPSET, IR_VERSION = 17, 8  # of 2022: what runtimes on robots' computers read
ACTIVATION_NODES = {"tanh": "Tanh", "elu": "Elu", "relu": "Relu"}
MJLAB_TERMS = {
    "joint_position": "joint_pos",
    "joint_velocity": "joint_vel",
    "base_angular_velocity": "base_ang_vel",
    "velocity_command": "command",
    "last_action": "actions",
}  # terms of ours that are the same numbers there; others keep their names
ABOUT = (
    "obs: the observation terms of observation_names, in this order, not normalized; of a policy with a history all frames of a term, "
    "oldest first, before those of the next term. actions: in [-1, 1]; the joint targets are default_joint_pos + action_scale * actions, "
    "clipped to the joint limits."
)


def export_onnx(source: str | Path, path: str | Path) -> Path:
    """Write the policy at source (as `load_policy` takes it) as an ONNX file at path, replacing what is there.

    Returns path.

    Padding of observation and action is taken off. Raises ModuleNotFoundError without the package onnx, ValueError for
    a policy that is none of rfx's own networks, or makes choices, or a path that does not end in .onnx, and otherwise
    as `load_policy`.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"got {str(path)!r} to write to; expected a name that ends in {SUFFIX}")
    try:
        import onnx
    except ImportError as error:
        raise missing("this", "onnx") from error
    policy = load_policy(source)
    actor = None if isinstance(policy.policy, OnnxPolicy) else actor_of(policy.policy)
    if actor is None or actor.chooses:
        raise ValueError(
            f"got a {policy.policy_type}; expected an MLP or ActorCritic: rfx writes ONNX graphs of its "
            "own networks only"
        )
    layers, obs_dim = _without_padding(actor.layers, policy)
    terms = terms_of(policy.robot_config, obs_dim)
    model = _model(onnx, layers, actor.activation, policy, term_order(tuple(terms.values()), policy.history), obs_dim)
    widths = [weight.shape[1] for weight, _ in layers]
    onnx.helper.set_model_props(model, properties(policy, widths, actor.activation, terms))
    onnx.checker.check_model(model)
    replace_file(path, model.SerializeToString())
    return path


def properties(
    policy: LoadedPolicy, widths: Sequence[int], activation: str, terms: Mapping[str, int]
) -> dict[str, str]:
    """All metadata of a policy. widths are those of its layers' outputs, terms those of the observation terms."""
    obs_dim, normalizer = sum(terms.values()), policy.normalizer
    of_activation = {"activation": activation} if activation != "tanh" else {}  # else an older rfx reads the file too
    config = {
        "format": FORMAT,
        "rfx_version": rfx.__version__,
        "policy_type": "MLP",
        "arguments": {
            "obs_dim": obs_dim,
            "act_dim": widths[-1],
            "hidden": list(widths[:-1]),
            "history": policy.history,
            **of_activation,
        },
        "robot_config": policy.robot_config and policy.robot_config.to_dict(),
        "normalizer": normalizer and normalizer.to_dict(),
        "training_info": plain(policy.training_info, "training_info"),
    }
    return {
        **_observation_properties(policy.history, terms),
        **(_robot_properties(policy.robot_config) if policy.robot_config else {}),
        "run_path": str(policy.training_info.get("name", "")),
        PROPERTY: json.dumps(config, allow_nan=False),
    }


def _observation_properties(history: int, terms: Mapping[str, int]) -> dict[str, str]:
    count = len(terms)
    return {
        "observation_names": _csv(MJLAB_TERMS.get(name, name) for name in terms),
        "observation_terms_width": _csv(terms.values()),
        "observation_terms_scale": _csv([1] * count),
        "observation_terms_clip": _csv(["-inf;inf"] * count),
        "observation_terms_history_length": _csv([history if history > 1 else 0] * count),  # 0: none, as mjlab has it
        "observation_terms_flatten_history_dim": _csv([1] * count),
    }


def _robot_properties(robot: RobotConfig) -> dict[str, str]:
    arrays = {
        "joint_stiffness": "kp",
        "joint_damping": "kd",
        "default_joint_pos": "default_rad",
        "action_scale": "action_scale_rad",
        "joint_pos_lower_limit": "min_rad",
        "joint_pos_upper_limit": "max_rad",
        "joint_effort_limit": "max_torque_nm",
    }
    gait = {
        "gait_freq_hz": robot.gait_freq_hz,
        "gait_swing_share": robot.swing_share,
        "foot_names": _csv(robot.foot_names),
        "gait_offsets": _csv(foot.gait_offset for foot in robot.feet),
    }
    return {
        "robot": robot.name,
        "joint_names": _csv(robot.joint_names),
        **{name: _csv(getattr(joint, key) for joint in robot.joints) for name, key in arrays.items()},
        "command_names": "twist" if "velocity_command" in robot.observation_terms else "",
        "step_dt": _text(1.0 / robot.control_freq_hz),
        **{name: _text(value) for name, value in gait.items()},
    }


def _csv(values: Iterable[Any]) -> str:
    texts = [_text(value) for value in values]
    if any("," in text for text in texts):
        raise ValueError(f"got names with commas, {texts}, which separate names in ONNX metadata; rename them")
    return ",".join(texts)


def _text(value: Any) -> str:
    return format(value, ".9g") if isinstance(value, float) else str(value)  # nine digits hold any float32


def _without_padding(
    layers: Sequence[tuple[Array, Array]], policy: LoadedPolicy
) -> tuple[list[tuple[Array, Array]], int]:
    """The layers without what reads or writes padding, and the width of one observation.

    Padding of an observation is zero.
    """
    robot, obs_dim = policy.robot_config, policy.policy.obs_dim
    state_dim, action_dim = (robot.state_dim, robot.action_dim) if robot else (obs_dim, policy.policy.act_dim)
    layers = list(layers)
    weight, bias = layers[0]
    layers[0] = weight.reshape(policy.history, obs_dim, -1)[:, :state_dim].reshape(policy.history * state_dim, -1), bias
    weight, bias = layers[-1]
    layers[-1] = weight[:, :action_dim], bias[:action_dim]
    return layers, state_dim


def _model(
    onnx: Any, layers: Sequence[tuple[Array, Array]], activation: str, policy: LoadedPolicy, order: Array, obs_dim: int
) -> Any:
    """The graph: subtract the mean, scale, clip; then a product, a sum and an activation for each layer.

    order is `term_order`'s.
    """
    nodes, constants, last = [], [], INPUT

    def add(kind: str, *inputs: tuple[str, Array]) -> None:
        nonlocal last
        constants.extend(
            onnx.numpy_helper.from_array(np.array(value, np.float32, order="C"), name) for name, value in inputs
        )
        result = OUTPUT if len(nodes) == num_nodes - 1 else f"{kind.lower()}_{len(nodes)}"
        nodes.append(onnx.helper.make_node(kind, [last, *(name for name, _ in inputs)], [result]))
        last = result

    num_nodes = 2 * len(layers) + (3 if policy.normalizer else 0)
    if policy.normalizer:
        mean, scale = (np.tile(values, policy.history)[order] for values in policy.normalizer.mean_and_scale)
        add("Sub", ("mean", mean))
        add("Mul", ("scale", scale))
        add("Clip", ("low", -policy.normalizer.clip), ("high", policy.normalizer.clip))
    for i, (weight, bias) in enumerate(layers):
        add("Gemm", (f"weight_{i}", weight[order] if i == 0 else weight), (f"bias_{i}", bias))
        add(ACTIVATION_NODES[activation] if i < len(layers) - 1 else "Tanh")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width])
        for name, width in ((INPUT, len(order)), (OUTPUT, layers[-1][1].shape[0]))
    ]
    graph = onnx.helper.make_graph(nodes, "actor", ends[:1], ends[1:], constants, doc_string=ABOUT)
    return onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rfx",
        producer_version=rfx.__version__,
    )
