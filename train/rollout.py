"""One rollout: what the policy saw and did over T steps of N environments, written in place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Arrays of T steps by N environments, float32; the trainer fills the first group, `gae` the second."""

    observation: Array  # (T, N, D), normalized: exactly what the policy was given
    action: Array  # (T, N, A), the sample that was scored, before the environment clips it
    mean: Array  # (T, N, A), of the Gaussian it came from
    log_prob: Array  # (T, N), of the action
    value: Array  # (T, N)
    reward: Array  # (T, N)
    terminated: Array  # (T, N), bool: the episode ended here, for good
    truncated: Array  # (T, N), bool: it was cut here, and would have gone on
    bootstrap: Array  # (T, N), value of the final observation where truncated, elsewhere 0
    advantage: Array  # (T, N)
    returns: Array  # (T, N), value targets

    @classmethod
    def empty(cls, num_steps: int, num_envs: int, observation_dim: int, action_dim: int) -> Rollout:
        """A rollout of zeros."""

        def zeros(*shape: int, dtype=np.float32) -> Array:
            return np.zeros((num_steps, num_envs, *shape), dtype)

        return cls(observation=zeros(observation_dim), action=zeros(action_dim), mean=zeros(action_dim), log_prob=zeros(),
                   value=zeros(), reward=zeros(), terminated=zeros(dtype=bool), truncated=zeros(dtype=bool),
                   bootstrap=zeros(), advantage=zeros(), returns=zeros())
