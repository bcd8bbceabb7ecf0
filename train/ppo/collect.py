"""Fill a rollout: the policy acts in the environment for T steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from rfx.policy.history import ObservationHistory
from rfx.policy.normalizer import ObservationNormalizer
from rfx.random.streams import Streams
from rfx.robot.state import FAILED
from train.ppo.categorical import draw
from train.ppo.errors import TrainingBroken
from train.ppo.rollout import Array, Rollout
from train.ppo.update import PPO

LOG_SQRT_2PI = np.float32(0.5 * math.log(2.0 * math.pi))


class Episodes:
    """Returns and lengths of the episodes of num_envs environments.

    It has the running episodes, and those that ended since the last `read`.
    """

    def __init__(self, num_envs: int):
        self.running_return, self.running_length = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._clear()

    def _clear(self) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._failed = 0

    def add_rollout(self, rollout: Rollout) -> None:
        """Add all steps of a rollout."""
        for reward, done, failed in zip(rollout.reward, rollout.terminated | rollout.truncated, rollout.failed):
            self.add(reward, done, failed)

    def add(self, reward: Array, done: Array, failed: Array) -> None:
        """Add an environment step, (N,) each. Episodes whose simulation failed are only counted."""
        self.running_return += reward
        self.running_length += done | ~failed  # a failed step without an end belongs to no episode
        if done.any():
            sound = done & ~failed
            self._returns += self.running_return[sound].tolist()
            self._lengths += self.running_length[sound].tolist()
            self._failed += int((failed & done).sum())
            self.running_return[done], self.running_length[done] = 0.0, 0

    def read(self) -> dict[str, float]:
        """Return the means over the ended episodes, by tag, and the number of failed simulations; then start anew.

        The means are missing if no episode ended.
        """
        metrics: dict[str, float] = {"episode/failed_simulations": self._failed}
        if self._lengths:
            metrics |= {"episode/return": np.mean(self._returns), "episode/length": np.mean(self._lengths)}
        self._clear()
        return metrics

    def state_dict(self) -> dict[str, Array]:
        """The returns and lengths so far of the running episodes, copied."""
        return {"return": self.running_return.copy(), "length": self.running_length.copy()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Continue from the state that state_dict returned."""
        self.running_return, self.running_length = state["return"].copy(), state["length"].copy()


def collect(
    env: VectorEnv,
    learner: PPO,
    normalizer: ObservationNormalizer,
    rollout: Rollout,
    observation: Mapping[str, Array],
    rng: Streams,
    *,
    history: ObservationHistory | None = None,
    critic_normalizer: ObservationNormalizer | None = None,
    first: int = 0,
) -> tuple[dict[str, Array], Array]:
    """Act for as many steps as the rollout holds, and write the rollout in place.

    observation is the environment's current observation, by `parts`. history, if the policy reads one, must already
    contain it. critic_normalizer normalizes a privileged critic's observations. Continuous actions are drawn from the
    policy's Gaussian with noise from rng, and their log-probability is taken before the environment clips them.
    Discrete actions are drawn by their probabilities. first is the number of the first environment in the run.
    Returns the observation after the last step, and its value (N,). Raises TrainingBroken for an observation or a
    reward that is not finite, before the policy acts on it.
    """
    state_dim = rollout.raw_observation.shape[2]
    act = _draw_choice if learner.categorical else _gaussian(learner)
    check_finite(observation, first)
    for t in range(len(rollout.reward)):
        inputs = _look(rollout, t, observation, normalizer, history, critic_normalizer)
        rollout.mean[t], rollout.value[t] = learner.act(*inputs)
        observed, rollout.reward[t], rollout.terminated[t], rollout.truncated[t], info = env.step(act(rollout, t, rng))
        observation, done = parts(observed), rollout.terminated[t] | rollout.truncated[t]
        rollout.failed[t] = info.get(FAILED, False)
        check_finite(observation | {"reward": np.where(rollout.failed[t], 0.0, rollout.reward[t])}, first)
        rollout.bootstrap[t] = 0.0
        cut = np.flatnonzero(rollout.truncated[t] & ~rollout.failed[t])
        if len(cut):
            final = {name: np.stack([parts(info["final_obs"][i])[name] for i in cut]) for name in observation}
            check_finite(final, first, cut)
            state = final["state"][:, :state_dim]
            seen = [normalize_frames(normalizer, state if history is None else history.followed_by(cut, state))]
            if critic_normalizer:
                seen.append(critic_normalizer.normalize(final["critic"]))
            rollout.bootstrap[t, cut] = _padded_value(learner, seen, inputs)
        if history:
            history.reset(done)
            history.push(observation["state"][:, :state_dim])
    last = [normalize_frames(normalizer, observation["state"][:, :state_dim] if history is None else history.frames)]
    if critic_normalizer:
        last.append(critic_normalizer.normalize(observation["critic"]))
    return observation, learner.act(*last)[1]


def check_finite(told: Mapping[str, Array], first: int = 0, rows: Array | None = None) -> None:
    """Raises TrainingBroken unless all numbers that environments returned are finite.

    told has the arrays (n, ...) by name. rows (n,) says which environments they are from, by default all. first is the
    number of the first environment in the run.
    """
    for name, values in told.items():
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):
                continue
        for row, *entry in np.argwhere(~np.isfinite(values)):  # empty if only the sum overflows
            where = f"entry {', '.join(map(str, entry))} of its {name}" if entry else f"its {name}"
            number = first + int(row if rows is None else rows[row])
            given = values[(row, *entry)]
            raise TrainingBroken(f"environment {number} gave {given} as {where}; expected finite numbers: mend it")


def _gaussian(learner: PPO) -> Callable[[Rollout, int, Streams], Array]:
    """Make a function that draws a step's actions (N, A) from Gaussians around the rollout's means.

    The function writes the actions and their log-probabilities into the rollout.
    """
    log_std = learner.policy.log_std.numpy().astype(np.float32)
    std, log_normalization = np.exp(log_std), log_std.sum() + len(log_std) * LOG_SQRT_2PI

    def draw_action(rollout: Rollout, t: int, rng: Streams) -> Array:
        noise = rng.standard_normal(rollout.mean[t].shape)
        np.multiply(noise, std, out=rollout.action[t])
        rollout.action[t] += rollout.mean[t]
        rollout.log_prob[t] = -0.5 * np.einsum("ij,ij->i", noise, noise) - log_normalization
        return rollout.action[t]

    return draw_action


def _draw_choice(rollout: Rollout, t: int, rng: Streams) -> Array:
    """Draw a step's choices (N,) by their log-probabilities, which the rollout has in place of means."""
    choice, rollout.action[t], rollout.log_prob[t] = draw(rollout.mean[t], rng)
    return choice


def parts(observation: Any) -> dict[str, Array]:
    """An observation by part: `state`, and `critic` for a privileged critic.

    `state` is the whole observation of an environment whose space is a Box.
    """
    return dict(observation) if isinstance(observation, Mapping) else {"state": observation}


def _look(
    rollout: Rollout,
    t: int,
    observation: Mapping[str, Array],
    normalizer: ObservationNormalizer,
    history: ObservationHistory | None,
    critic_normalizer: ObservationNormalizer | None,
) -> list[Array]:
    """Write the observation at step t into the rollout, and return the inputs of the policy and a privileged critic."""
    rollout.raw_observation[t] = observation["state"][:, : rollout.raw_observation.shape[2]]
    seen = rollout.raw_observation[t] if history is None else history.frames
    normalize_frames(normalizer, seen, rollout.observation[t])
    inputs = [rollout.observation[t]]
    if critic_normalizer:
        rollout.raw_critic_observation[t] = observation["critic"]
        inputs.append(critic_normalizer.normalize(rollout.raw_critic_observation[t], out=rollout.critic_observation[t]))
    return inputs


def normalize_frames(normalizer: ObservationNormalizer, frames: Array, out: Array | None = None) -> Array:
    """Normalize observations (N, D), or the last k of each robot (N, k, D), which are then put side by side.

    Returns (N, D) or (N, k * D), in out if given.
    """
    rows = frames.reshape(-1, normalizer.state_dim)
    return normalizer.normalize(rows, out=None if out is None else out.reshape(rows.shape)).reshape(len(frames), -1)


def _padded_value(learner: PPO, final: list[Array], templates: list[Array]) -> Array:
    """Values (n,) of the final observations of n robots, padded to the shapes that inference is compiled for."""
    batches = [np.zeros_like(template) for template in templates]
    for batch, rows in zip(batches, final):
        batch[: len(rows)] = rows
    return learner.act(*batches)[1][: len(final[0])]
