"""Any Gymnasium environment as a task, chosen by its id; the return judges a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from envs.gym.env import GymEnv
from envs.gym.make import batched_id, find_spec, make_in_turn, make_vector
from rfx.loading.loaded_policy import LoadedPolicy
from rfx.robot.mirror import Mirror
from rfx.settings.reader import read
from train.judge.episodes import LONGEST, play_episodes
from train.judge.learning_env import LearningEnv
from train.task.config import TrainConfig
from train.task.task import Figure, Judgement

# Seeds of the judgements that choose a policy. `python -m train.evaluate` uses other seeds, by default 0.
TRAINING_SEED, FINAL_SEED = (1, 2)


@dataclass(frozen=True, kw_only=True)
class GymConfig:
    """The `env` section: which environment, how many of it, and its constructor's arguments."""

    id: str | None = None
    num_envs: int = 64
    batched: bool = True  # use the batched environment of envs/mujoco if it exists
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # arguments of the constructor

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError(
                "no environment given: env.id=ID, such as env.id=HalfCheetah-v5, or env.id=MODULE:ID for one that a module registers"
            )
        if self.num_envs < 1:
            raise ValueError(f"env.num_envs is {self.num_envs}: it must be a whole number of at least 1")


class GymTask:
    """The Task of a run with `task: gym`."""

    state_dim = None
    shown = (
        Figure(name="episode/return", label="return", format=".1f"),
        Figure(name="episode/length", label="length", unit="steps", format=".0f"),
    )

    def __init__(self, config: TrainConfig):
        self.config = config

    @classmethod
    def read_env(cls, values: Mapping[str, Any]) -> GymConfig:
        """Check the `env` section. Raises ValueError, also for a critic or a symmetry that only a robot can have."""
        policy = values.get("policy") or {}
        for key, possible in (("critic", "shared"), ("symmetric", False)):
            if policy.get(key, possible) != possible:
                raise ValueError(
                    f"policy.{key} is {policy[key]!r}: a Gymnasium environment has no more than {key}={possible}"
                )
        env = values.get("env") or {}
        config = read(GymConfig, env, "env")
        return dataclasses.replace(config, kwargs=env.get("kwargs", {}))  # as given: read makes an integer of 10.0

    @property
    def note(self) -> str:
        """How the environments run."""
        config = self.config.env
        quick = batched_id(config.id) if config.batched else None
        if quick:
            return f"{quick}, Gymnasium's {config.id} in batches; env.batched=false takes Gymnasium's own"
        spec = find_spec(config.id)
        how = "in a vector environment of its own" if spec.vector_entry_point else f"in {config.num_envs} processes"
        if spec.max_episode_steps:
            return how
        return f"{how}; it is registered without a time limit: judged episodes are cut after {LONGEST:,} steps"

    def make_env(self, rows: range | None = None) -> GymEnv:
        """Make the environments to learn in, or only rows of them."""
        config = self.config.env
        num_envs = config.num_envs if rows is None else len(rows)
        return LearningEnv(
            make_vector(config.id, num_envs, config.kwargs, batched=config.batched, threads=self.config.threads),
            config.id,
        )

    def judge(
        self, policy: LoadedPolicy, *, final: bool = False, after_step: Callable[[], None] | None = None
    ) -> Judgement:
        """Play a full episode in each of trainer.evaluation_envs, or trainer.final_evaluation_envs, environments."""
        return play_episodes(
            policy,
            self._final_env if final else self._training_env,
            seed=FINAL_SEED if final else TRAINING_SEED,
            conditions={"id": self.config.env.id},
            after_step=after_step,
        )

    @cached_property
    def _training_env(self) -> GymEnv:
        return self._evaluation_env(self.config.trainer.evaluation_envs)

    @cached_property
    def _final_env(self) -> GymEnv:
        return self._evaluation_env(self.config.trainer.final_evaluation_envs)

    def _evaluation_env(self, num_envs: int) -> GymEnv:
        config = self.config.env
        make = make_vector if config.batched and batched_id(config.id) else make_in_turn
        return LearningEnv(make(config.id, num_envs, config.kwargs), config.id)

    def export(self, policy: LoadedPolicy, path: Path, training_info: Mapping[str, Any]) -> None:
        """Write the policy folder, with the spaces, and the environment's id and constructor arguments in `env`."""
        spaces = dataclasses.asdict(self._training_env.spaces)
        policy.policy.save(path, normalizer=policy.normalizer, training_info={**training_info, "spaces": spaces})

    def mirror(self) -> Mirror:
        """Raises ValueError, because a Gymnasium environment has no mirror."""
        raise ValueError(f"{self.config.env.id} has no mirror: set policy.symmetric=false")

    def meaning(self) -> dict[str, Any]:
        """The environment and its spaces."""
        return {
            "env": {"id": self.config.env.id, "kwargs": dict(self.config.env.kwargs)},
            "spaces": dataclasses.asdict(self._training_env.spaces),
        }

    def commands(self, path: Path) -> dict[str, str]:
        """The commands that evaluate the policy and show it."""
        return {"evaluate": f"python -m train.evaluate policy={path}", "play": f"python -m train.play policy={path}"}
