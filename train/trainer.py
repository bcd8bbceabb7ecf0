"""The training loop's one iteration: collect, estimate advantages, update."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.go2 import Go2Env
from rfx.config import GO2_CONFIG
from rfx.nn import ActorCritic, kernels
from rfx.normalizer import ObservationNormalizer
from train.collect import collect
from train.config import TrainConfig
from train.gae import gae
from train.rollout import Rollout
from train.update import PPO


class Trainer:
    """Four objects (environment, policy, rollout, learner) and the randomness that drives them.

    Everything random comes from SeedSequence(config.seed): the same seed gives the same weights, bit for bit, on the same machine.
    """

    def __init__(self, config: TrainConfig):
        self.config, self.robot = config, GO2_CONFIG
        seeds = np.random.SeedSequence(config.seed).spawn(4)
        weights_rng, self._noise_rng, self._batch_rng = map(np.random.default_rng, seeds[:3])
        if config.threads:
            kernels.set_num_threads(config.threads)
        self.env = Go2Env(config=config.env, robot=self.robot, threads=config.threads)
        num_envs, num_steps = self.env.num_envs, config.trainer.rollout_steps
        self.policy = ActorCritic(self.robot.state_dim, self.robot.action_dim, list(config.policy.hidden),
                                  initial_std=config.policy.initial_std, rng=weights_rng)
        self.learner = PPO(self.policy, config.ppo, num_envs * num_steps)
        self.normalizer = ObservationNormalizer(self.robot.state_dim)
        self.rollout = Rollout.empty(num_steps, num_envs, self.robot.state_dim, self.robot.action_dim)
        self.steps = self.iteration = 0
        self.skipping = 0  # updates in a row that had to skip minibatches
        self._observation = self.env.reset(seed=int(seeds[3].generate_state(1)[0]))[0]["state"]

    def iterate(self) -> dict[str, float]:
        """One iteration of PPO; returns its metrics by tag."""
        rollout, ppo = self.rollout, self.config.ppo
        begin = time.perf_counter()
        self.env.clear_reward_sums()
        self.learner.limit_std(self.std_limit())
        self._observation, last_value, episodes = collect(self.env, self.learner, self.normalizer, rollout, self._observation,
                                                          self._noise_rng)
        collected = time.perf_counter()
        gae(rollout, last_value, ppo.gamma, ppo.gae_lambda)
        rollout.replace_failed(self._batch_rng)
        losses = self.learner.update(rollout, self._batch_rng)
        self.normalizer.update(rollout.raw_observation.reshape(-1, self.robot.state_dim))
        self.skipping = self.skipping + 1 if losses["skipped_minibatches"] else 0
        updated = time.perf_counter()

        num_steps = len(rollout.reward)
        self.iteration += 1
        self.steps += rollout.reward.size
        error = episodes.error / num_steps
        metrics = {"episode/error_vx": error[0], "episode/error_vy": error[1], "episode/error_yaw_rate": error[2],
                   "episode/failed_simulations": episodes.failed}
        if episodes.lengths:
            metrics |= {"episode/return": np.mean(episodes.returns), "episode/length": np.mean(episodes.lengths),
                        "episode/falls": episodes.falls / len(episodes.lengths)}
        metrics |= {f"reward/{name}": total / (num_steps * self.env.step_s) for name, total in self.env.reward_sums.items()}
        metrics |= {f"ppo/{name}": value for name, value in losses.items()}
        metrics |= {"policy/std": np.exp(self.policy.log_std.numpy()).mean(), "time/collect_s": collected - begin,
                    "time/update_s": updated - collected, "time/env_steps_per_s": rollout.reward.size / (updated - begin)}
        return {name: float(value) for name, value in metrics.items()}

    def std_limit(self) -> float:
        """Exploration's highest standard deviation now: from initial_std to final_std over the run, in a geometric progression.

        Exploration noise slows the robot down, and the mean action learns to make up for it: a policy that is to be played without noise
        must have learned with little.
        """
        policy, progress = self.config.policy, min(self.steps / self.config.trainer.total_steps, 1.0)
        return policy.initial_std * (policy.final_std / policy.initial_std) ** progress

    def due(self, every: int) -> bool:
        """Whether the last iteration reached another multiple of every steps."""
        return self.steps // every > (self.steps - self.rollout.reward.size) // every

    def state_dict(self) -> dict[str, Any]:
        """All that the next iteration depends on, by name: arrays (copies), numbers and, of generators and normalizer, dictionaries."""
        own = {"steps": self.steps, "iteration": self.iteration, "skipping": self.skipping, "observation": self._observation.copy(),
               "noise_rng": self._noise_rng.bit_generator.state, "batch_rng": self._batch_rng.bit_generator.state,
               "normalizer": self.normalizer.to_dict()}
        return own | {f"env.{name}": value for name, value in self.env.state_dict().items()} | {
            f"learner.{name}": value for name, value in self.learner.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned, to the bit. Raises ValueError for the state of another task, network or num_envs."""
        def part(prefix: str) -> dict[str, Any]:
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

        self.env.load_state_dict(part("env."))
        self.learner.load_state_dict(part("learner."))
        self.normalizer = ObservationNormalizer.from_dict(state["normalizer"])
        self._noise_rng.bit_generator.state, self._batch_rng.bit_generator.state = state["noise_rng"], state["batch_rng"]
        self.steps, self.iteration, self.skipping = state["steps"], state["iteration"], state["skipping"]
        self._observation = state["observation"].copy()
