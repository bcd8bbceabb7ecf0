"""A policy ready to run on a robot: from observation dictionary to action, with the settings in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.observation import arrays
from rfx.observation.arrays import Array
from rfx.policy.actor import ACTORS, Actor, policy_history, policy_widths
from rfx.policy.folder import PolicyInfo, check_widths, inspect_policy, naming, read_weights
from rfx.policy.history import ObservationHistory
from rfx.policy.normalizer import ObservationNormalizer
from rfx.policy.onnx_policy import OnnxPolicy, is_onnx, load_onnx
from rfx.policy.spaces import Spaces
from rfx.robot.config import RobotConfig
from rfx.robot.modules import check_observable
from rfx.system.extras import missing

if TYPE_CHECKING:
    from rfx.nn.policy import Policy


def load_policy(source: str | Path, robot_config: RobotConfig | None = None) -> LoadedPolicy:
    """Load a policy, ready to run.

    source is a policy folder (a path, or hf://owner/name), an .onnx file that rfx exported, or a bare .safetensors
    file. Without tinygrad, as on a robot's computer, a policy in a folder or .safetensors file becomes an Actor. If the
    policy observes a user's own terms, their module must be on Python's path; loading does not import the module.
    Raises as `Policy.load`, and ModuleNotFoundError for a policy that needs tinygrad where it is missing. If
    robot_config is given and the policy is for another robot, raises ValueError that lists the differences.
    """
    if is_onnx(source):
        info, policy = load_onnx(source)
        loaded = LoadedPolicy(policy, robot_config=info.robot_config, training_info=info.training_info)
    elif Path(source).is_file():
        loaded = LoadedPolicy(_policy(Path(source)))
    else:
        info = inspect_policy(source)
        with naming(info.path):
            check_observable(info.robot_config, info.training_info, info.path)
        loaded = LoadedPolicy(
            _policy(info), robot_config=info.robot_config, normalizer=info.normalizer, training_info=info.training_info
        )
    if robot_config is not None:
        loaded.check_robot(robot_config)
    return loaded


def _policy(source: Path | PolicyInfo) -> Policy | Actor:
    """The policy in a bare .safetensors file or in an inspected folder; without tinygrad, only its actor."""
    if arrays.is_installed("tinygrad"):
        from rfx.nn.policy import Policy

        return Policy.load(source) if isinstance(source, Path) else Policy.from_info(source)
    if isinstance(source, Path):
        weights = read_weights(source)
        policy_type, arguments, path = "MLP" if "layers.0.weight" in weights else "ActorCritic", {}, source
    else:
        policy_type, arguments, path = source.policy_type, source.arguments, source.path
        if policy_type not in ACTORS or source.module:
            raise missing(f"a policy of type {policy_type}", "tinygrad")
        weights = source.read_weights()
    with naming(path):
        return Actor.of(weights, policy_type, arguments)


class LoadedPolicy:
    """Runs a policy on observation dictionaries: removes the padding, normalizes, infers.

    If the policy reads more than one observation (`history`), the last observations of each row are kept here. Call
    such a policy once a control step, always with the same robots in the same rows, and call `reset` when an episode
    begins. The constructor reads the weights of an MLP or ActorCritic once; they then run in NumPy (Actor), which takes
    a fifteenth of the time of a compiled tinygrad call for one observation. An OnnxPolicy normalizes by itself and runs
    in ONNX Runtime. Any other policy is called with a tinygrad Tensor. Raises ValueError if normalizer or robot_config
    do not fit the policy.
    """

    def __init__(
        self,
        policy: Policy | Actor | OnnxPolicy,
        *,
        robot_config: RobotConfig | None = None,
        normalizer: ObservationNormalizer | None = None,
        training_info: Mapping[str, Any] | None = None,
    ):
        self.policy, self.robot_config, self.normalizer = policy, robot_config, normalizer
        self.training_info = dict(training_info or {})
        self.spaces = Spaces.restored(self.training_info["spaces"]) if "spaces" in self.training_info else None
        self.policy_type = policy.policy_type if isinstance(policy, Actor) else type(policy).__name__
        obs_dim, act_dim = policy_widths(policy)
        check_widths(obs_dim, act_dim, robot_config, normalizer)
        if robot_config is not None:
            self._input_dim = (
                robot_config.max_state_dim if obs_dim == robot_config.max_state_dim else robot_config.state_dim
            )
            self._widths = (self._input_dim, robot_config.max_state_dim)
        else:
            self._input_dim, self._widths = normalizer.state_dim if normalizer else obs_dim, None
        self._action_dim = robot_config.action_dim if robot_config else act_dim
        self.history = policy_history(policy)
        self._history = ObservationHistory(self.history)
        self._infer, self._chooses = _inference(policy), policy.chooses

    def __call__(self, obs: Mapping[str, Array] | Array) -> Array:
        """Compute the actions for an observation dictionary.

        obs["state"] (N, max_state_dim) or (N, state_dim) -> (N, action_dim), float32. A categorical policy returns
        choices, (N,), int64. Actions have the array library and the device of the state. A policy of a Gymnasium
        environment (spaces) also takes the environment's own observation, one or a batch, and returns the action or
        actions for the environment's step. Raises ValueError for another shape or for actions that are not finite,
        TypeError unless obs is an observation dictionary of floating-point numbers.
        """
        if self.spaces is not None and not isinstance(obs, Mapping):
            return self._act(np.asarray(obs))
        if not isinstance(obs, Mapping) or "state" not in obs:
            raise TypeError(
                f"got {list(obs) if isinstance(obs, Mapping) else type(obs).__name__}; expected a "
                "dictionary with 'state'"
            )
        given = obs["state"]
        if arrays.kind(given) != "float":
            raise TypeError(f"got a state of {given.dtype}; expected floating-point numbers")
        if given.ndim != 2 or not (
            given.shape[1] in self._widths if self._widths else given.shape[1] >= (self._input_dim or 1)
        ):
            expected = (
                " or ".join(map(str, sorted({*self._widths}))) if self._widths else f"{self._input_dim or 1} or wider"
            )
            raise ValueError(f"got a state of shape {tuple(given.shape)}; expected (batch, {expected})")
        state = arrays.to_numpy(given)[:, : self._input_dim].astype(np.float32, copy=False)
        normalized = state if self.normalizer is None else self.normalizer.normalize(state)
        if self.history > 1:
            normalized = self._history.push(normalized).reshape(len(state), -1)
        action = self._infer(normalized)[:, : self._action_dim]
        if not np.isfinite(action).all():
            sound = np.isfinite(state).all() and np.isfinite(normalized).all()
            cause = "weights too large to run" if sound else "a state that is not finite"
            raise ValueError(f"got actions that are not finite, from {cause}; do not send them to a robot")
        return arrays.like(action.argmax(axis=1) if self._chooses else action, given)

    def _act(self, observation: np.ndarray) -> np.ndarray:
        """The environment's action for one of its observations, or the actions for a batch."""
        shape = self.spaces.observation_shape
        single = observation.shape == shape
        batch = observation[None] if single else observation
        if batch.shape[1:] != shape:
            raise ValueError(f"got an observation of shape {observation.shape}; expected {shape}, or a batch of such")
        action = self.spaces.scale(self({"state": self.spaces.flatten(batch)}))
        return action[0] if single else action

    def reset(self, rows: Array | None = None) -> None:
        """Begin new episodes: forget the past observations of some robots, or of all robots if rows is None.

        rows: indices, or a mask over the batch. The next observation of such a robot then fills its whole history. Only
        policies with a history keep past observations.
        """
        self._history.reset(None if rows is None else arrays.to_numpy(rows))

    def check_robot(self, config: RobotConfig) -> None:
        """Raise ValueError if config differs from the policy's robot; the error lists every difference."""
        if self.robot_config is None:
            raise ValueError(f"this {self.policy_type} does not say which robot it is for; save it with robot_config")
        if found := self.robot_config.differences(config):
            raise ValueError(
                f"this {self.policy_type} is not for robot {config.name!r}; it was made for " + "; ".join(found)
            )


def actor_of(policy: Policy | Actor) -> Actor | None:
    """The actor of a policy whose type is one of ACTORS; None for any other policy."""
    if isinstance(policy, Actor):
        return policy
    from rfx.nn.categorical import CategoricalActorCritic, CategoricalMLP
    from rfx.nn.networks import MLP, ActorCritic, PrivilegedActorCritic

    mlp = policy.actor() if type(policy) in (ActorCritic, PrivilegedActorCritic, CategoricalActorCritic) else policy
    if type(mlp) not in (MLP, CategoricalMLP):
        return None
    layers = [(layer.weight.numpy(), layer.bias.numpy()) for layer in mlp.layers]
    return Actor(layers, history=mlp.history, activation=mlp.activation, policy_type=type(mlp).__name__)


def _inference(policy: Policy | Actor | OnnxPolicy) -> Callable[[np.ndarray], np.ndarray]:
    """A function from observations to actions, (N, history * obs_dim) -> (N, act_dim), float32."""
    if isinstance(policy, OnnxPolicy):
        return policy
    if actor := actor_of(policy):
        return actor
    from tinygrad import Tensor

    return lambda state: policy(Tensor(np.ascontiguousarray(state))).numpy()
