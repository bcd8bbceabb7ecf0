"""Fill a rollout: the policy acts in the environment for T steps."""

from __future__ import annotations

import math

import numpy as np

from envs.go2 import Go2Env, velocity_error
from rfx.normalizer import ObservationNormalizer
from train.rollout import Array, Rollout
from train.update import PPO

LOG_SQRT_2PI = np.float32(0.5 * math.log(2.0 * math.pi))


class EpisodeMetrics:
    """What happened to the episodes and the velocities of one rollout; means are over environments and steps."""

    def __init__(self) -> None:
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.falls = 0
        self.failed = 0
        self.error = np.zeros(3)  # summed over steps: mean absolute error of vx, vy (m/s) and yaw rate (rad/s)

    def add(self, env: Go2Env, terminated: Array, info: dict) -> None:
        """Take in one environment step."""
        self.error += np.abs(velocity_error(env.state)).mean(axis=0)
        if info:
            ended = info["_episode"] & ~info["failed"]
            self.returns += info["episode"]["r"][ended].tolist()
            self.lengths += info["episode"]["l"][ended].tolist()
            self.falls += int(terminated.sum())
            self.failed += int(info["failed"].sum())


def collect(env: Go2Env, learner: PPO, normalizer: ObservationNormalizer, rollout: Rollout, observation: Array,
            rng: np.random.Generator) -> tuple[Array, Array, EpisodeMetrics]:
    """Act for as many steps as the rollout holds, writing it in place.

    observation (N, max_state_dim) is the environment's current one. Actions are drawn from the policy's Gaussian with noise from rng
    and scored as drawn, before the environment clips them. Returns the observation after the last step, its value (N,), and what
    happened to the episodes.
    """
    state_dim = rollout.observation.shape[2]
    log_std = learner.policy.log_std.numpy().astype(np.float32)
    std, log_normalization = np.exp(log_std), log_std.sum() + len(log_std) * LOG_SQRT_2PI
    metrics = EpisodeMetrics()
    for t in range(len(rollout.reward)):
        rollout.raw_observation[t] = observation[:, :state_dim]
        normalizer.normalize(rollout.raw_observation[t], out=rollout.observation[t])
        rollout.mean[t], rollout.value[t] = learner.act(rollout.observation[t])
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
            final = normalizer.normalize(np.stack([info["final_obs"][i]["state"][:state_dim] for i in cut]))
            rollout.bootstrap[t, cut] = _padded_value(learner, final, rollout.observation[t])
        metrics.add(env, rollout.terminated[t], info)
    _, last_value = learner.act(normalizer.normalize(observation[:, :state_dim]))
    return observation, last_value, metrics


def _padded_value(learner: PPO, final: Array, template: Array) -> Array:
    """Values (n,) of n final observations, in a batch of the shape that inference is compiled for."""
    batch = np.zeros_like(template)
    batch[:len(final)] = final
    return learner.act(batch)[1][:len(final)]
