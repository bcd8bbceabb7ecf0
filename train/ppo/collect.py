"""Fill a rollout: the policy acts in the environment for T steps."""

from __future__ import annotations

import math

import numpy as np

from envs.legged.env import LeggedEnv, velocity_error
from rfx.history import ObservationHistory
from rfx.mirror import Mirror
from rfx.normalizer import ObservationNormalizer
from train.ppo.rollout import Array, Rollout
from train.ppo.update import PPO

LOG_SQRT_2PI = np.float32(0.5 * math.log(2.0 * math.pi))


class EpisodeMetrics:
    """What happened to the episodes and the velocities of one rollout; means are over environments and steps."""

    def __init__(self) -> None:
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.falls = 0
        self.failed = 0
        self.error = np.zeros(3)  # summed over steps: mean absolute error of vx, vy (m/s) and yaw rate (rad/s)

    def add(self, env: LeggedEnv, terminated: Array, info: dict) -> None:
        """Take in one environment step."""
        self.error += np.abs(velocity_error(env.state)).mean(axis=0)
        if info:
            ended = info["_episode"] & ~info["failed"]
            self.returns += info["episode"]["r"][ended].tolist()
            self.lengths += info["episode"]["l"][ended].tolist()
            self.falls += int(terminated.sum())
            self.failed += int(info["failed"].sum())


def collect(env: LeggedEnv, learner: PPO, normalizer: ObservationNormalizer, rollout: Rollout, observation: Array,
            rng: np.random.Generator, *, history: ObservationHistory | None = None, critic_normalizer: ObservationNormalizer | None = None,
            mirror: Mirror | None = None) -> tuple[Array, Array, EpisodeMetrics]:
    """Act for as many steps as the rollout holds, writing it in place.

    observation (N, max_state_dim) is the environment's current one, and the last that history, where the policy reads one, was given.
    critic_normalizer is that of a privileged critic's observations, mirror what the rollout's `mirrored` comes from. Actions are drawn from
    the policy's Gaussian with noise from rng and scored as drawn, before the environment clips them. Returns the observation after the last
    step, its value (N,), and what happened to the episodes.
    """
    state_dim = rollout.raw_observation.shape[2]
    log_std = learner.policy.log_std.numpy().astype(np.float32)
    std, log_normalization = np.exp(log_std), log_std.sum() + len(log_std) * LOG_SQRT_2PI
    metrics = EpisodeMetrics()
    for t in range(len(rollout.reward)):
        rollout.raw_observation[t] = observation[:, :state_dim]
        seen = rollout.raw_observation[t] if history is None else history.frames
        normalize_frames(normalizer, seen, rollout.observation[t])
        if mirror:
            normalize_frames(normalizer, mirror.observation(seen), rollout.mirrored[t])
        inputs = [rollout.observation[t]]
        if critic_normalizer:
            rollout.raw_critic_observation[t] = env.critic_observation()
            inputs.append(critic_normalizer.normalize(rollout.raw_critic_observation[t], out=rollout.critic_observation[t]))
        rollout.mean[t], rollout.value[t] = learner.act(*inputs)
        noise = rng.standard_normal(rollout.mean[t].shape, np.float32)
        np.multiply(noise, std, out=rollout.action[t])
        rollout.action[t] += rollout.mean[t]
        rollout.log_prob[t] = -0.5 * np.einsum("ij,ij->i", noise, noise) - log_normalization
        observed, rollout.reward[t], rollout.terminated[t], rollout.truncated[t], info = env.step(rollout.action[t])
        observation = observed["state"]
        rollout.failed[t] = info["failed"] if info else False
        rollout.bootstrap[t] = 0.0
        cut = np.flatnonzero(rollout.truncated[t] & ~rollout.failed[t])
        if len(cut):
            final = np.stack([info["final_obs"][i]["state"][:state_dim] for i in cut])
            final = [normalize_frames(normalizer, final if history is None else history.followed_by(cut, final))]
            if critic_normalizer:
                final.append(critic_normalizer.normalize(info["final_critic_observation"][cut]))
            rollout.bootstrap[t, cut] = _padded_value(learner, final, inputs)
        if history:
            history.reset(rollout.terminated[t] | rollout.truncated[t])
            history.push(observation[:, :state_dim])
        metrics.add(env, rollout.terminated[t], info)
    last = [normalize_frames(normalizer, observation[:, :state_dim] if history is None else history.frames)]
    if critic_normalizer:
        last.append(critic_normalizer.normalize(env.critic_observation()))
    return observation, learner.act(*last)[1], metrics


def normalize_frames(normalizer: ObservationNormalizer, frames: Array, out: Array | None = None) -> Array:
    """Observations (N, D), or the last k of each robot (N, k, D), normalized and side by side. (N, D) or (N, k * D), in out if given."""
    rows = frames.reshape(-1, normalizer.state_dim)
    return normalizer.normalize(rows, out=None if out is None else out.reshape(rows.shape)).reshape(len(frames), -1)


def _padded_value(learner: PPO, final: list[Array], templates: list[Array]) -> Array:
    """Values (n,) of what n robots saw last, in batches of the shapes that inference is compiled for."""
    batches = [np.zeros_like(template) for template in templates]
    for batch, rows in zip(batches, final):
        batch[:len(rows)] = rows
    return learner.act(*batches)[1][:len(final[0])]
