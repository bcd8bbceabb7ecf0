"""The networks MLP, ActorCritic and PrivilegedActorCritic, and their sizes for the Go2.

Every forward pass goes through `rfx.nn.dense.mlp`.

Saved weight names, with a `.bias` beside each `.weight`:
MLP: `layers.{i}.weight`.
ActorCritic: `backbone.{i}.weight`, `actor_head.weight`, `critic_head.weight`, `log_std`.
PrivilegedActorCritic: the same, with `critic.{i}.weight` instead of the critic's head.

A network with a history of k reads the last k observations, oldest first, side by side: (B, k * obs_dim). The weights
do not tell k or the activation of the hidden layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tinygrad import Tensor
from tinygrad.nn import Linear

from rfx.nn.dense import mlp
from rfx.nn.policy import Policy, register_policy
from rfx.nn.trainable import TrainablePolicy, layer_sizes
from rfx.policy.actor import chain, check_activation, policy_history, width

LOG_2PI = math.log(2.0 * math.pi)


def _linear(num_inputs: int, num_outputs: int, rng: np.random.Generator, scale: float = 1.0) -> Linear:
    """A linear layer with weights and biases uniform within scale / sqrt(num_inputs), as in tinygrad and torch."""
    bound = scale / math.sqrt(num_inputs)
    # Linear.__init__ draws from tinygrad's global random state, and compiles kernels for it.
    layer = Linear.__new__(Linear)
    layer.weight = Tensor(rng.uniform(-bound, bound, (num_outputs, num_inputs)).astype(np.float32))
    layer.bias = Tensor(rng.uniform(-bound, bound, num_outputs).astype(np.float32))
    return layer


def _check_width(obs: Tensor, obs_dim: int, history: int = 1) -> None:
    if obs.ndim != 2 or obs.shape[1] != obs_dim * history:
        of_history = f": {history} observations of {obs_dim}" if history > 1 else ""
        raise ValueError(
            f"got observations of shape {tuple(obs.shape)}; expected (batch, {obs_dim * history}){of_history}"
        )


def _pass(obs: Tensor, layers: Sequence[Linear], heads: Sequence[Linear], activation: str) -> Tensor:
    """Run layers with the activation after each, then heads side by side. (B, in) -> (B, sum of the heads' outs)."""
    return mlp(
        obs,
        [*(layer.weight for layer in layers), [head.weight for head in heads]],
        [*(layer.bias for layer in layers), [head.bias for head in heads]],
        activation,
    )


def _exported(policy: TrainablePolicy, kind: type[MLP]) -> MLP:
    """Return the actor of an actor-critic as an MLP of this kind, with its own copy of the weights."""
    # Arguments with default values are left out, so that an older rfx can read the folder too.
    options = {"history": policy.history} if policy.history > 1 else {}
    options |= {"activation": policy.activation} if policy.activation != "tanh" else {}
    exported = kind(policy.obs_dim, policy.act_dim, policy.hidden, **options)
    for layer, source in zip(exported.layers, [*policy.backbone, policy.actor_head]):
        layer.weight, layer.bias = source.weight.clone().realize(), source.bias.clone().realize()
    return exported


@register_policy
class MLP(Policy):
    """Multilayer perceptron with tanh after the last layer, so that actions lie in [-1, 1].

    The activation (tanh, elu or relu) follows every other layer. obs_dim and act_dim are the widths of observation and
    action, hidden the widths of the layers between (default 256, 256); history is the number of observations it reads.
    rng draws the initial weights: equal generators make equal networks. Without rng, every network is different. Raises
    ValueError for a width or history that is not a positive integer, or for an unknown activation.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int] | None = None,
        *,
        history: int = 1,
        activation: str = "tanh",
        rng: np.random.Generator | None = None,
    ):
        sizes = layer_sizes(obs_dim, act_dim, hidden, history)
        self.obs_dim, self.act_dim, self.hidden, self.history = int(obs_dim), sizes[-1], sizes[1:-1], int(history)
        self.activation, rng = check_activation(activation), np.random.default_rng() if rng is None else rng
        self.layers = [_linear(a, b, rng) for a, b in zip(sizes[:-1], sizes[1:])]
        Tensor.realize(*self.parameters())

    def forward(self, obs: Tensor) -> Tensor:
        """Compute actions in [-1, 1]. obs (B, history * obs_dim) -> (B, act_dim).

        Raises ValueError for another shape.
        """
        return self._before_tanh(obs).tanh()

    def _before_tanh(self, obs: Tensor) -> Tensor:
        """Output of the last layer. Raises like `forward`."""
        _check_width(obs, self.obs_dim, self.history)
        return mlp(obs, [layer.weight for layer in self.layers], [layer.bias for layer in self.layers], self.activation)

    @classmethod
    def infer_arguments(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Infer obs_dim (times history), act_dim and hidden from the shapes of `layers.{i}`.

        Raises ValueError for other shapes.
        """
        sizes = chain(shapes, "layers")
        if not sizes:
            raise ValueError(f"got weights {', '.join(shapes) or 'none'}; expected layers.0.weight and so on")
        return {"obs_dim": sizes[0], "act_dim": sizes[-1], "hidden": sizes[1:-1]}


@register_policy
class ActorCritic(TrainablePolicy):
    """Actor and critic on one backbone, for PPO.

    Actions come from a Gaussian around the actor's mean action; its width does not depend on the state. obs_dim and
    act_dim are the widths of observation and action, hidden the widths of the backbone (default 256, 256); history is
    the number of observations it reads. activation and rng are as in MLP. log_std (act_dim,) starts from the standard
    deviation initial_std. The weights of the actor head start a hundred times smaller than usual, so that the first
    actions are near zero.
    Raises ValueError for a width or history that is not a positive integer, a standard deviation that is not positive,
    or an unknown activation.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int] | None = None,
        *,
        initial_std: float = 0.6,
        history: int = 1,
        activation: str = "tanh",
        rng: np.random.Generator | None = None,
    ):
        sizes = layer_sizes(obs_dim, act_dim, hidden, history)
        self.hidden, self.activation = sizes[1:-1], check_activation(activation)
        rng = np.random.default_rng() if rng is None else rng
        self.backbone = [_linear(a, b, rng) for a, b in zip(sizes[:-2], sizes[1:-1])]
        self.actor_head = _linear(sizes[-2], sizes[-1], rng, scale=0.01)
        self.critic_head = _linear(sizes[-2], 1, rng)
        # Last, so that log_std is the last weight, as it is in checkpoints.
        super().__init__(obs_dim, act_dim, history=history, initial_std=initial_std)
        Tensor.realize(*self.parameters())

    def forward_actor_critic(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean action and value. obs (B, history * obs_dim) -> (B, act_dim) in [-1, 1], (B, 1).

        Raises ValueError for another shape.
        """
        both = self.output(obs)
        return both[:, : self.act_dim].tanh(), both[:, self.act_dim :]

    def output(self, obs: Tensor) -> Tensor:
        """Compute [mean before tanh | value] for PPO. obs (B, history * obs_dim) -> (B, act_dim + 1).

        Raises like `forward`.
        """
        _check_width(obs, self.obs_dim, self.history)
        return _pass(obs, self.backbone, (self.actor_head, self.critic_head), self.activation)

    def get_action_and_value(self, obs: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return an action, its log probability, the entropy and the value.

        obs (B, history * obs_dim) -> (B, act_dim), three times (B,). Without an action, one is drawn from the Gaussian
        (tinygrad's random state) and not clipped. Logarithms are natural. Raises ValueError for another shape.
        """
        mean, value = self.forward_actor_critic(obs)
        if action is None:
            action = (mean + self.log_std.exp() * Tensor.randn(*mean.shape)).detach()
        elif action.shape != mean.shape:
            raise ValueError(f"got actions of shape {tuple(action.shape)}; expected {tuple(mean.shape)}")
        standardized = (action - mean) * (-self.log_std).exp()
        log_prob = -(0.5 * standardized.square() + self.log_std + 0.5 * LOG_2PI).sum(axis=1)
        entropy = (self.log_std + 0.5 + 0.5 * LOG_2PI).sum().expand(mean.shape[0])
        return action, log_prob, entropy, value.squeeze(1)

    @classmethod
    def infer_arguments(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Infer obs_dim (times history), act_dim and hidden from the shapes of `backbone.{i}` and the heads.

        Raises ValueError for other shapes.
        """
        sizes = chain(shapes, "backbone")
        num_inputs, act_dim = width(shapes, "actor_head", sizes[-1] if sizes else None)
        if width(shapes, "critic_head", num_inputs)[1] != 1 or shapes.get("log_std") != (act_dim,):
            raise ValueError(
                f"got critic_head.weight {shapes['critic_head.weight']} and log_std {shapes.get('log_std')}; "
                f"expected (1, {num_inputs}) and ({act_dim},)"
            )
        return {"obs_dim": (sizes or [num_inputs])[0], "act_dim": act_dim, "hidden": sizes[1:]}

    def actor(self) -> MLP:
        """Return an MLP for the robot: it computes the same actions, with its own copy of the weights."""
        return _exported(self, MLP)


@register_policy
class PrivilegedActorCritic(TrainablePolicy):
    """An actor like ActorCritic's, with a separate critic network that reads simulator-only observations.

    These privileged observations are (B, critic_dim). critic_hidden are the widths of the critic's layers, by default
    the actor's; the other arguments are those of ActorCritic. Source: Pinto et al. 2018, "Asymmetric Actor Critic for
    Image-Based Robot Learning". Raises like ActorCritic.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        critic_dim: int,
        hidden: Sequence[int] | None = None,
        *,
        critic_hidden: Sequence[int] | None = None,
        initial_std: float = 0.6,
        history: int = 1,
        activation: str = "tanh",
        rng: np.random.Generator | None = None,
    ):
        sizes = layer_sizes(obs_dim, act_dim, hidden, history)
        critic_sizes = layer_sizes(critic_dim, 1, hidden if critic_hidden is None else critic_hidden)
        self.hidden, self.critic_hidden, self.activation = sizes[1:-1], critic_sizes[1:-1], check_activation(activation)
        rng = np.random.default_rng() if rng is None else rng
        self.backbone = [_linear(a, b, rng) for a, b in zip(sizes[:-2], sizes[1:-1])]
        self.actor_head = _linear(sizes[-2], sizes[-1], rng, scale=0.01)
        self.critic = [_linear(a, b, rng) for a, b in zip(critic_sizes[:-1], critic_sizes[1:])]
        # Last, as in ActorCritic.
        super().__init__(obs_dim, act_dim, critic_dim=critic_dim, history=history, initial_std=initial_std)
        Tensor.realize(*self.parameters())

    def forward(self, obs: Tensor) -> Tensor:
        """Compute mean actions in [-1, 1]. obs (B, history * obs_dim) -> (B, act_dim).

        Raises ValueError for another shape.
        """
        _check_width(obs, self.obs_dim, self.history)
        return _pass(obs, self.backbone, [self.actor_head], self.activation).tanh()

    def output(self, obs: Tensor, critic_obs: Tensor) -> Tensor:
        """Compute [mean before tanh | value] for PPO.

        obs (B, history * obs_dim), critic_obs (C, critic_dim) -> (B, act_dim + 1). C may be less than B: the values of
        the other rows are 0. Raises ValueError for another shape.
        """
        _check_width(obs, self.obs_dim, self.history)
        _check_width(critic_obs, self.critic_dim)
        value = _pass(critic_obs, self.critic[:-1], self.critic[-1:], self.activation)
        mean = _pass(obs, self.backbone, [self.actor_head], self.activation)
        return mean.cat(value.pad(((0, obs.shape[0] - value.shape[0]), (0, 0))), dim=1)

    @classmethod
    def infer_arguments(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Infer obs_dim (times history), act_dim, critic_dim and the layers' widths from the shapes.

        Raises ValueError for other shapes.
        """
        sizes, critic_sizes = chain(shapes, "backbone"), chain(shapes, "critic")
        num_inputs, act_dim = width(shapes, "actor_head", sizes[-1] if sizes else None)
        if critic_sizes[-1:] != [1] or shapes.get("log_std") != (act_dim,):
            raise ValueError(
                f"got a critic of widths {critic_sizes} beside an actor of {[*(sizes or [num_inputs]), act_dim]} and log_std "
                f"{shapes.get('log_std')}; expected one value, and ({act_dim},)"
            )
        return {
            "obs_dim": (sizes or [num_inputs])[0],
            "act_dim": act_dim,
            "critic_dim": critic_sizes[0],
            "hidden": sizes[1:],
            "critic_hidden": critic_sizes[1:-1],
        }

    def actor(self) -> MLP:
        """Return an MLP for the robot, like ActorCritic.actor; a robot needs no critic."""
        return _exported(self, MLP)


class JitPolicy(Policy):
    """Wraps a policy in TinyJit: the first call with a shape is traced, later calls replay it.

    Saving and loading apply to the policy inside.

    Policy compiles its own calls; use this class for a policy whose own `__call__` does not. Raises TypeError unless
    policy is a Policy.
    """

    def __init__(self, policy: Policy):
        if not isinstance(policy, Policy):
            raise TypeError(f"got {type(policy).__name__}; expected a Policy to wrap")
        self.policy, self.history, self.chooses = policy, policy_history(policy), policy.chooses

    def forward(self, obs: Tensor) -> Tensor:
        """Run the policy inside. obs (B, obs_dim) -> (B, act_dim)."""
        return self.policy.forward(obs)

    def save(self, path: str | Path, **bundle: Any) -> Path:
        """Save the policy inside with `Policy.save`."""
        return self.policy.save(path, **bundle)

    @classmethod
    def load(cls, path: str | Path) -> JitPolicy:
        """Load the policy at path and wrap it. Raises like `Policy.load`."""
        return cls(Policy.load(path))


def go2_mlp(hidden: Sequence[int] | None = None) -> MLP:
    """Make an MLP for the Go2: 48 observations, 12 joint actions."""
    return MLP(48, 12, hidden)


def go2_actor_critic(hidden: Sequence[int] | None = None, **options) -> ActorCritic:
    """Make an ActorCritic for the Go2: 48 observations, 12 joint actions; options are keywords of ActorCritic."""
    return ActorCritic(48, 12, hidden, **options)
