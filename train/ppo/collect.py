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
    """Return and length of the episodes of num_envs environments: of those that go on, and of those that ended since
    they were last read.
    """

    def __init__(self, num_envs: int):
        self.running_return, self.running_length = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._clear()

    def _clear(self) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._failed = 0

    def add_rollout(self, rollout: Rollout) -> None:
        """Take in all steps of a rollout."""
        for reward, done, failed in zip(rollout.reward, rollout.terminated | rollout.truncated, rollout.failed):
            self.add(reward, done, failed)

    def add(self, reward: Array, done: Array, failed: Array) -> None:
        """Take in an environment step, (N,) each. Episodes whose simulation failed are counted, and no more."""
        self.running_return += reward
        self.running_length += done | ~failed  # one that failed without an end was no step of an episode
        if done.any():
            sound = done & ~failed
            self._returns += self.running_return[sound].tolist()
            self._lengths += self.running_length[sound].tolist()
            self._failed += int((failed & done).sum())
            self.running_return[done], self.running_length[done] = 0.0, 0

    def read(self) -> dict[str, float]:
        """Means over the episodes that ended, by tag, where there were any, and how many simulations failed; counting
        begins anew.
        """
        metrics: dict[str, float] = {"episode/failed_simulations": self._failed}
        if self._lengths:
            metrics |= {"episode/return": np.mean(self._returns), "episode/length": np.mean(self._lengths)}
        self._clear()
        return metrics

    def state_dict(self) -> dict[str, Array]:
        """Return and length so far of the episodes that go on, as copies."""
        return {"return": self.running_return.copy(), "length": self.running_length.copy()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Go on from what state_dict returned."""
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
    """Act for as many steps as the rollout holds, writing it in place.

    observation has the environment's current `parts`, the last that history, where the policy reads one, was given.
    critic_normalizer is that of a privileged critic's observations. Actions are drawn from the policy's Gaussian with
    noise from rng and scored as drawn, before the environment clips them; or, of choices, by their probabilities.
    first is the number of the first environment in the run. Returns the observation after the last step, and its
    value (N,). Raises TrainingBroken for an observation or a reward that is not finite, before the policy acts on it.
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
    """Raises TrainingBroken where numbers (n, ...) that environments told, by name, are not all finite.

    rows (n,) are those environments, by default all of them; first is the number of the first one in the run.
    """
    for name, values in told.items():
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):
                continue
        for row, *entry in np.argwhere(~np.isfinite(values)):  # none where the sum alone is too large
            where = f"entry {', '.join(map(str, entry))} of its {name}" if entry else f"its {name}"
            number = first + int(row if rows is None else rows[row])
            given = values[(row, *entry)]
            raise TrainingBroken(f"environment {number} gave {given} as {where}; expected finite numbers: mend it")


def _gaussian(learner: PPO) -> Callable[[Rollout, int, Streams], Array]:
    """A function that draws the actions (N, A) of a step from Gaussians around the rollout's means, and writes and
    scores them there.
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
    """The same for choices (N,), by the log-probabilities in place of means."""
    choice, rollout.action[t], rollout.log_prob[t] = draw(rollout.mean[t], rng)
    return choice


def parts(observation: Any) -> dict[str, Array]:
    """An observation by part: `state`, which is all of it where the environment's space is a Box, and of a privileged
    critic `critic`.
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
    """Write what is observed at step t into the rollout, and return what the policy, and a privileged critic, are given
    of it.
    """
    rollout.raw_observation[t] = observation["state"][:, : rollout.raw_observation.shape[2]]
    seen = rollout.raw_observation[t] if history is None else history.frames
    normalize_frames(normalizer, seen, rollout.observation[t])
    inputs = [rollout.observation[t]]
    if critic_normalizer:
        rollout.raw_critic_observation[t] = observation["critic"]
        inputs.append(critic_normalizer.normalize(rollout.raw_critic_observation[t], out=rollout.critic_observation[t]))
    return inputs


def normalize_frames(normalizer: ObservationNormalizer, frames: Array, out: Array | None = None) -> Array:
    """Observations (N, D), or the last k of each robot (N, k, D), normalized and side by side.

    (N, D) or (N, k * D), in out if given.
    """
    rows = frames.reshape(-1, normalizer.state_dim)
    return normalizer.normalize(rows, out=None if out is None else out.reshape(rows.shape)).reshape(len(frames), -1)


def _padded_value(learner: PPO, final: list[Array], templates: list[Array]) -> Array:
    """Values (n,) of what n robots saw last, in batches of the shapes that inference is compiled for."""
    batches = [np.zeros_like(template) for template in templates]
    for batch, rows in zip(batches, final):
        batch[: len(rows)] = rows
    return learner.act(*batches)[1][: len(final[0])]
