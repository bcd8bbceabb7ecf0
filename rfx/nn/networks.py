"""The networks: MLP, ActorCritic, and their Go2 sizes. Every forward pass goes through `rfx.nn.dense.mlp`.

Weight names, as saved, `.bias` beside each `.weight`: `layers.{i}.weight` (MLP); `backbone.{i}.weight`, `actor_head.weight`,
`critic_head.weight`, `log_std` (ActorCritic).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfx.nn.dense import mlp
from rfx.nn.policy import Policy, register_policy
from tinygrad import Tensor
from tinygrad.nn import Linear

HIDDEN = (256, 256)
LOG_2PI = math.log(2.0 * math.pi)


def _sizes(obs_dim: int, act_dim: int, hidden: Sequence[int] | None) -> list[int]:
    """Widths of all layers, input to output. Raises ValueError unless all are positive integers."""
    sizes = [obs_dim, *(HIDDEN if hidden is None else hidden), act_dim]
    if not all(isinstance(size, (int, np.integer)) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise ValueError(f"got layer widths {sizes}; expected positive integers for obs_dim, hidden and act_dim")
    return [int(size) for size in sizes]


def _linear(num_inputs: int, num_outputs: int, rng: np.random.Generator, scale: float = 1.0) -> Linear:
    """A linear layer; weights and biases uniform within scale / sqrt(num_inputs), as tinygrad and torch have it."""
    bound = scale / math.sqrt(num_inputs)
    layer = Linear.__new__(Linear)  # its __init__ draws from tinygrad's global random state, and compiles kernels to do so
    layer.weight = Tensor(rng.uniform(-bound, bound, (num_outputs, num_inputs)).astype(np.float32))
    layer.bias = Tensor(rng.uniform(-bound, bound, num_outputs).astype(np.float32))
    return layer


def _check_width(obs: Tensor, obs_dim: int) -> None:
    if obs.ndim != 2 or obs.shape[1] != obs_dim:
        raise ValueError(f"got observations of shape {tuple(obs.shape)}; expected (batch, {obs_dim})")


def _width(shapes: Mapping[str, tuple[int, ...]], name: str, num_inputs: int | None = None) -> tuple[int, int]:
    """Inputs and outputs of the linear layer called name. Raises ValueError unless these shapes have it, with num_inputs inputs."""
    weight, bias = shapes.get(f"{name}.weight", ()), shapes.get(f"{name}.bias", ())
    if len(weight) != 2 or bias != weight[:1] or 0 in weight or num_inputs not in (None, weight[1]):
        raise ValueError(f"got {name}.weight of shape {weight} and {name}.bias of shape {bias}; "
                         f"expected (out, {num_inputs or 'in'}) and (out,)")
    return weight[1], weight[0]


def _chain(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> list[int]:
    """Widths of the layers prefix.0, prefix.1, ..., input to output; none without layers. Raises ValueError where two do not fit."""
    sizes: list[int] = []
    while f"{prefix}.{max(len(sizes) - 1, 0)}.weight" in shapes:
        num_inputs, num_outputs = _width(shapes, f"{prefix}.{max(len(sizes) - 1, 0)}", sizes[-1] if sizes else None)
        sizes += [num_outputs] if sizes else [num_inputs, num_outputs]
    return sizes


@register_policy
class MLP(Policy):
    """Multilayer perceptron with tanh after every layer, the last included: actions lie in [-1, 1].

    obs_dim and act_dim are the widths of observation and action, hidden those between (default 256, 256).
    rng draws the initial weights: equal generators make equal networks. Without it, every network is another.
    Raises ValueError for a width that is not a positive integer.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int] | None = None, *, rng: np.random.Generator | None = None):
        sizes = _sizes(obs_dim, act_dim, hidden)
        self.obs_dim, self.act_dim, self.hidden = sizes[0], sizes[-1], sizes[1:-1]
        rng = np.random.default_rng() if rng is None else rng
        self.layers = [_linear(a, b, rng) for a, b in zip(sizes[:-1], sizes[1:])]
        Tensor.realize(*self.parameters())

    def forward(self, obs: Tensor) -> Tensor:
        """Actions in [-1, 1]. obs (B, obs_dim) -> (B, act_dim). Raises ValueError for another shape."""
        _check_width(obs, self.obs_dim)
        return mlp(obs, [layer.weight for layer in self.layers], [layer.bias for layer in self.layers]).tanh()

    @classmethod
    def infer_arguments(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """obs_dim, act_dim and hidden, as the shapes of `layers.{i}` tell. Raises ValueError where they do not."""
        sizes = _chain(shapes, "layers")
        if not sizes:
            raise ValueError(f"got weights {', '.join(shapes) or 'none'}; expected layers.0.weight and so on")
        return {"obs_dim": sizes[0], "act_dim": sizes[-1], "hidden": sizes[1:-1]}


@register_policy
class ActorCritic(Policy):
    """Actor and critic on one tanh backbone, for PPO: a Gaussian of state-independent width around the actor's mean action.

    obs_dim and act_dim are the widths of observation and action, hidden those of the backbone (default 256, 256).
    rng draws the initial weights, as MLP's; initial_std is the standard deviation that log_std (act_dim,) starts from.
    The actor head starts a hundred times smaller than usual, so that the first actions are near zero.
    Raises ValueError for a width that is not a positive integer, or a standard deviation that is not positive.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int] | None = None, *, initial_std: float = 0.6,
                 rng: np.random.Generator | None = None):
        sizes = _sizes(obs_dim, act_dim, hidden)
        if not 0.0 < initial_std < math.inf:
            raise ValueError(f"got initial_std {initial_std}; expected a positive finite number")
        self.obs_dim, self.act_dim, self.hidden = sizes[0], sizes[-1], sizes[1:-1]
        rng = np.random.default_rng() if rng is None else rng
        self.backbone = [_linear(a, b, rng) for a, b in zip(sizes[:-2], sizes[1:-1])]
        self.actor_head = _linear(sizes[-2], self.act_dim, rng, scale=0.01)
        self.critic_head = _linear(sizes[-2], 1, rng)
        self.log_std = Tensor(np.full(self.act_dim, math.log(initial_std), np.float32))
        Tensor.realize(*self.parameters())

    def forward(self, obs: Tensor) -> Tensor:
        """Mean actions in [-1, 1]. obs (B, obs_dim) -> (B, act_dim). Raises ValueError for another shape."""
        return self.forward_actor_critic(obs)[0]

    def forward_actor_critic(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean action and value. obs (B, obs_dim) -> (B, act_dim) in [-1, 1], (B, 1). Raises ValueError for another shape."""
        _check_width(obs, self.obs_dim)
        heads = (self.actor_head, self.critic_head)
        both = mlp(obs, [*(layer.weight for layer in self.backbone), [head.weight for head in heads]],
                   [*(layer.bias for layer in self.backbone), [head.bias for head in heads]])
        return both[:, :self.act_dim].tanh(), both[:, self.act_dim:]

    def get_action_and_value(self, obs: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """An action with its log probability, the entropy and the value. obs (B, obs_dim) -> (B, act_dim), (B,), (B,), (B,).

        Without an action, one is drawn from the Gaussian (tinygrad's random state); it is not clipped. Natural logarithms.
        Raises ValueError for another shape.
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
        """obs_dim, act_dim and hidden, as the shapes of `backbone.{i}` and the heads tell. Raises ValueError where they do not."""
        sizes = _chain(shapes, "backbone")
        num_inputs, act_dim = _width(shapes, "actor_head", sizes[-1] if sizes else None)
        if _width(shapes, "critic_head", num_inputs)[1] != 1 or shapes.get("log_std") != (act_dim,):
            raise ValueError(f"got critic_head.weight {shapes['critic_head.weight']} and log_std {shapes.get('log_std')}; "
                             f"expected (1, {num_inputs}) and ({act_dim},)")
        return {"obs_dim": (sizes or [num_inputs])[0], "act_dim": act_dim, "hidden": sizes[1:]}

    def actor(self) -> MLP:
        """The MLP that computes the same actions, with weights of its own: what a robot needs of this network."""
        policy = MLP(self.obs_dim, self.act_dim, self.hidden)
        for layer, source in zip(policy.layers, [*self.backbone, self.actor_head]):
            layer.weight, layer.bias = source.weight.clone().realize(), source.bias.clone().realize()
        return policy


class JitPolicy(Policy):
    """A policy behind TinyJit: the first call of a shape traces, later ones replay. Saves and loads as the policy inside.

    Every Policy compiles its own calls; this class is for a policy whose `__call__` does not. Raises TypeError unless policy is a Policy.
    """

    def __init__(self, policy: Policy):
        if not isinstance(policy, Policy):
            raise TypeError(f"got {type(policy).__name__}; expected a Policy to wrap")
        self.policy = policy

    def forward(self, obs: Tensor) -> Tensor:
        """What the policy inside computes. obs (B, obs_dim) -> (B, act_dim)."""
        return self.policy.forward(obs)

    def save(self, path: str | Path, **bundle: Any) -> Path:
        """Save the policy inside, as `Policy.save` does."""
        return self.policy.save(path, **bundle)

    @classmethod
    def load(cls, path: str | Path) -> JitPolicy:
        """The policy at path, wrapped anew. Raises as `Policy.load` does."""
        return cls(Policy.load(path))


def go2_mlp(hidden: Sequence[int] | None = None) -> MLP:
    """An MLP for the Go2: 48 observations, 12 joint actions."""
    return MLP(48, 12, hidden)


def go2_actor_critic(hidden: Sequence[int] | None = None, **options) -> ActorCritic:
    """An ActorCritic for the Go2: 48 observations, 12 joint actions; options are ActorCritic's keywords."""
    return ActorCritic(48, 12, hidden, **options)
