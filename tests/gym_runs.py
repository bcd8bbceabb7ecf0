"""Small runs in Gymnasium environments."""

import gym_envs  # noqa: F401  (registers them)
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.gym.env import GymEnv
from envs.gym.make import make_single
from envs.settings.configs import compose, gym_family, merged
from train.task.config import TrainConfig

SMALL = {
    "threads": 1,
    "policy": {"hidden": [32]},
    "ppo": {"num_epochs": 5, "num_minibatches": 4},
    "trainer": {"rollout_steps": 32, "total_steps": 1024, "evaluation_envs": 3, "final_evaluation_envs": 3},
}


def config(id: str, **changed) -> TrainConfig:
    family = compose("gym", gym_family(id))
    return TrainConfig.from_dict(
        merged(merged(merged(compose("tasks", "gym"), family), merged(SMALL, {"env": {"id": id}})), changed)
    )


def sync(id: str, num_envs: int, mode: AutoresetMode) -> GymEnv:
    return GymEnv(SyncVectorEnv([lambda: make_single(id, {})] * num_envs, autoreset_mode=mode), id)
