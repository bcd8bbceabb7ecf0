"""Stable-Baselines3's PPO in our environments. Import this only if it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

from measure.race.snapshots import Network, Stopwatch
from rfx.robot.state import Array

ACTIVATIONS = {"tanh": nn.Tanh, "elu": nn.ELU}
LOWEST_RATE, HIGHEST_RATE, STEP = 1e-5, 1e-2, 1.5
FOREVER = 10**12  # steps; the stopwatch ends learning


class BatchedEnv(VecEnv):
    """Present a Gymnasium vector environment with same-step autoreset as Stable-Baselines3's VecEnv.

    Observations are its first num_columns. When an episode ends, its info has terminal_observation.
    TimeLimit.truncated is true unless it ended by a fall.
    """

    def __init__(self, env: VectorEnv, seed: int, num_columns: int):
        self.env, self._first_seed, self._num_columns, self._actions = env, seed, num_columns, None
        super().__init__(env.num_envs, spaces.Box(-np.inf, np.inf, (num_columns,), np.float32), env.single_action_space)

    def reset(self) -> Array:
        """First observations (N, D); the first reset is seeded."""
        observation, _ = self.env.reset(seed=self._first_seed)
        self._first_seed = None
        return observation["state"][:, : self._num_columns]

    def step_async(self, actions: Array) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Observations (N, D), rewards (N,), dones (N,) and infos."""
        observation, reward, terminated, truncated, info = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(terminated | truncated):
            infos[i] = {
                "terminal_observation": info["final_obs"][i]["state"][: self._num_columns],
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
            }
        return observation["state"][:, : self._num_columns], reward, terminated | truncated, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same value for every environment. Raises AttributeError."""
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("environments in a batch have no attributes of their own")

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **options: Any) -> list[Any]:
        raise NotImplementedError("environments in a batch have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


class RateByKL:
    """A learning-rate schedule that follows the mean KL of the last update.

    rsl_rl's adaptive schedule follows the KL of each minibatch instead.
    """

    def __init__(self, rate: float, desired_kl: float):
        self.rate, self.desired_kl = rate, desired_kl

    def __call__(self, progress_remaining: float) -> float:
        return self.rate

    def follow(self, kl: float) -> None:
        """Adapt the rate to an update's KL."""
        if kl > 2.0 * self.desired_kl:
            self.rate = max(self.rate / STEP, LOWEST_RATE)
        elif kl < 0.5 * self.desired_kl:
            self.rate = min(self.rate * STEP, HIGHEST_RATE)


class Watched(BaseCallback):
    """Between two rollouts, keeps the policy if that is due, adapts the learning rate, and ends learning in time."""

    def __init__(self, watch: Stopwatch, activation: str, rate: RateByKL | None):
        super().__init__()
        self.watch, self.activation, self.rate = watch, activation, rate

    def _on_rollout_start(self) -> None:
        kl = self.model.logger.name_to_value.get("train/approx_kl")
        if self.rate and kl is not None:
            self.rate.follow(float(kl))
        if self.watch.is_due():
            self.keep()

    def _on_step(self) -> bool:
        return not self.watch.is_over(self.num_timesteps)

    def keep(self) -> None:
        """Save the present policy."""
        self.watch.keep(network(self.model, self.activation), self.num_timesteps)


def network(model: PPO, activation: str) -> Network:
    """The model's deterministic policy, with its environment's normalization."""
    policy, normalize = model.policy, model.get_vec_normalize_env()
    linear = [
        module for module in (*policy.mlp_extractor.policy_net, policy.action_net) if isinstance(module, nn.Linear)
    ]
    return Network(
        layers=[(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in linear],
        mean=normalize.obs_rms.mean.astype(np.float32),
        clip=normalize.clip_obs,
        activation=activation,
        scale=(1.0 / np.sqrt(normalize.obs_rms.var + normalize.epsilon)).astype(np.float32),
    )


def learn(env: VectorEnv, seed: int, watch: Stopwatch, settings: Mapping[str, Any]) -> None:
    """Learn in env, whose first reset has this seed, until the watch says that it is over."""
    algorithm = dict(settings["algorithm"])
    desired_kl = settings.get("desired_kl")
    rate = RateByKL(algorithm["learning_rate"], desired_kl) if desired_kl else None
    if rate:
        algorithm["learning_rate"] = rate
    hidden = list(settings["hidden"])
    normalized = VecNormalize(
        BatchedEnv(env, seed, env.robot.state_dim),
        norm_reward=settings.get("normalize_reward", False),
        gamma=algorithm.get("gamma", 0.99),
    )
    model = PPO(
        "MlpPolicy",
        normalized,
        device="cpu",
        **algorithm,
        policy_kwargs={
            "net_arch": {"pi": hidden, "vf": hidden},
            "activation_fn": ACTIVATIONS[settings["activation"]],
            "log_std_init": float(np.log(settings["initial_std"])),
            "ortho_init": settings["orthogonal"],
        },
    )
    watched = Watched(watch, settings["activation"], rate)
    model.learn(FOREVER, callback=watched, log_interval=None)
    watched.keep()
