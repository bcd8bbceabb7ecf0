"""The base of every network that PPO trains: rfx's own actor-critics, and those that users write."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
from tinygrad import Tensor

from rfx.nn.policy import Policy

HIDDEN = (256, 256)


class TrainablePolicy(Policy):
    """A network that PPO trains: an actor and a critic, for actions in [-1, 1] or, where `chooses` is True, choices.

    A subclass calls this constructor, makes its layers and defines `output`. Its actions come from a Gaussian around
    tanh of the mean; log_std (act_dim,), which does not depend on the observation, starts from initial_std. Choices
    have none. history is how many observations it reads. critic_dim is the width of what a privileged critic reads, 0
    without one; a subclass with such a critic defines `forward` too. Raises ValueError for a width or history that is
    not a positive integer, or a standard deviation that is not positive.
    """

    def __init__(self, obs_dim: int, act_dim: int, *, critic_dim: int = 0, history: int = 1, initial_std: float = 0.6):
        layer_sizes(obs_dim, act_dim, (), history)
        self.obs_dim, self.act_dim = int(obs_dim), int(act_dim)
        self.critic_dim, self.history = int(critic_dim), int(history)
        if not self.chooses:
            self.log_std = _log_std(self.act_dim, initial_std)

    def output(self, obs: Tensor, critic_obs: Tensor | None = None) -> Tensor:
        """[mean before tanh, or logits | value], what PPO learns on.

        obs (B, history * obs_dim) -> (B, act_dim + 1), float32. critic_obs (B, critic_dim) is given with a privileged
        critic only. Raises NotImplementedError unless overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define output(obs)")

    def forward(self, obs: Tensor) -> Tensor:
        """Mean actions in [-1, 1], or logits. obs (B, history * obs_dim) -> (B, act_dim). Raises as `output`."""
        mean = self.output(obs)[:, : self.act_dim]
        return mean if self.chooses else mean.tanh()

    def actor(self) -> Policy:
        """What a robot needs of this network, with weights of its own: here a copy of all of it."""
        return copy.deepcopy(self)


def layer_sizes(obs_dim: int, act_dim: int, hidden: Sequence[int] | None, history: int = 1) -> list[int]:
    """Widths of all layers, input to output. Raises ValueError unless all, and history, are positive integers."""
    sizes = [obs_dim, *(HIDDEN if hidden is None else hidden), act_dim]
    if not all(
        isinstance(size, (int, np.integer)) and not isinstance(size, bool) and size > 0 for size in [*sizes, history]
    ):
        raise ValueError(
            f"got layer widths {sizes} and history {history!r}; expected positive integers for obs_dim, "
            "hidden, act_dim and history"
        )
    return [int(obs_dim * history), *map(int, sizes[1:])]


def _log_std(act_dim: int, initial_std: float) -> Tensor:
    """Logarithms of the standard deviations that exploration starts from.

    Raises ValueError for one that is not positive.
    """
    if not 0.0 < initial_std < math.inf:
        raise ValueError(f"got initial_std {initial_std}; expected a positive finite number")
    return Tensor(np.full(act_dim, math.log(initial_std), np.float32))
