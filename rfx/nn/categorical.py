"""Networks that choose one of several actions: their outputs are unnormalized log-probabilities (logits), one for each
choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tinygrad import Tensor

from rfx.nn.dense import mlp
from rfx.nn.networks import MLP, _check_width, _linear, _pass, _sizes
from rfx.nn.policy import Policy, register_policy
from rfx.policy.actor import chain, width


@register_policy
class CategoricalMLP(MLP):
    """An MLP with tanh after every layer but the last: the largest of its act_dim outputs is the choice.

    Arguments as MLP's.
    """

    def forward(self, obs: Tensor) -> Tensor:
        """Logits. obs (B, history * obs_dim) -> (B, act_dim). Raises ValueError for another shape."""
        _check_width(obs, self.obs_dim, self.history)
        return mlp(obs, [layer.weight for layer in self.layers], [layer.bias for layer in self.layers])


@register_policy
class CategoricalActorCritic(Policy):
    """Actor and critic on one tanh backbone, for PPO, as ActorCritic, but for act_dim choices.

    The first ones are nearly even.

    Weight names are ActorCritic's, without log_std. Raises ValueError for a width or history that is not a positive
    integer.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int] | None = None,
        *,
        history: int = 1,
        rng: np.random.Generator | None = None,
    ):
        sizes = _sizes(obs_dim, act_dim, hidden, history)
        self.obs_dim, self.act_dim, self.hidden, self.history = int(obs_dim), sizes[-1], sizes[1:-1], int(history)
        rng = np.random.default_rng() if rng is None else rng
        self.backbone = [_linear(a, b, rng) for a, b in zip(sizes[:-2], sizes[1:-1])]
        self.actor_head = _linear(sizes[-2], self.act_dim, rng, scale=0.01)
        self.critic_head = _linear(sizes[-2], 1, rng)
        Tensor.realize(*self.parameters())

    def forward(self, obs: Tensor) -> Tensor:
        """Logits. obs (B, history * obs_dim) -> (B, act_dim). Raises ValueError for another shape."""
        return self.output(obs)[:, : self.act_dim]

    def output(self, obs: Tensor) -> Tensor:
        """[logits | value], what PPO learns on. obs (B, history * obs_dim) -> (B, act_dim + 1). Raises as `forward`."""
        _check_width(obs, self.obs_dim, self.history)
        return _pass(obs, self.backbone, (self.actor_head, self.critic_head))

    @classmethod
    def infer_arguments(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """obs_dim (times history), act_dim and hidden, as the shapes of `backbone.{i}` and the heads tell.

        Raises ValueError otherwise.
        """
        sizes = chain(shapes, "backbone")
        num_inputs, act_dim = width(shapes, "actor_head", sizes[-1] if sizes else None)
        if width(shapes, "critic_head", num_inputs)[1] != 1 or "log_std" in shapes:
            raise ValueError(
                f"got critic_head.weight {shapes['critic_head.weight']} and log_std {shapes.get('log_std')}; "
                f"expected (1, {num_inputs}) and none"
            )
        return {"obs_dim": (sizes or [num_inputs])[0], "act_dim": act_dim, "hidden": sizes[1:]}

    def actor(self) -> CategoricalMLP:
        """The network that makes the same choices, with weights of its own."""
        history = {"history": self.history} if self.history > 1 else {}
        exported = CategoricalMLP(self.obs_dim, self.act_dim, self.hidden, **history)
        for layer, source in zip(exported.layers, [*self.backbone, self.actor_head]):
            layer.weight, layer.bias = source.weight.clone().realize(), source.bias.clone().realize()
        return exported
