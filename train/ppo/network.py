"""The network of a run, as its configuration and its environment ask for it."""

from __future__ import annotations

import gymnasium
import numpy as np

from rfx.nn import ActorCritic, CategoricalActorCritic, PrivilegedActorCritic
from train.ppo.config import PolicyConfig
from train.ppo.rollout import Array, Rollout


class Shape:
    """What the policy of a config observes and does, from what its environments show (by part, (N, D)) and their action
    space.
    """

    def __init__(self, policy: PolicyConfig, observation: dict[str, Array], actions: gymnasium.Space, state_dim: int):
        self.policy, self.state_dim = policy, state_dim
        self.choices = isinstance(actions, gymnasium.spaces.Discrete)
        self.action_dim = int(actions.n) if self.choices else actions.shape[0]
        self.critic_dim = observation["critic"].shape[1] if policy.critic == "privileged" else 0

    def network(
        self, rng: np.random.Generator | None = None
    ) -> ActorCritic | PrivilegedActorCritic | CategoricalActorCritic:
        """A new network, its weights drawn from rng."""
        policy = self.policy
        kind = CategoricalActorCritic if self.choices else PrivilegedActorCritic if self.critic_dim else ActorCritic
        sizes = (self.state_dim, self.action_dim, *([self.critic_dim] if self.critic_dim else []), list(policy.hidden))
        return kind(
            *sizes, **({} if self.choices else {"initial_std": policy.initial_std}), history=policy.history, rng=rng
        )

    def rollout(self, num_steps: int, num_envs: int) -> Rollout:
        """An empty one of num_steps steps of num_envs environments."""
        return Rollout.empty(
            num_steps,
            num_envs,
            self.state_dim,
            self.action_dim,
            history=self.policy.history,
            critic_dim=self.critic_dim,
        )
