"""A policy in an ONNX file that rfx exported, run by ONNX Runtime (extra `onnx`).

docs/export.md describes the file. The graph takes `obs` (1, history * state_dim) and gives `actions` (1, action_dim).
For a Gymnasium environment, the graph gives two outputs: `actions` as the environment takes them, and `policy_output`
(1, act_dim), the network's output before the conversion to actions. rfx reads `policy_output`.
If history is more than 1, the graph wants all frames of the first term, oldest first, then all frames of the second
term, and so on. mjlab and Unitree's C++ deployment stack frames in this order; rfx stacks whole frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfx.policy.actor import CHOOSERS
from rfx.policy.folder import PolicyInfo, naming, read_bounded, read_config
from rfx.policy.hub import SCHEME
from rfx.policy.normalizer import ObservationNormalizer
from rfx.robot.config import RobotConfig
from rfx.robot.modules import check_observable
from rfx.robot.observe import term_widths
from rfx.robot.state import Array
from rfx.system.extras import missing

SUFFIX = ".onnx"
INPUT, OUTPUT = "obs", "actions"
# Second output of a graph for a Gymnasium environment: in [-1, 1], or one number for each choice.
RAW = "policy_output"
PROPERTY = "rfx_config"  # metadata property from which the policy's description is rebuilt
MAX_BYTES = 64 * 2**20


class OnnxPolicy:
    """An ONNX Runtime session as a policy, for one robot or several. The graph itself normalizes observations.

    widths are the widths of the observation terms. scaled says whether the graph's actions are those of a Gymnasium
    environment. chooses says whether actions are choices. Raises ValueError for a graph with other inputs or outputs.
    """

    def __init__(
        self,
        session: Any,
        widths: Sequence[int],
        act_dim: int,
        history: int,
        *,
        scaled: bool = False,
        chooses: bool = False,
    ):
        self.obs_dim, self.act_dim, self.history, self.chooses = sum(widths), act_dim, history, chooses
        self._output = RAW if scaled else OUTPUT
        ends = [end for end in (*session.get_inputs(), *session.get_outputs()) if not scaled or end.name != OUTPUT]
        found = [(end.name, end.shape, end.type) for end in ends]
        expected = [
            (INPUT, [1, history * self.obs_dim], "tensor(float)"),
            (self._output, [1, act_dim], "tensor(float)"),
        ]
        if found != expected:
            raise ValueError(f"got a graph from and to {found}; its metadata says {expected}")
        self._session, self._order = session, term_order(widths, history)

    def __call__(self, frames: Array) -> Array:
        """Run the policy on whole frames side by side, oldest first.

        (N, history * obs_dim) -> (N, act_dim), float32.
        """
        rows = np.ascontiguousarray(frames[:, self._order], np.float32)
        return np.concatenate(
            [self._session.run((self._output,), {INPUT: rows[i : i + 1]})[0] for i in range(len(rows))]
            or [np.zeros((0, self.act_dim), np.float32)]
        )


def is_onnx(source: str | Path) -> bool:
    """Whether the name of source is that of a local ONNX file."""
    return str(source).endswith(SUFFIX) and not str(source).startswith(SCHEME)


def term_order(widths: Sequence[int], history: int) -> Array:
    """For each place of the graph's input, the index of its entry in the whole frames, side by side.

    (history * sum(widths),).
    """
    frames = np.arange(history * sum(widths)).reshape(history, sum(widths))
    terms = np.split(frames, np.cumsum(widths)[:-1], axis=1)
    return np.concatenate([term.reshape(-1) for term in terms])


def terms_of(config: RobotConfig | None, obs_dim: int) -> dict[str, int]:
    """Width of each observation term by its name.

    If config names no terms, the whole observation is one term with the name of the graph's input. Raises ValueError
    for an unknown term, or if the widths do not add up to obs_dim.
    """
    if config is None or not config.observation_terms:
        return {INPUT: obs_dim}
    terms = dict(zip(config.observation_terms, term_widths(config)))
    if sum(terms.values()) != obs_dim:
        raise ValueError(f"got observation terms of widths {terms}, {sum(terms.values())} together; expected {obs_dim}")
    return terms


def inspect_onnx(path: str | Path) -> PolicyInfo:
    """Read the description of the policy in an ONNX file, as inspect_policy does for a folder. Raises as load_onnx."""
    return load_onnx(path)[0]


def load_onnx(path: str | Path) -> tuple[PolicyInfo, OnnxPolicy]:
    """Load the policy in an ONNX file that rfx exported, with its description. Reads no other file.

    Raises ModuleNotFoundError without ONNX Runtime, FileNotFoundError for a missing file, and ValueError for a file
    that is too large, damaged, or not from rfx.
    """
    try:
        import onnxruntime as runtime
    except ImportError as error:
        raise missing("this", "onnxruntime") from error
    path = Path(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # fastest for a network this small
    options.log_severity_level = 3  # only errors
    data = read_bounded(path, MAX_BYTES)
    try:
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own for a damaged file
        raise ValueError(f"{path}: not a file that ONNX Runtime can run: {error}") from error
    properties = session.get_modelmeta().custom_metadata_map
    if PROPERTY not in properties:
        raise ValueError(
            f"{path}: got no metadata property {PROPERTY!r}; expected a file from `rfx export PATH --onnx`"
        )
    with naming(path):
        config = read_config(properties[PROPERTY].encode(), {"normalizer": dict | None})
        info = _info(path, config)
        arguments = info.arguments
        check_observable(info.robot_config, info.training_info)
        widths = terms_of(info.robot_config, arguments["obs_dim"]).values()
        chooses = info.policy_type in CHOOSERS
        return info, OnnxPolicy(
            session,
            tuple(widths),
            arguments["act_dim"],
            arguments["history"],
            chooses=chooses,
            scaled=chooses or "spaces" in info.training_info,
        )


def _info(path: Path, config: dict[str, Any]) -> PolicyInfo:
    arguments = config["arguments"]
    sizes = [arguments.get(name) for name in ("obs_dim", "act_dim", "history")] + list(arguments.get("hidden") or [])
    if not all(type(size) is int and 0 < size <= MAX_BYTES for size in sizes):
        raise ValueError(
            f"got arguments {arguments!r}; expected positive integers for obs_dim, act_dim, history, "
            "and a list of them for hidden"
        )
    robot, normalizer = config["robot_config"], config["normalizer"]
    return PolicyInfo(
        path=path,
        rfx_version=config["rfx_version"],
        policy_type=config["policy_type"],
        arguments=arguments,
        weight_shapes=_weight_shapes(arguments),
        robot_config=None if robot is None else RobotConfig.from_dict(robot),
        normalizer=None if normalizer is None else ObservationNormalizer.from_dict(normalizer),
        training_info=config["training_info"],
        digests={},
    )


def _weight_shapes(arguments: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    sizes = [arguments["history"] * arguments["obs_dim"], *arguments["hidden"], arguments["act_dim"]]
    return {
        f"layers.{i}.{name}": shape
        for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:]))
        for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
    }
