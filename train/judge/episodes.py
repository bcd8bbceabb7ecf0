"""How well a policy does in a Gymnasium environment: its return over full episodes, played without exploration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from envs.gym.env import GymEnv
from rfx.loading.loaded_policy import LoadedPolicy
from train.task.task import Figure, Judgement

EVALUATION_KEY = 0xE7A1  # sets seeds apart from those of training, whatever the seed


def episode_seed(seed: int) -> int:
    """The environment's seed for an evaluation: a branch of SeedSequence(seed) that training does not spawn."""
    return int(np.random.SeedSequence(seed, spawn_key=(EVALUATION_KEY,)).generate_state(1)[0])


def play_episodes(
    policy: LoadedPolicy,
    env: GymEnv,
    *,
    seed: int,
    conditions: Mapping[str, Any],
    after_step: Callable[[], None] | None = None,
) -> Judgement:
    """Every environment of env plays one episode to its end, and no short one is counted twice.

    Returns are the environment's own rewards.

    The score is minus the mean return. after_step, if given, is called after every step.
    """
    observation, going_on = env.reset(seed=episode_seed(seed))[0], np.ones(env.num_envs, bool)
    policy.reset()
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    while going_on.any():
        observation, reward, terminated, truncated, _ = env.step(policy({"state": observation}))
        returns += np.where(going_on, reward, 0.0)
        lengths += going_on
        going_on &= ~(terminated | truncated)
        policy.reset(terminated | truncated)
        if after_step:
            after_step()
    figures = (
        Figure(name="return", label="return", format=".1f", value=float(returns.mean()), main=True),
        Figure(name="return_std", label="standard deviation", format=".1f", value=float(returns.std())),
        Figure(name="lowest_return", label="lowest return", format=".1f", value=float(returns.min())),
        Figure(
            name="episode_length",
            label="episode length",
            unit="steps",
            format=".0f",
            value=float(lengths.mean()),
            main=True,
        ),
    )
    return Judgement(
        score=-float(returns.mean()),
        figures=figures,
        conditions={**conditions, "episodes": env.num_envs, "seed": seed},
        note=f"{env.num_envs} full episodes, deterministic",
    )
