"""What PPO and its networks can be told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfx.settings.terms import nearest

CRITICS = ("shared", "privileged")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The network: widths of its hidden layers, what actor and critic read, and how widely it explores.

    initial_std and final_std are the highest standard deviations of exploration at the start and the end of the run.
    """

    hidden: tuple[int, ...] = (256, 256)
    history: int = 1  # observations that the actor reads: the last ones
    critic: str = "shared"  # or privileged: a network of its own, of critic_terms
    critic_terms: tuple[str, ...] | None = (
        None  # of what the task's environment can tell a privileged critic, in order; null: all of it
    )
    initial_std: float = 0.6
    final_std: float = 0.15
    symmetric: bool = False  # acts to the left as it does to the right, exactly

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"policy.hidden is {list(self.hidden)}: it must be a list of layer widths of at least 1, such as [256,256]"
            )
        if self.history < 1:
            raise ValueError(f"policy.history is {self.history}: it must be a number of observations, 1 or more")
        if self.critic not in CRITICS:
            raise ValueError(f"policy.critic is {self.critic!r}: {nearest(self.critic, CRITICS)}")
        if self.critic_terms is not None and not self.critic_terms:
            raise ValueError(
                "policy.critic_terms names no terms: it must name what a privileged critic reads, such as [observation]"
            )
        for name in ("initial_std", "final_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"policy.{name} is {getattr(self, name)}: it must be positive")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """What PPO can be told. Raises ValueError for a number out of range."""

    num_epochs: int = 5
    num_minibatches: int = 4
    learning_rate: float = 1e-3
    desired_kl: float | None = 0.02  # leads the learning rate; None: it stays as it is set
    final_learning_rate: float | None = (
        None  # where a rate that no KL leads ends, linearly over the run; None: it stays
    )
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
