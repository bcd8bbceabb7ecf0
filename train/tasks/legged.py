"""The walking task: a legged robot follows velocity commands; falls and velocity errors judge a policy."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from envs.legged import commands, privileged, pushes, randomization, resets, rewards, terminations
from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from envs.settings.configs import options
from rfx.loading.loaded_policy import LoadedPolicy
from rfx.robot.files import load_robot
from rfx.robot.mirror import Mirror
from rfx.settings.reader import read, read_value
from rfx.settings.terms import available, find, parameters_of, term_of
from train.judge.conditions import as_trained
from train.judge.evaluation import evaluate
from train.judge.play import PolicyAct, evaluation_env, evaluation_seed
from train.task.config import TrainConfig
from train.task.task import Figure, Judgement

# Seeds of the judgements that choose a policy. `python -m train.evaluate` uses other seeds, by default 0.
TRAINING_SEED, FINAL_SEED = (1, 2)
# Sections of EnvConfig, and the modules of their terms
SECTIONS = {
    "commands": commands,
    "resets": resets,
    "randomization": randomization,
    "pushes": pushes,
    "terminations": terminations,
    "rewards": rewards,
}
# Entries of a RobotConfig that change no observation and no action
UNLIKE_MAY_BE = ("name", "mjcf", "cameras", "feet", "hardware")


class LeggedTask:
    """The Task of a run with `task: legged`; it needs `robot`, and its `env` is defined in envs/legged/config.py."""

    shown = (
        Figure(name="episode/length_s", label="length", unit="s", format=".1f"),
        Figure(name="episode/falls", label="falls", format=".2f"),
        Figure(name="episode/error_vx", label="error vx", unit="m/s"),
        Figure(name="episode/error_vy", label="error vy", unit="m/s"),
        Figure(name="episode/error_yaw_rate", label="yaw rate", unit="rad/s"),
    )

    def __init__(self, config: TrainConfig):
        self.config, self.robot = config, load_robot(config.robot)
        self.state_dim = self.robot.state_dim

    @classmethod
    def read_env(cls, values: Mapping[str, Any]) -> EnvConfig:
        """Check every key of the `env` section, and the parameters of every term.

        Raises ValueError, also if no robot is given.
        """
        if not values.get("robot"):
            raise ValueError(f"no robot given: choose one with +robot=NAME, possible are {', '.join(options('robot'))}")
        check_entries(values.get("env", {}))
        config = read(EnvConfig, values.get("env", {}), "env")
        check_terms(config)
        for name in (values.get("policy") or {}).get("critic_terms") or ():
            find(privileged, name)
        return config

    @property
    def critic_terms(self) -> tuple[str, ...]:
        """The names of the terms that a privileged critic reads, in order; empty for a shared critic."""
        policy = self.config.policy
        if policy.critic != "privileged":
            return ()
        return policy.critic_terms or tuple(available(privileged))

    def make_env(self, rows: range | None = None) -> LeggedEnv:
        """Make the robots to learn with, or only rows of them."""
        return LeggedEnv(
            config=self.config.env,
            robot=self.robot,
            rows=rows,
            threads=self.config.threads,
            critic_terms=self.critic_terms,
        )

    def judge(
        self, policy: LoadedPolicy, *, final: bool = False, after_step: Callable[[], None] | None = None
    ) -> Judgement:
        """Play a policy on seeded commands with the disturbances of training.

        A task with terrain is judged on terrain drawn from another seed.
        """
        settings = self.config.trainer
        env, duration_s = (
            (self._final_env, settings.final_evaluation_s) if final else (self._training_env, settings.evaluation_s)
        )
        return evaluate(
            PolicyAct(policy),
            env,
            seed=FINAL_SEED if final else TRAINING_SEED,
            duration_s=duration_s,
            tracking=True,
            after_step=after_step,
        ).judgement()

    @cached_property
    def _training_env(self) -> LeggedEnv:
        return self._evaluation_env(self.config.trainer.evaluation_envs)

    @cached_property
    def _final_env(self) -> LeggedEnv:
        return self._evaluation_env(self.config.trainer.final_evaluation_envs)

    def _evaluation_env(self, num_envs: int) -> LeggedEnv:
        task = self.config.env
        terrain = task.terrain and task.terrain.for_evaluation(evaluation_seed(TRAINING_SEED))
        return evaluation_env(
            task, self.robot, num_envs=num_envs, threads=self.config.threads, terrain=terrain, **as_trained(task)
        )

    def export(self, policy: LoadedPolicy, path: Path, training_info: Mapping[str, Any]) -> None:
        """Write the policy folder, with the policy's robot."""
        policy.policy.save(path, robot_config=self.robot, normalizer=policy.normalizer, training_info=training_info)

    def mirror(self) -> Mirror:
        """The mirror that swaps the robot's left and right."""
        return Mirror(self.robot)

    def meaning(self) -> dict[str, Any]:
        """The critic's terms in order, and the robot's entries that change observations or actions."""
        robot = {key: value for key, value in self.robot.to_dict().items() if key not in UNLIKE_MAY_BE}
        joints = {joint["name"]: joint for joint in robot.pop("joints")}
        return {"robot": robot | {"joints": joints}, "policy": {"critic_terms": list(self.critic_terms)}}

    def commands(self, path: Path) -> dict[str, str]:
        """The commands that evaluate the policy and run it."""
        return {"evaluate": f"python -m train.evaluate policy={path}", "deploy": f"rfx deploy {path} --robot sim"}


def check_entries(env: Mapping[str, Any]) -> None:
    """Raises ValueError for a term with a value in place of its parameters; it names the key that takes the value."""
    for section, module in SECTIONS.items():
        entries = env.get(section)
        for name, value in entries.items() if isinstance(entries, Mapping) else ():
            if not isinstance(value, Mapping):
                key = f"env.{section}.{name}"
                inner = "weight" if section == "rewards" else next(iter(parameters_of(module, name)), "term")
                raise ValueError(
                    f"{key} is {value!r}: a term has parameters; write {key}.{inner}={json.dumps(value)}, or ~{key} to leave it out"
                )


def check_terms(config: EnvConfig) -> None:
    """Raises ValueError for an unknown term, or a parameter that does not have its function's type.

    Also raises it for an entry with a dot in its name, because dots separate groups where a run saves its settings.
    """
    for section, module in SECTIONS.items():
        for name, parameters in getattr(config, section).items():
            if "." in name:
                raise ValueError(
                    f"env.{section} has the entry {name!r}: call it otherwise, without a dot, and say term: {name}"
                )
            hints = _hints(term_of(module, name, parameters)) | ({"weight": float} if section == "rewards" else {})
            for key, value in parameters.items():
                if key in hints:  # an unknown one is refused when the environment binds the term
                    read_value(hints[key], value, f"env.{section}.{name}.{key}")


def _hints(term: Callable) -> dict[str, Any]:
    """The types of a term's parameters; empty if an annotation cannot be resolved in the term's module."""
    try:
        return typing.get_type_hints(term)
    except (NameError, AttributeError, TypeError):
        return {}
