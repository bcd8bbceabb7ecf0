"""Makes the network of a run from its configuration and its environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from tinygrad import Tensor

from rfx.nn import ActorCritic, CategoricalActorCritic, PrivilegedActorCritic, TrainablePolicy
from rfx.settings.terms import find_foreign
from train.ppo.config import PolicyConfig
from train.ppo.rollout import Array, Rollout


class Shape:
    """The sizes of a policy's inputs and outputs.

    They come from an observation of its environments (by part, (N, D)), their action space, and state_dim.
    """

    def __init__(self, policy: PolicyConfig, observation: dict[str, Array], actions: gymnasium.Space, state_dim: int):
        self.policy, self.state_dim = policy, state_dim
        self.choices = isinstance(actions, gymnasium.spaces.Discrete)
        self.action_dim = int(actions.n) if self.choices else actions.shape[0]
        self.critic_dim = observation["critic"].shape[1] if policy.critic == "privileged" else 0

    def network(self, rng: np.random.Generator | None = None) -> TrainablePolicy:
        """Make a new network, with weights drawn from rng.

        Raises ValueError for a user's class that PPO cannot train.
        """
        policy = self.policy
        options: dict[str, Any] = {"critic_dim": self.critic_dim} if self.critic_dim else {}
        options |= {"history": policy.history} | ({} if self.choices else {"initial_std": policy.initial_std})
        if policy.network:
            return self._own_network(policy.network, options, rng)
        kind = CategoricalActorCritic if self.choices else PrivilegedActorCritic if self.critic_dim else ActorCritic
        if self.critic_dim and policy.critic_hidden is not None:
            options["critic_hidden"] = list(policy.critic_hidden)
        if policy.activation != "tanh":
            options["activation"] = policy.activation
        return kind(self.state_dim, self.action_dim, hidden=list(policy.hidden), rng=rng, **options)

    def _own_network(self, name: str, options: Mapping[str, Any], rng: np.random.Generator | None) -> TrainablePolicy:
        """Make the user's network, of the class called name."""
        arguments = self.policy.network_kwargs
        try:
            cls = find_foreign(name)
        except ValueError as error:
            raise ValueError(f"policy.network: {error}") from error
        if not (isinstance(cls, type) and issubclass(cls, TrainablePolicy)):
            raise ValueError(
                f"policy.network is {name}, which is {cls!r}: it must be a subclass of rfx.nn.TrainablePolicy"
            )
        if cls.chooses != self.choices:
            raise ValueError(
                f"policy.network is {name}, whose chooses is {cls.chooses}: it must be {self.choices} for "
                f"{'choices' if self.choices else 'actions of a Box'}"
            )
        if rng is not None:
            Tensor.manual_seed(int(rng.integers(2**31)))  # tinygrad's own layers draw from its global state
        try:
            policy = cls(self.state_dim, self.action_dim, **options, **arguments)
            widths = self.state_dim * policy.history, self.critic_dim
            output = policy.output(*(Tensor.zeros(2, width) for width in widths if width))
        except Exception as error:  # whatever a user's class raises
            told = " ".join(str(error).split())
            raise ValueError(
                f"policy.network is {name}, which raised {type(error).__name__} where it is made with "
                f"{', '.join([*options, *arguments])} and shown zeros: {told}"
            ) from error
        given = self.state_dim, self.action_dim, self.critic_dim, self.policy.history
        own = policy.obs_dim, policy.act_dim, policy.critic_dim, policy.history
        if own != given:
            raise ValueError(
                f"policy.network is {name}, whose obs_dim, act_dim, critic_dim and history are {own}: it "
                f"must pass on to TrainablePolicy's constructor what its own is given, {given}"
            )
        if output.shape != (2, self.action_dim + 1):
            raise ValueError(
                f"policy.network is {name}, whose output has shape {output.shape} for 2 observations: it "
                f"must be {(2, self.action_dim + 1)}, a mean for each action and the value"
            )
        return policy

    def rollout(self, num_steps: int, num_envs: int) -> Rollout:
        """Make an empty rollout of num_steps steps of num_envs environments."""
        return Rollout.empty(
            num_steps,
            num_envs,
            self.state_dim,
            self.action_dim,
            history=self.policy.history,
            critic_dim=self.critic_dim,
        )
