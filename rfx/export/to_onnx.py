"""Export a policy as an ONNX file for deployments other than rfx.

The graph holds the normalizer and reads the history; metadata properties hold everything else that a deployment must
know. Names and formats of the properties follow mjlab where mjlab has them (src/mjlab/rl/exporter_utils.py: lists as
text with commas).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rfx
from rfx.loading.loaded_policy import LoadedPolicy, actor_of, load_policy
from rfx.policy.actor import Actor
from rfx.policy.folder import FORMAT, plain
from rfx.policy.onnx_policy import INPUT, OUTPUT, PROPERTY, RAW, SUFFIX, OnnxPolicy, term_order, terms_of
from rfx.policy.spaces import Spaces
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array
from rfx.system.extras import missing
from rfx.system.folders import replace_file

OPSET, IR_VERSION = 17, 8  # from 2022; runtimes on robots' computers read these versions
ACTIVATION_NODES = {"tanh": "Tanh", "elu": "Elu", "relu": "Relu"}
# mjlab's names for terms that are the same numbers there. All other terms keep their names.
MJLAB_TERMS = {
    "joint_position": "joint_pos",
    "joint_velocity": "joint_vel",
    "base_angular_velocity": "base_ang_vel",
    "velocity_command": "command",
    "last_action": "actions",
}
ABOUT = (
    "obs: the observation terms of observation_names, in this order, not normalized; of a policy with a history "
    "all frames of a term, oldest first, before those of the next term. actions: in [-1, 1]; the joint targets are "
    "default_joint_pos + action_scale * actions, clipped to the joint limits."
)
ABOUT_GYM = (
    "obs: the environment's observation, flat, not normalized; of a policy with a history the frames of each entry, "
    "oldest first, one entry after the other. actions: what the environment's step takes, within its bounds, or one "
    "of its choices. policy_output: what they were made from, in [-1, 1], or a number for each choice."
)


def export_onnx(source: str | Path, path: str | Path) -> Path:
    """Export the policy at source as an ONNX file at path. An existing file is replaced. Returns path.

    source is anything that `load_policy` takes. The graph has no padding of observation and action. For a policy of a
    Gymnasium environment, the graph's actions are the ones that the environment's step takes. Raises
    ModuleNotFoundError without the package onnx. Raises ValueError for a policy that is not one of rfx's own networks,
    or a path that does not end in .onnx. Otherwise raises as `load_policy`.
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
    if actor is None:
        raise ValueError(
            f"got a {policy.policy_type}; expected an MLP or ActorCritic: rfx writes ONNX graphs of its "
            "own networks only"
        )
    layers, obs_dim = _without_padding(actor.layers, policy)
    terms = terms_of(policy.robot_config, obs_dim)
    model = _model(onnx, layers, actor, policy, term_order(tuple(terms.values()), policy.history))
    widths = [weight.shape[1] for weight, _ in layers]
    onnx.helper.set_model_props(model, properties(policy, widths, actor, terms))
    onnx.checker.check_model(model)
    replace_file(path, model.SerializeToString())
    return path


def properties(policy: LoadedPolicy, widths: Sequence[int], actor: Actor, terms: Mapping[str, int]) -> dict[str, str]:
    """All metadata properties of a policy.

    actor is the policy's actor, widths are the output widths of its layers, terms the widths of the observation terms.
    """
    activation, chooses = actor.activation, actor.chooses
    obs_dim, normalizer = sum(terms.values()), policy.normalizer
    # Tanh is the default and is left out, so that an older rfx can read the file too
    of_activation = {"activation": activation} if activation != "tanh" else {}
    config = {
        "format": FORMAT,
        "rfx_version": rfx.__version__,
        "policy_type": "CategoricalMLP" if chooses else "MLP",
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
        **(_space_properties(policy.spaces) if policy.spaces else {}),
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
        "observation_terms_history_length": _csv([history if history > 1 else 0] * count),  # 0: no history, as in mjlab
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


def _space_properties(spaces: Spaces) -> dict[str, str]:
    shapes = {"observation_shape": _csv(spaces.observation_shape), "action_dtype": spaces.action_dtype}
    if spaces.num_actions:
        return {**shapes, "num_actions": _text(spaces.num_actions), "action_start": _text(spaces.start)}
    return {
        **shapes,
        "action_shape": _csv(spaces.action_shape),
        "action_low": _csv(spaces.action_low),
        "action_high": _csv(spaces.action_high),
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
    """The layers without the weights that read or write padding, and the width of one observation without padding.

    The padding of an observation is zero, so the result does not change.
    """
    robot, obs_dim = policy.robot_config, policy.policy.obs_dim
    state_dim, action_dim = (robot.state_dim, robot.action_dim) if robot else (obs_dim, policy.policy.act_dim)
    layers = list(layers)
    weight, bias = layers[0]
    layers[0] = weight.reshape(policy.history, obs_dim, -1)[:, :state_dim].reshape(policy.history * state_dim, -1), bias
    weight, bias = layers[-1]
    layers[-1] = weight[:, :action_dim], bias[:action_dim]
    return layers, state_dim


def _model(onnx: Any, layers: Sequence[tuple[Array, Array]], actor: Actor, policy: LoadedPolicy, order: Array) -> Any:
    """Build the graph: subtract the mean, scale, clip, then a product, a sum and an activation for each layer.

    If the policy chooses, the last layer has no activation. For a Gymnasium environment, nodes that convert the output
    to the environment's actions follow. order is the result of `term_order`.
    """
    scaled = actor.chooses or policy.spaces is not None
    graph = _Graph(onnx, INPUT)
    if policy.normalizer:
        mean, scale = (np.tile(values, policy.history)[order] for values in policy.normalizer.mean_and_scale)
        graph.add("Sub", mean=np.float32(mean))
        graph.add("Mul", scale=np.float32(scale))
        graph.add("Clip", low=np.float32(-policy.normalizer.clip), high=np.float32(policy.normalizer.clip))
    for i, (weight, bias) in enumerate(layers):
        graph.add(
            "Gemm", **{f"weight_{i}": np.float32(weight[order] if i == 0 else weight), f"bias_{i}": np.float32(bias)}
        )
        if i < len(layers) - 1 or not actor.chooses:
            graph.add(ACTIVATION_NODES[actor.activation] if i < len(layers) - 1 else "Tanh")
    graph.name_last(RAW if scaled else OUTPUT)
    outputs = [
        onnx.helper.make_tensor_value_info(
            RAW if scaled else OUTPUT, onnx.TensorProto.FLOAT, [1, layers[-1][1].shape[0]]
        )
    ]
    if scaled:
        outputs.insert(0, _add_actions(onnx, graph, policy.spaces))
    inputs = [onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [1, len(order)])]
    made = onnx.helper.make_graph(
        graph.nodes, "actor", inputs, outputs, graph.constants, doc_string=ABOUT_GYM if scaled else ABOUT
    )
    return onnx.helper.make_model(
        made,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rfx",
        producer_version=rfx.__version__,
    )


def _add_actions(onnx: Any, graph: _Graph, spaces: Spaces | None) -> Any:
    """Add nodes that compute Spaces.scale in the same precision; without spaces, an argmax. Returns the output."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spaces.action_dtype if spaces else "int64"))
    if spaces is None or spaces.num_actions:
        graph.add("ArgMax", axis=1, keepdims=0)
        graph.add("Add", start=np.int64(spaces.start if spaces else 0))
        shape = [1]
    else:
        graph.add("Clip", least=np.float32(-1.0), most=np.float32(1.0))
        graph.add("Cast", to=onnx.TensorProto.DOUBLE)
        graph.add("Add", one=np.float64(1.0))
        graph.add("Mul", half_width=spaces.half_width)
        graph.add("Add", action_low=np.float64(spaces.action_low))
        if spaces.whole:
            graph.add("Floor")
        graph.add("Max", lowest=np.float64(spaces.action_low))
        graph.add("Min", highest=np.float64(spaces.action_high))
        shape = [1, *spaces.action_shape]
        graph.add("Reshape", shape=np.int64(shape))
    graph.add("Cast", to=kind)
    graph.name_last(OUTPUT)
    return onnx.helper.make_tensor_value_info(OUTPUT, kind, shape)


class _Graph:
    """A chain of nodes. Each node reads the result of the node before it."""

    def __init__(self, onnx: Any, name: str):
        self._onnx, self._last = onnx, name
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, **values: Any) -> None:
        """Add a node. Array values become constants with these names in the graph, plain numbers become attributes."""
        inputs = {name: value for name, value in values.items() if isinstance(value, (np.ndarray, np.generic))}
        self.constants += [
            self._onnx.numpy_helper.from_array(np.array(value, order="C"), name) for name, value in inputs.items()
        ]
        result = f"{kind.lower()}_{len(self.nodes)}"
        attributes = {name: value for name, value in values.items() if name not in inputs}
        self.nodes.append(self._onnx.helper.make_node(kind, [self._last, *inputs], [result], **attributes))
        self._last = result

    def name_last(self, name: str) -> None:
        """Give the result of the last node this name."""
        self.nodes[-1].output[0] = self._last = name
