"""A Task with a known answer, learned in seconds: points in a plane that are to come to the origin, of which each
action moves them a part.

The best policy is -x / REACH, clipped, by hand: it is there in a few steps. Doing nothing earns minus the squared
distance, again and again.
"""

import dataclasses

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from train.ppo.config import PolicyConfig, PPOConfig
from train.task.config import TrainConfig, TrainerConfig

REACH, LENGTH = 0.3, 20  # of an action of 1; steps of an episode


class PointEnv(VectorEnv):
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int):
        self.num_envs = num_envs
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, (self.num_envs, 2)).astype(np.float32)
        self.age = self.np_random.integers(LENGTH, size=self.num_envs)
        return self.place.copy(), {}

    def step(self, actions):
        self.place += REACH * np.clip(actions, -1, 1)
        self.age += 1
        reward, truncated, info = -np.square(self.place).sum(axis=1), self.age >= LENGTH, {}
        if truncated.any():
            last = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(truncated):
                last[i] = self.place[i].copy()
            info = {"final_obs": last}
            self.place[truncated], self.age[truncated] = self.np_random.uniform(-1, 1, (truncated.sum(), 2)), 0
        return self.place.copy(), reward, np.zeros(self.num_envs, bool), truncated, info


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointConfig:
    num_envs: int = 64


class PointTask:
    state_dim, shown = None, ()

    def __init__(self, config):
        self.config = config

    def make_env(self):
        return PointEnv(self.config.env.num_envs)


def point_config(seed: int, num_iterations: int) -> TrainConfig:
    return TrainConfig(
        task="point",
        seed=seed,
        env=PointConfig(),
        policy=PolicyConfig(hidden=(32,), initial_std=0.5, final_std=0.1),
        ppo=PPOConfig(gamma=0.9, num_epochs=5, num_minibatches=4, learning_rate=3e-3),
        trainer=TrainerConfig(rollout_steps=20, total_steps=num_iterations * 64 * 20),
    )


def episode_return(act) -> float:
    """Mean return of a whole episode over 1000 points."""
    place, total = np.random.default_rng(123).uniform(-1, 1, (1000, 2)).astype(np.float32), 0.0
    for _ in range(LENGTH):
        place = place + REACH * np.clip(act(place), -1, 1)
        total -= np.square(place).sum(axis=1).mean()
    return float(total)
