"""A policy as a robot runs it: from observation dictionary to action, with everything its folder says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx import arrays
from rfx.arrays import Array
from rfx.config import RobotConfig
from rfx.history import ObservationHistory
from rfx.normalizer import ObservationNormalizer
from rfx.policy_folder import inspect_policy
from rfx.spaces import Spaces

if TYPE_CHECKING:
    from rfx.nn.policy import Policy


def load_policy(source: str | Path, robot_config: RobotConfig | None = None) -> LoadedPolicy:
    """The policy in a folder (a path, or hf://owner/name) or a bare .safetensors file, ready to run on robot_config if that is given.

    Raises as `Policy.load`, and ValueError that lists what differs when the policy is not for that robot.
    """
    from rfx.nn.policy import Policy

    if Path(source).is_file():
        loaded = LoadedPolicy(Policy.load(source))
    else:
        info = inspect_policy(source)
        loaded = LoadedPolicy(Policy.from_info(info), robot_config=info.robot_config, normalizer=info.normalizer,
                              training_info=info.training_info)
    if robot_config is not None:
        loaded.check_robot(robot_config)
    return loaded


class LoadedPolicy:
    """Runs a policy on observation dictionaries: takes off the padding, normalizes, infers.

    A policy that reads more than one observation (`history`) is given the last ones, of each row of the batch its own: call it once a
    control step, always with the same robots in the same rows, and `reset` where an episode begins. The weights of an MLP or ActorCritic
    are read once, here, and run in NumPy: a fifteenth of the time that a compiled tinygrad call takes for one observation. Any other
    policy is called with a tinygrad Tensor. Raises ValueError where normalizer or robot_config do not fit.
    """

    def __init__(self, policy: Policy, *, robot_config: RobotConfig | None = None, normalizer: ObservationNormalizer | None = None,
                 training_info: Mapping[str, Any] | None = None):
        from rfx.nn.policy import policy_history, policy_widths
        from rfx.policy_folder import check_widths

        self.policy, self.robot_config, self.normalizer = policy, robot_config, normalizer
        self.training_info = dict(training_info or {})
        self.spaces = Spaces.restored(self.training_info["spaces"]) if "spaces" in self.training_info else None
        self.policy_type = type(policy).__name__
        obs_dim, act_dim = policy_widths(policy)
        check_widths(obs_dim, act_dim, robot_config, normalizer)
        if robot_config is not None:
            self._input_dim = robot_config.max_state_dim if obs_dim == robot_config.max_state_dim else robot_config.state_dim
            self._widths = (self._input_dim, robot_config.max_state_dim)
        else:
            self._input_dim, self._widths = normalizer.state_dim if normalizer else obs_dim, None
        self._action_dim = robot_config.action_dim if robot_config else act_dim
        self.history = policy_history(policy)
        self._history = ObservationHistory(self.history)
        self._infer, self._chooses = _inference(policy), self.policy_type in ("CategoricalMLP", "CategoricalActorCritic")

    def __call__(self, obs: Mapping[str, Array] | Array) -> Array:
        """Actions for an observation dictionary. obs["state"] (N, max_state_dim) or (N, state_dim) -> (N, action_dim), float32.

        Of a categorical policy they are choices, (N,), int64. A policy of a Gymnasium environment (spaces) also takes the environment's own
        observation, one or a batch, and returns the action, or actions, that its step takes. The action comes in the array library, and on
        the device, of the state. Raises ValueError for another shape or for actions that are not finite, TypeError for what is not an
        observation dictionary of floating-point numbers.
        """
        if self.spaces is not None and not isinstance(obs, Mapping):
            return self._act(np.asarray(obs))
        if not isinstance(obs, Mapping) or "state" not in obs:
            raise TypeError(f"got {list(obs) if isinstance(obs, Mapping) else type(obs).__name__}; expected a dictionary with 'state'")
        given = obs["state"]
        if arrays.kind(given) != "float":
            raise TypeError(f"got a state of {given.dtype}; expected floating-point numbers")
        if given.ndim != 2 or not (given.shape[1] in self._widths if self._widths else given.shape[1] >= (self._input_dim or 1)):
            expected = " or ".join(map(str, sorted({*self._widths}))) if self._widths else f"{self._input_dim or 1} or wider"
            raise ValueError(f"got a state of shape {tuple(given.shape)}; expected (batch, {expected})")
        state = arrays.to_numpy(given)[:, :self._input_dim].astype(np.float32, copy=False)
        normalized = state if self.normalizer is None else self.normalizer.normalize(state)
        if self.history > 1:
            normalized = self._history.push(normalized).reshape(len(state), -1)
        action = self._infer(normalized)[:, :self._action_dim]
        if not np.isfinite(action).all():
            sound = np.isfinite(state).all() and np.isfinite(normalized).all()
            cause = "weights too large to run" if sound else "a state that is not finite"
            raise ValueError(f"got actions that are not finite, from {cause}; do not send them to a robot")
        return arrays.like(action.argmax(axis=1) if self._chooses else action, given)

    def _act(self, observation: np.ndarray) -> np.ndarray:
        """The environment's action for its observation, or for a batch of them."""
        shape = self.spaces.observation_shape
        single = observation.shape == shape
        batch = observation[None] if single else observation
        if batch.shape[1:] != shape:
            raise ValueError(f"got an observation of shape {observation.shape}; expected {shape}, or a batch of such")
        action = self.spaces.scale(self({"state": self.spaces.flatten(batch)}))
        return action[0] if single else action

    def reset(self, rows: Array | None = None) -> None:
        """Begin episodes: forget the observations of robots rows (indices, or a mask over the batch), or without rows of all.

        The next observation of such a robot then stands for those before it. Only policies with a history remember anything.
        """
        self._history.reset(None if rows is None else arrays.to_numpy(rows))

    def check_robot(self, config: RobotConfig) -> None:
        """Raise ValueError that lists every difference between the robot this policy is for and config; pass where there is none."""
        if self.robot_config is None:
            raise ValueError(f"this {self.policy_type} does not say which robot it is for; save it with robot_config")
        if found := self.robot_config.differences(config):
            raise ValueError(f"this {self.policy_type} is not for robot {config.name!r}; it was made for " + "; ".join(found))


def _inference(policy: Policy) -> Callable[[np.ndarray], np.ndarray]:
    """A function from observations to actions, (N, history * obs_dim) -> (N, act_dim), float32."""
    from rfx.nn.categorical import CategoricalActorCritic, CategoricalMLP
    from rfx.nn.networks import MLP, ActorCritic, PrivilegedActorCritic
    from tinygrad import Tensor

    if type(policy) in (CategoricalActorCritic, CategoricalMLP):
        network = policy.actor() if type(policy) is CategoricalActorCritic else policy
        *hidden, (weight, bias) = [(np.ascontiguousarray(layer.weight.numpy().T), layer.bias.numpy()) for layer in network.layers]
        return lambda state: _tanh_layers(state, hidden) @ weight + bias
    mlp = policy.actor() if type(policy) in (ActorCritic, PrivilegedActorCritic) else policy
    if type(mlp) is MLP:
        layers = [(np.ascontiguousarray(layer.weight.numpy().T), layer.bias.numpy()) for layer in mlp.layers]
        return lambda state: _tanh_layers(state, layers)
    return lambda state: policy(Tensor(np.ascontiguousarray(state))).numpy()


def _tanh_layers(x: np.ndarray, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """tanh(x @ weight + bias), layer after layer. weight (in, out): a product with rows of x then reads memory in order."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by whoever checks the action
        for weight, bias in layers:
            x = x @ weight
            x += bias
            np.tanh(x, out=x)
    return x
