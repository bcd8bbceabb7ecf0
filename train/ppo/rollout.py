"""One rollout: what the policy saw and did over T steps of N environments, written in place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from rfx.robot.state import Array
from train.ppo.errors import TrainingBroken


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Arrays of T steps by N environments, float32; the trainer fills the first group, `gae` the second."""

    raw_observation: Array  # (T, N, D), as the environment gave it: what the normalizer learns from
    observation: Array  # (T, N, history * D), normalized: exactly what the policy was given
    raw_critic_observation: Array  # (T, N, P), what a privileged critic is given; width 0 without one
    critic_observation: Array  # (T, N, P), normalized
    action: Array  # (T, N, A), the sample that was scored, before the environment clips it
    mean: Array  # (T, N, A), of the Gaussian it came from
    log_prob: Array  # (T, N), of the action
    value: Array  # (T, N)
    reward: Array  # (T, N)
    terminated: Array  # (T, N), bool: the episode ended here, for good
    truncated: Array  # (T, N), bool: it was cut here, and would have gone on
    failed: Array  # (T, N), bool: the simulation broke; nothing of this transition may be learned from
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
        """A rollout of zeros."""

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
        """Overwrite failed transitions with random sound ones, so that minibatches keep their shape; returns how many.

        Call it after `gae`. Raises TrainingBroken when no transition is sound.
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
