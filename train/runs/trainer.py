"""One iteration of the training loop: collect, estimate advantages, update."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from rfx.nn import kernels
from rfx.policy.history import ObservationHistory
from rfx.policy.normalizer import ObservationNormalizer
from train.ppo.check_env import check_env
from train.ppo.collect import Episodes
from train.ppo.collector import Collector, part
from train.ppo.gae import gae
from train.ppo.network import Shape
from train.ppo.reward_scale import RewardScale
from train.ppo.symmetry import Symmetry
from train.ppo.update import PPO
from train.scale.workers import Workers
from train.task.config import TrainConfig
from train.task.task import Task, find_task


class Trainer:
    """The environment, policy, rollout and learner of a run, and the randomness that drives them.

    The environment is the task's, by default that of the config. With policy.history above 1 there is also a history,
    with a privileged critic a normalizer for it, with a symmetric policy a mirror. Everything random comes from
    SeedSequence(config.seed): the same seed gives the same weights, bit for bit, on the same machine. Raises ValueError
    for an environment that cannot be used for training.
    """

    def __init__(self, config: TrainConfig, task: Task | None = None):
        self.config, self.task = config, task or find_task(config.task)(config)
        seeds = np.random.SeedSequence(config.seed).spawn(4)
        weights_rng, self._batch_rng = map(np.random.default_rng, (seeds[0], seeds[2]))
        streams = {"noise_seed": int(seeds[1].generate_state(1)[0]), "env_seed": int(seeds[3].generate_state(1)[0])}
        if config.threads:
            kernels.set_num_threads(config.threads)
        self.collector = collector_of(config, self.task, streams)
        self.env, self.state_dim = self.collector.env, self.collector.state_dim
        shape = Shape(config.policy, self.collector.observation, self.env.single_action_space, self.state_dim)
        num_envs, num_steps, state_dim, action_dim = (
            config.env.num_envs,
            config.trainer.rollout_steps,
            self.state_dim,
            shape.action_dim,
        )
        self.policy = shape.network(weights_rng)
        self.mirror = self.task.mirror() if config.policy.symmetric else None
        symmetry = (
            Symmetry(
                self.mirror.observation(np.eye(state_dim, dtype=np.float32)),
                self.mirror.action(np.eye(action_dim, dtype=np.float32)),
                self.policy.hidden,
                self.policy.history,
            )
            if self.mirror
            else None
        )
        self.learner = PPO(self.policy, config.ppo, num_envs * num_steps, symmetry)
        self.normalizer = ObservationNormalizer(state_dim)
        self.critic_normalizer = ObservationNormalizer(shape.critic_dim) if shape.critic_dim else None
        self.rollout = shape.rollout(num_steps, num_envs)
        self.steps = self.iteration = 0
        self.skipping = 0  # number of successive updates that had to skip minibatches
        self.episodes = Episodes(num_envs)
        self.reward_scale = RewardScale(num_envs, config.ppo.gamma) if config.ppo.normalize_reward else None

    @property
    def history(self) -> ObservationHistory | None:
        """The last observations of the local environments, if the policy reads more than one; else None."""
        return self.collector.history

    def iterate(self) -> dict[str, float]:
        """Do one iteration of PPO; returns its metrics by tag."""
        rollout, ppo = self.rollout, self.config.ppo
        begin = time.perf_counter()
        self.learner.limit_std(self.std_limit())
        if ppo.final_learning_rate is not None:
            progress = min(self.steps / self.config.trainer.total_steps, 1.0)
            self.learner.set_learning_rate(ppo.learning_rate + progress * (ppo.final_learning_rate - ppo.learning_rate))
        last_value = self.collector.collect(self.learner, rollout, self.normalizer, self.critic_normalizer)
        self.episodes.add_rollout(rollout)
        collected = time.perf_counter()
        if self.reward_scale:
            self.reward_scale.scale(rollout)
        gae(rollout, last_value, ppo.gamma, ppo.gae_lambda)
        rollout.replace_failed(self._batch_rng)
        losses = self.learner.update(rollout, self._batch_rng)
        self.normalizer.update(rollout.raw_observation.reshape(-1, self.state_dim))
        if self.mirror:
            self.normalizer.symmetrize(self.mirror)
        if self.critic_normalizer:
            self.critic_normalizer.update(rollout.raw_critic_observation.reshape(-1, self.critic_normalizer.state_dim))
        self.skipping = self.skipping + 1 if losses["skipped_minibatches"] else 0
        updated = time.perf_counter()

        self.iteration += 1
        self.steps += rollout.reward.size
        metrics = self.episodes.read()
        metrics |= self.collector.metrics()
        metrics |= {f"ppo/{name}": value for name, value in losses.items()}
        if not self.learner.categorical:
            metrics["policy/std"] = np.exp(self.policy.log_std.numpy()).mean()
        metrics |= {
            "time/collect_s": collected - begin,
            "time/update_s": updated - collected,
            "time/env_steps_per_s": rollout.reward.size / (updated - begin),
        }
        return {name: float(value) for name, value in metrics.items()}

    def std_limit(self) -> float:
        """Largest standard deviation of exploration now: a geometric progression from initial_std to final_std.

        Exploration noise slows the robot down, and the mean action learns to compensate for it. A policy that will be
        played without noise must therefore have trained with little noise.
        """
        policy, progress = self.config.policy, min(self.steps / self.config.trainer.total_steps, 1.0)
        return policy.initial_std * (policy.final_std / policy.initial_std) ** progress

    def due(self, every: int) -> bool:
        """Whether the last iteration reached or passed a multiple of every steps."""
        return self.steps // every > (self.steps - self.rollout.reward.size) // every

    def state_dict(self) -> dict[str, Any]:
        """All state that the next iteration depends on, by name: arrays, numbers, and dictionaries.

        The dictionaries are the states of generators and normalizer.
        """
        own = {
            "steps": self.steps,
            "iteration": self.iteration,
            "skipping": self.skipping,
            "batch_rng": self._batch_rng.bit_generator.state,
            "normalizer": self.normalizer.to_dict(),
        }
        if self.critic_normalizer:
            own["critic_normalizer"] = self.critic_normalizer.to_dict()
        if self.reward_scale:
            own["reward_scale"] = self.reward_scale.state_dict()
        groups = {"learner": self.learner.state_dict()}
        if hasattr(self.env, "state_dict"):
            groups["episodes"] = self.episodes.state_dict()
        return (
            own
            | self.collector.state_dict()
            | {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned, bit for bit.

        If the environment has no state_dict, its episodes begin anew. Raises ValueError for the state of another task,
        network or num_envs.
        """
        self.collector.load_state_dict(state)
        if hasattr(self.env, "load_state_dict"):
            self.episodes.load_state_dict(part(state, "episodes."))
        self.learner.load_state_dict(part(state, "learner."))
        self._load_normalizers(state)
        if self.reward_scale and "reward_scale" in state:  # absent if it was off until now
            self.reward_scale.load_state_dict(state["reward_scale"])
        self._batch_rng.bit_generator.state = state["batch_rng"]
        self.steps, self.iteration, self.skipping = state["steps"], state["iteration"], state["skipping"]

    def close(self) -> None:
        """Close the environments, and end the workers if workers collect."""
        self.collector.close()

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Begin with the network and normalizers of another run's state_dict, but with this run's exploration.

        Raises ValueError for another network.
        """
        learner, prefix = self.learner.state_dict(), "learner.policy."
        network = {name.removeprefix("learner."): value for name, value in state.items() if name.startswith(prefix)}
        if differing := sorted(name for name in network.keys() ^ learner.keys() if name.startswith("policy.")):
            raise ValueError(
                f"its network and this one differ in {', '.join(differing)}: give the same policy.hidden, "
                "policy.history, policy.critic and policy.critic_hidden"
            )
        exploration = {name: value for name, value in learner.items() if name == "policy.log_std"}
        self.learner.load_state_dict(learner | network | exploration)
        self._load_normalizers(state)

    def _load_normalizers(self, state: Mapping[str, Any]) -> None:
        self.normalizer = ObservationNormalizer.from_dict(state["normalizer"])
        if self.critic_normalizer:
            self.critic_normalizer = ObservationNormalizer.from_dict(state["critic_normalizer"])


def collector_of(config: TrainConfig, task: Task, seeds: Mapping[str, int]) -> Collector | Workers:
    """The collector of a run: local environments, or, with `scale`, workers. seeds are those of Collector."""
    if config.scale:
        return Workers(config, task, seeds)
    env = task.make_env()
    check_env(env, config.policy.critic == "privileged")
    return Collector(env, **seeds, state_dim=task.state_dim, history=config.policy.history)
