"""The settings of PPO and its networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rfx.policy.actor import ACTIVATIONS
from rfx.settings.terms import nearest

CRITICS = ("shared", "privileged")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The network: its layers, the inputs of actor and critic, and how widely the policy explores.

    initial_std and final_std limit the standard deviation of exploration at the start and at the end of the run.
    """

    hidden: tuple[int, ...] = (256, 256)  # widths of the actor's hidden layers; a shared critic uses the same layers
    critic_hidden: tuple[int, ...] | None = None  # widths of a privileged critic's hidden layers; null: the actor's
    activation: str = "tanh"  # after every hidden layer
    network: str | None = None  # MODULE:CLASS, a network of the user's own in place of these layers: docs/nn.md
    network_kwargs: Mapping[str, Any] = field(default_factory=dict)  # further arguments of its constructor
    history: int = 1  # the actor reads this many last observations
    critic: str = "shared"  # or privileged: the critic has its own network, which reads critic_terms
    # The privileged quantities that the critic reads, in order; null: everything that the environment offers
    critic_terms: tuple[str, ...] | None = None
    initial_std: float = 0.6
    final_std: float = 0.15
    symmetric: bool = False  # the policy treats left and right exactly alike

    def __post_init__(self) -> None:
        for name, widths in (("hidden", self.hidden), ("critic_hidden", self.critic_hidden)):
            if widths is not None and (not widths or min(widths) < 1):
                raise ValueError(
                    f"policy.{name} is {list(widths)}: it must be a list of layer widths of at least 1, "
                    "such as [256,256]"
                )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"policy.activation is {self.activation!r}: {nearest(self.activation, ACTIVATIONS)}")
        if self.history < 1:
            raise ValueError(f"policy.history is {self.history}: it must be a number of observations, 1 or more")
        if self.critic not in CRITICS:
            raise ValueError(f"policy.critic is {self.critic!r}: {nearest(self.critic, CRITICS)}")
        if self.critic_hidden is not None and self.critic != "privileged":
            raise ValueError(
                f"policy.critic_hidden is {list(self.critic_hidden)}: a shared critic has the actor's "
                "layers; add policy.critic=privileged, or leave it null"
            )
        self._check_network()
        if self.critic_terms is not None and not self.critic_terms:
            raise ValueError(
                "policy.critic_terms names no terms: it must name what a privileged critic reads, such as [observation]"
            )
        for name in ("initial_std", "final_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"policy.{name} is {getattr(self, name)}: it must be positive")

    def _check_network(self) -> None:
        """Raises ValueError for settings that a user's network excludes, or that need a user's network."""
        if self.network is None:
            if self.network_kwargs:
                raise ValueError(
                    f"policy.network_kwargs is {dict(self.network_kwargs)}: it needs "
                    "policy.network=MODULE:CLASS, whose constructor takes it"
                )
            return
        if self.symmetric:
            raise ValueError(
                "policy.symmetric is true: rfx mirrors the weights of its own layers and does not know "
                f"those of {self.network}; set policy.symmetric=false"
            )
        for name in ("activation", "critic_hidden"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(
                    f"policy.{name} is {getattr(self, name)!r}: it is of rfx's own networks, and "
                    f"policy.network is {self.network}; give your class's own settings as "
                    "policy.network_kwargs"
                )


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """The settings of PPO. Raises ValueError for a number out of range."""

    num_epochs: int = 5
    num_minibatches: int = 4
    learning_rate: float = 1e-3
    desired_kl: float | None = 0.02  # the learning rate adapts to reach this KL; None: it does not adapt
    # Learning rate at the end of the run, linear decay; needs desired_kl None. None: no decay
    final_learning_rate: float | None = None
    gamma: float = 0.98
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_coefficient: float = 0.001
    value_coefficient: float = 0.5
    max_gradient_norm: float = 1.0
    normalize_reward: bool = False  # divide rewards by the running standard deviation of discounted returns

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_epochs", 1, np.inf),
            ("num_minibatches", 1, np.inf),
            ("learning_rate", 0.0, 1.0),
            ("gamma", 0.0, 1.0),
            ("gae_lambda", 0.0, 1.0),
            ("clip", 0.0, 1.0),
            ("entropy_coefficient", 0.0, np.inf),
            ("value_coefficient", 0.0, np.inf),
            ("max_gradient_norm", 1e-9, np.inf),
            ("desired_kl", 0.0, np.inf),
            ("final_learning_rate", 0.0, 1.0),
        ):
            value, whole = getattr(self, name), name.startswith("num_")
            if name in ("desired_kl", "final_learning_rate") and value is None:
                continue
            if not low <= value <= high or whole and not float(value).is_integer():
                raise ValueError(
                    f"got {name} {value}, expected {'an integer' if whole else 'a number'} from {low:g} to {high:g}"
                )
        if self.final_learning_rate is not None and self.desired_kl is not None:
            raise ValueError(
                f"got final_learning_rate {self.final_learning_rate} and desired_kl {self.desired_kl}: one of the two must be null, "
                "because desired_kl leads the learning rate by itself"
            )
