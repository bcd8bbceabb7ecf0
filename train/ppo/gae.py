"""Generalized advantage estimation."""

from __future__ import annotations

import numpy as np

from train.ppo.rollout import Array, Rollout


def gae(rollout: Rollout, last_value: Array, gamma: float, gae_lambda: float) -> None:
    """Fill the rollout's returns and advantage, in place; advantages have mean 0 and standard deviation 1.

    last_value (N,) is the value of the observation after the last step. A truncated episode bootstraps from the value
    of its final observation (rollout.bootstrap), a terminated episode from zero. A failed transition has advantage 0,
    and passes nothing on to earlier steps.

    Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (2016), equations 11
    to 16.
    """
    reward, value, done = rollout.reward, rollout.value, rollout.terminated | rollout.truncated
    gamma, decay = np.float32(gamma), np.float32(gamma * gae_lambda)
    next_value, advantage = last_value, np.zeros_like(last_value)
    for t in range(len(reward) - 1, -1, -1):
        delta = reward[t] + gamma * np.where(done[t], rollout.bootstrap[t], next_value) - value[t]
        advantage = delta + decay * np.where(done[t], np.float32(0.0), advantage)
        advantage[rollout.failed[t]] = 0.0
        rollout.advantage[t] = advantage
        next_value = value[t]
    np.add(rollout.advantage, value, out=rollout.returns)
    sound = rollout.advantage[~rollout.failed] if rollout.failed.any() else rollout.advantage
    if not len(sound):
        return  # replace_failed raises the error
    mean, std = sound.mean(dtype=np.float64), sound.std(dtype=np.float64)
    rollout.advantage[...] = (rollout.advantage - np.float32(mean)) / np.float32(std + 1e-8)
