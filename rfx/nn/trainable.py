"""The base class of every network that PPO trains: rfx's own actor-critics and those of users."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
from tinygrad import Tensor

from rfx.nn.policy import Policy

HIDDEN = (256, 256)


class TrainablePolicy(Policy):
    """A network that PPO trains, with an actor and a critic.

    Its actions lie in [-1, 1]; if `chooses` is True, it chooses one of act_dim actions instead. A subclass calls this
    constructor, makes its layers and defines `output`. Actions come from a Gaussian around tanh of the mean. log_std
    (act_dim,) does not depend on the observation and starts from initial_std; networks that choose have no log_std.
    history is the number of observations the network reads. critic_dim is the width of a privileged critic's
    observation, 0 without one; a subclass with such a critic also defines `forward`. Raises ValueError for a width or
    history that is not a positive integer, or a standard deviation that is not positive.
    """

    def __init__(self, obs_dim: int, act_dim: int, *, critic_dim: int = 0, history: int = 1, initial_std: float = 0.6):
        layer_sizes(obs_dim, act_dim, (), history)
        self.obs_dim, self.act_dim = int(obs_dim), int(act_dim)
        self.critic_dim, self.history = int(critic_dim), int(history)
        if not self.chooses:
            self.log_std = _log_std(self.act_dim, initial_std)

    def output(self, obs: Tensor, critic_obs: Tensor | None = None) -> Tensor:
        """Compute [mean before tanh, or logits | value] for PPO.

        obs (B, history * obs_dim) -> (B, act_dim + 1), float32. critic_obs (B, critic_dim) is given only to a
        privileged critic. Raises NotImplementedError unless overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define output(obs)")

    def forward(self, obs: Tensor) -> Tensor:
        """Compute mean actions in [-1, 1], or logits. obs (B, history * obs_dim) -> (B, act_dim).

        Raises like `output`.
        """
        mean = self.output(obs)[:, : self.act_dim]
        return mean if self.chooses else mean.tanh()

    def actor(self) -> Policy:
        """Return the part of this network that a robot needs, with its own weights; by default a full copy."""
        return copy.deepcopy(self)


def layer_sizes(obs_dim: int, act_dim: int, hidden: Sequence[int] | None, history: int = 1) -> list[int]:
    """Widths of all layers, input to output. Raises ValueError unless they and history are positive integers."""
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
    """Logarithms of the initial standard deviations for exploration. (act_dim,).

    Raises ValueError unless initial_std is positive.
    """
    if not 0.0 < initial_std < math.inf:
        raise ValueError(f"got initial_std {initial_std}; expected a positive finite number")
    return Tensor(np.full(act_dim, math.log(initial_std), np.float32))
