"""Reward scaling: divides rewards by the standard deviation of discounted returns.

Then one learning rate and one value coefficient suit tasks of any scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from train.ppo.rollout import Array, Rollout

EPSILON = 1e-8  # added to the variance; a smaller variance that is not 0 is doubled instead
LARGEST = 10.0  # scaled rewards are clipped to +- this


class RewardScale:
    """Running variance of the discounted return so far, over num_envs environments.

    Rewards are scaled but not centred, because centring would pay or charge for every further step. Engstrom et al.
    2020, "Implementation Matters in Deep RL", section 3, optimization 2.
    """

    def __init__(self, num_envs: int, gamma: float):
        self.gamma = gamma
        self.running_return, self.mean, self.var, self.count = np.zeros(num_envs), 0.0, 1.0, 0

    def scale(self, rollout: Rollout) -> None:
        """Add a rollout's rewards to the statistics, and scale them in place. Failed transitions do not count."""
        done, seen = rollout.terminated | rollout.truncated, []
        for reward, ended, failed in zip(rollout.reward, done, rollout.failed):
            self.running_return = np.where(failed, self.running_return, self.gamma * self.running_return + reward)
            seen.append(self.running_return[~failed])
            self.running_return = np.where(ended, 0.0, self.running_return)
        self._learn(np.concatenate(seen))
        scaled = rollout.reward / np.sqrt(self.var + (min(self.var, EPSILON) or EPSILON))
        np.clip(scaled, -LARGEST, LARGEST, out=rollout.reward, casting="same_kind")

    def _learn(self, returns: Array) -> None:
        """Update mean and variance by Chan, Golub, LeVeque 1979, equation 2.1, as in rfx/policy/normalizer.py."""
        if not len(returns):
            return
        total, delta = self.count + len(returns), returns.mean() - self.mean
        squares = self.var * self.count + returns.var() * len(returns) + delta**2 * self.count * len(returns) / total
        self.mean, self.var, self.count = float(self.mean + delta * len(returns) / total), float(squares / total), total

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next call depends on, as JSON types."""
        return {"running_return": self.running_return.tolist(), "mean": self.mean, "var": self.var, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state that state_dict returned."""
        self.running_return = np.array(state["running_return"])
        self.mean, self.var, self.count = state["mean"], state["var"], state["count"]
