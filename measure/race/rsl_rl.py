"""rsl_rl's OnPolicyRunner and PPO in our environments. Import this only if rsl_rl is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from measure.race.snapshots import Network, Stopwatch
from rfx.robot.mirror import Mirror
from rfx.robot.state import Array


class BatchedEnv(VecEnv):
    """Present a Gymnasium vector environment with same-step autoreset as rsl_rl's VecEnv.

    Observations are its first num_columns, as `state`. extras["time_outs"] (N,) marks the episodes that ended without a
    fall.
    """

    def __init__(self, env: VectorEnv, seed: int, num_columns: int, max_steps: int):
        self.env, self.num_envs, self.num_actions, self._num_columns = (
            env,
            env.num_envs,
            env.single_action_space.shape[0],
            num_columns,
        )
        self.max_episode_length, self.episode_length_buf = max_steps, torch.zeros(env.num_envs, dtype=torch.long)
        self.device, self.cfg = "cpu", {}
        self._observations = self._tensors(env.reset(seed=seed)[0])

    def get_observations(self) -> TensorDict:
        """The present observations."""
        return self._observations

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Observations, rewards (N,), dones (N,) and extras."""
        observation, reward, terminated, truncated, _ = self.env.step(actions.numpy())
        done = torch.from_numpy(terminated | truncated)
        self.episode_length_buf = torch.where(done, 0, self.episode_length_buf + 1)
        self._observations = self._tensors(observation)
        return (
            self._observations,
            torch.from_numpy(reward),
            done,
            {"time_outs": torch.from_numpy(truncated & ~terminated)},
        )

    def _tensors(self, observation: Mapping[str, Array]) -> TensorDict:
        state = torch.from_numpy(np.ascontiguousarray(observation["state"][:, : self._num_columns]))
        return TensorDict({"state": state}, batch_size=[self.num_envs])


class MirroredSamples:
    """Observations and actions followed by their mirror images: what rsl_rl calls a data augmentation function."""

    def __init__(self, mirror: Mirror, num_columns: int, num_actions: int):
        self._observation = torch.from_numpy(
            mirror.observation(np.eye(num_columns, dtype=np.float32))
        )  # rows: products with them mirror
        self._action = torch.from_numpy(mirror.action(np.eye(num_actions, dtype=np.float32)))

    def __call__(
        self, env: VecEnv, obs: TensorDict | None, actions: torch.Tensor | None
    ) -> tuple[TensorDict | None, torch.Tensor | None]:
        """Turn n rows of each into 2 n."""
        if obs is not None:
            obs = TensorDict(
                {"state": torch.cat((obs["state"], obs["state"] @ self._observation))}, batch_size=[2 * len(obs)]
            )
        return obs, None if actions is None else torch.cat((actions, actions @ self._action))


def network(runner: OnPolicyRunner, activation: str) -> Network:
    """The runner's deterministic policy, with its normalization."""
    actor = runner.alg.get_policy()
    linear = [module for module in actor.mlp if isinstance(module, torch.nn.Linear)]
    normalizer = actor.obs_normalizer
    return Network(
        layers=[(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in linear],
        clip=np.inf,
        mean=normalizer.mean.numpy(),
        scale=(1.0 / (normalizer.std + normalizer.eps)).numpy(),
        activation=activation,
    )


def runner_of(env: VectorEnv, seed: int, settings: Mapping[str, Any]) -> OnPolicyRunner:
    """The runner that settings describe, in env, whose reset has this seed."""
    num_columns = env.robot.state_dim
    adapted = BatchedEnv(env, seed, num_columns, env.max_steps)
    model = {
        "class_name": "MLPModel",
        "hidden_dims": list(settings["hidden"]),
        "activation": settings["activation"],
        "obs_normalization": True,
    }
    algorithm = {"class_name": "PPO", **settings["algorithm"]}
    if settings.get("mirrored_samples"):
        mirrored = MirroredSamples(Mirror(env.robot), num_columns, adapted.num_actions)
        algorithm["symmetry_cfg"] = {"use_data_augmentation": True, "data_augmentation_func": mirrored}
    distribution = {"class_name": "GaussianDistribution", "init_std": settings["initial_std"], "std_type": "scalar"}
    return OnPolicyRunner(
        adapted,
        {
            "num_steps_per_env": settings["num_steps"],
            "save_interval": 10**9,
            "obs_groups": {"actor": ["state"], "critic": ["state"]},
            "actor": model | {"distribution_cfg": distribution},
            "critic": model,
            "algorithm": algorithm,
        },
        log_dir=None,
    )


def learn(env: VectorEnv, seed: int, watch: Stopwatch, settings: Mapping[str, Any]) -> None:
    """Learn in env, whose reset has this seed, until the watch says that it is over."""
    runner, steps = runner_of(env, seed, settings), 0
    while not watch.is_over(steps):
        runner.learn(1)
        steps += settings["num_steps"] * env.num_envs
        if watch.is_due():
            watch.keep(network(runner, settings["activation"]), steps)
    watch.keep(network(runner, settings["activation"]), steps)
