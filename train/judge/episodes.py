"""Measures a policy in a Gymnasium environment: its return over full episodes, without exploration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from envs.gym.env import GymEnv
from rfx.loading.loaded_policy import LoadedPolicy
from train.ppo.collect import check_finite
from train.task.task import Figure, Judgement

LONGEST = 10_000  # steps; an episode that has not ended by then is cut
EVALUATION_KEY = 0xE7A1  # separates the seeds of evaluations from those of training, for any seed


def episode_seed(seed: int) -> int:
    """The environment's seed for an evaluation: a branch of SeedSequence(seed) that training never spawns."""
    return int(np.random.SeedSequence(seed, spawn_key=(EVALUATION_KEY,)).generate_state(1)[0])


def longest_episode(spec: EnvSpec | None) -> int:
    """The most steps of an episode: LONGEST, or the environment's own limit if that is longer."""
    return max(LONGEST, (spec and spec.max_episode_steps) or 0)


def play_episodes(
    policy: LoadedPolicy,
    env: GymEnv,
    *,
    seed: int,
    conditions: Mapping[str, Any],
    after_step: Callable[[], None] | None = None,
) -> Judgement:
    """Play one episode to its end in every environment of env, so that short episodes do not count more than long ones.

    Returns are the environment's own rewards. An episode that does not end is cut, and the judgement's note says so.
    The score is minus the mean return. after_step, if given, is called after every step. Raises TrainingBroken for an
    observation or a reward that is not finite.
    """
    limit = longest_episode(env.spec)
    observation, going_on = env.reset(seed=episode_seed(seed))[0], np.ones(env.num_envs, bool)
    policy.reset()
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
    while going_on.any() and lengths.max() < limit:
        check_finite({"observation": observation})
        observation, reward, terminated, truncated, _ = env.step(policy({"state": observation}))
        check_finite({"reward": reward})
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
    cut = int(going_on.sum())
    conditions = {**conditions, "episodes": env.num_envs, "seed": seed} | ({"cut_episodes": cut} if cut else {})
    played = f"{env.num_envs} full episodes"
    if cut:
        played = f"{env.num_envs} episodes, {cut} of which did not end and were cut after {limit:,} steps"
    return Judgement(
        score=-float(returns.mean()), figures=figures, conditions=conditions, note=f"{played}, deterministic"
    )
