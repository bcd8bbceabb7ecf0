"""How well a policy does in a Gymnasium environment: its return over full episodes, played without exploration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from envs.gym.env import GymEnv
from rfx.loading.loaded_policy import LoadedPolicy
from train.ppo.collect import check_finite
from train.task.task import Figure, Judgement

LONGEST = 10_000  # steps after which an episode is cut that does not end
EVALUATION_KEY = 0xE7A1  # sets seeds apart from those of training, whatever the seed


def episode_seed(seed: int) -> int:
    """The environment's seed for an evaluation: a branch of SeedSequence(seed) that training does not spawn."""
    return int(np.random.SeedSequence(seed, spawn_key=(EVALUATION_KEY,)).generate_state(1)[0])


def longest_episode(spec: EnvSpec | None) -> int:
    """How many steps of an episode are played at most: LONGEST, or a longer limit of the environment's own."""
    return max(LONGEST, (spec and spec.max_episode_steps) or 0)


def play_episodes(
    policy: LoadedPolicy,
    env: GymEnv,
    *,
    seed: int,
    conditions: Mapping[str, Any],
    after_step: Callable[[], None] | None = None,
) -> Judgement:
    """Every environment of env plays one episode to its end, and no short one is counted twice.

    Returns are the environment's own rewards. An episode that does not end is cut, which the judgement's note tells.
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
