"""Environments with all that a policy acts in them with: what they show now, their history, their noise."""

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
    """All environments of a run, or some, of which first is the first: each behaves the same, to the bit, whichever
    others are here.

    env_seed and noise_seed are the run's. state_dim is how many columns of the observations' state are real: None, all
    of them.
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
        self.tell: Callable[[str], None] = lambda line: None  # workers say there who died; here nobody does
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
        """Fill the rollout, whose environments are these. Returns the value of what is seen after it (N,)."""
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
        """What the environments tell of themselves since the last call, by tag."""
        read = getattr(self.env.unwrapped, "metrics", None)
        return read() if read else {}

    def state_dict(self) -> dict[str, Any]:
        """All that the next rollout depends on: arrays and lists with a row for each environment.

        Of an environment that can, also its state.
        """
        groups = {"noise": self.noise.state_dict()}
        if save := getattr(self.env, "state_dict", None):
            groups |= {"env": save(), "observation": self.observation} | (
                {"history": {"frames": self.history.frames}} if self.history else {}
            )
        return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned, to the bit; with an environment that has no state_dict, in episodes that
        begin anew.

        Raises ValueError for the state of another task or num_envs.
        """
        if load := getattr(self.env, "load_state_dict", None):
            load(part(state, "env."))
            self.observation = {name: np.array(values) for name, values in part(state, "observation.").items()}
            if self.history:
                self.history.load(state["history.frames"])
        self.noise.load_state_dict(part(state, "noise."))


def part(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
