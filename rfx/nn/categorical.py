"""Networks that choose one of several actions.

They have one output for each choice: its unnormalized log-probability (logit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tinygrad import Tensor

from rfx.nn.networks import MLP, _check_width, _exported, _linear, _pass
from rfx.nn.policy import register_policy
from rfx.nn.trainable import TrainablePolicy, layer_sizes
from rfx.policy.actor import chain, check_activation, width


@register_policy
class CategoricalMLP(MLP):
    """An MLP without tanh after the last layer; the index of the largest of its act_dim outputs is the choice.

    It takes the arguments of MLP.
    """

    chooses = True

    def forward(self, obs: Tensor) -> Tensor:
        """Compute logits. obs (B, history * obs_dim) -> (B, act_dim). Raises ValueError for another shape."""
        return self._before_tanh(obs)


@register_policy
class CategoricalActorCritic(TrainablePolicy):
    """Actor and critic on one backbone, for PPO, that chooses one of act_dim actions.

    At first all choices are nearly equally likely. Weight names are those of ActorCritic, without log_std. Raises
    ValueError for a width or history that is not a positive integer, or for an unknown activation.
    """

    chooses = True

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
        super().__init__(obs_dim, act_dim, history=history)
        self.hidden, self.activation = sizes[1:-1], check_activation(activation)
        rng = np.random.default_rng() if rng is None else rng
        self.backbone = [_linear(a, b, rng) for a, b in zip(sizes[:-2], sizes[1:-1])]
        self.actor_head = _linear(sizes[-2], self.act_dim, rng, scale=0.01)
        self.critic_head = _linear(sizes[-2], 1, rng)
        Tensor.realize(*self.parameters())

    def output(self, obs: Tensor) -> Tensor:
        """Compute [logits | value] for PPO. obs (B, history * obs_dim) -> (B, act_dim + 1). Raises like `forward`."""
        _check_width(obs, self.obs_dim, self.history)
        return _pass(obs, self.backbone, (self.actor_head, self.critic_head), self.activation)

    @classmethod
    def infer_arguments(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Infer obs_dim (times history), act_dim and hidden from the shapes of `backbone.{i}` and the heads.

        Raises ValueError for other shapes.
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
        """Return a network that makes the same choices, with its own copy of the weights."""
        return _exported(self, CategoricalMLP)
