"""A rollout: observations, actions and rewards of T steps in N environments, written in place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from rfx.robot.state import Array
from train.ppo.errors import TrainingBroken


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Arrays of T steps in N environments, float32; `gae` fills advantage and returns, the trainer all others."""

    raw_observation: Array  # (T, N, D), as the environment gave it; the normalizer learns from it
    observation: Array  # (T, N, history * D), normalized: exactly the policy's input
    raw_critic_observation: Array  # (T, N, P), a privileged critic's observation; P is 0 without one
    critic_observation: Array  # (T, N, P), normalized
    action: Array  # (T, N, A), as drawn, before the environment clips it
    mean: Array  # (T, N, A), of the Gaussian that the action was drawn from
    log_prob: Array  # (T, N), of the action
    value: Array  # (T, N)
    reward: Array  # (T, N)
    terminated: Array  # (T, N), bool: the episode ended in this step
    truncated: Array  # (T, N), bool: the episode was cut off in this step, and could have continued
    failed: Array  # (T, N), bool: the simulation failed; training must ignore this transition
    bootstrap: Array  # (T, N), value of the final observation where truncated, elsewhere 0
    advantage: Array  # (T, N)
    returns: Array  # (T, N), value targets

    @classmethod
    def empty(
        cls,
        num_steps: int,
        num_envs: int,
        observation_dim: int,
        action_dim: int,
        *,
        history: int = 1,
        critic_dim: int = 0,
    ) -> Rollout:
        """Make a rollout of zeros."""

        def zeros(*shape: int, dtype=np.float32) -> Array:
            return np.zeros((num_steps, num_envs, *shape), dtype)

        return cls(
            raw_observation=zeros(observation_dim),
            observation=zeros(history * observation_dim),
            raw_critic_observation=zeros(critic_dim),
            critic_observation=zeros(critic_dim),
            action=zeros(action_dim),
            mean=zeros(action_dim),
            log_prob=zeros(),
            value=zeros(),
            reward=zeros(),
            terminated=zeros(dtype=bool),
            truncated=zeros(dtype=bool),
            failed=zeros(dtype=bool),
            bootstrap=zeros(),
            advantage=zeros(),
            returns=zeros(),
        )

    def replace_failed(self, rng: np.random.Generator) -> int:
        """Overwrite failed transitions with random sound ones, so that minibatches keep their shape.

        Call it after `gae`. Returns the number of failed transitions. Raises TrainingBroken if no transition is sound.
        """
        num_failed = int(self.failed.sum())
        if num_failed:
            sound = np.flatnonzero(~self.failed)
            if not len(sound):
                raise TrainingBroken(
                    f"all {num_failed} transitions of a rollout failed in the simulator: the task or the model is broken"
                )
            chosen, failed = rng.choice(sound, num_failed), self.failed.ravel().copy()
            for field in dataclasses.fields(self):
                array = getattr(self, field.name)
                flat = array.reshape(self.failed.size, *array.shape[2:])
                flat[failed] = flat[chosen]
        return num_failed
