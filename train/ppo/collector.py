"""Environments together with what collection needs: current observations, their history, and the action noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from rfx.policy.history import ObservationHistory
from rfx.policy.normalizer import ObservationNormalizer
from rfx.random.streams import Streams
from train.ppo.collect import collect, parts
from train.ppo.forward import Forward
from train.ppo.rollout import Array, Rollout


class Collector:
    """All environments of a run, or some of them, beginning with number first.

    Each environment behaves the same, bit for bit, whichever others are in this Collector. env_seed and noise_seed are
    the run's seeds. state_dim is the number of real columns in the observations' state; None means all.
    """

    def __init__(
        self,
        env: VectorEnv,
        *,
        env_seed: int,
        noise_seed: int,
        first: int = 0,
        state_dim: int | None = None,
        history: int = 1,
    ):
        self.env, self.first = env, first
        self.tell: Callable[[str], None] = lambda line: None  # subclasses with workers report dead workers here
        self.observation = parts(env.reset(seed=env_seed + first)[0])
        self.state_dim = state_dim or self.observation["state"].shape[1]
        self.noise = Streams(env.num_envs, noise_seed + first)
        self.history = ObservationHistory(history) if history > 1 else None
        if self.history:
            self.history.push(self.observation["state"][:, : self.state_dim])

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def collect(
        self,
        forward: Forward,
        rollout: Rollout,
        normalizer: ObservationNormalizer,
        critic_normalizer: ObservationNormalizer | None = None,
    ) -> Array:
        """Fill the rollout in these environments. Returns the value (N,) of the observation after it."""
        self.observation, value = collect(
            self.env,
            forward,
            normalizer,
            rollout,
            self.observation,
            self.noise,
            history=self.history,
            critic_normalizer=critic_normalizer,
            first=self.first,
        )
        return value

    def metrics(self) -> dict[str, float]:
        """The environments' own metrics since the last call, by tag."""
        read = getattr(self.env.unwrapped, "metrics", None)
        return read() if read else {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next rollout depends on: arrays and lists with a row for each environment.

        It includes the environments' state if they have a state_dict.
        """
        groups = {"noise": self.noise.state_dict()}
        if save := getattr(self.env, "state_dict", None):
            groups |= {"env": save(), "observation": self.observation} | (
                {"history": {"frames": self.history.frames}} if self.history else {}
            )
        return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state that state_dict returned, bit for bit.

        Environments without a state_dict begin new episodes instead. Raises ValueError for the state of another task or
        num_envs.
        """
        if load := getattr(self.env, "load_state_dict", None):
            load(part(state, "env."))
            self.observation = {name: np.array(values) for name, values in part(state, "observation.").items()}
            if self.history:
                self.history.load(state["history.frames"])
        self.noise.load_state_dict(part(state, "noise."))


def part(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with prefix; the prefix is removed from the names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
