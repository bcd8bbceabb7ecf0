"""Playing a policy in an environment: the one loop that evaluations, the suite and the video go through."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import rfx
from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from rfx.robot.config import RobotConfig
from rfx.robot.state import FAILED, Array
from rfx.settings.reader import read

Act = Callable[
    [Array], Array
]  # observations (N, max_state_dim) -> actions (N, action_dim); of the same robots, step after step

EPISODE_S = 20.0  # falls are counted per this much play
DISTURBANCES = (
    "randomize",
    "randomization",
    "noise",
    "push_interval_s",
    "pushes",
)  # of EnvConfig, that only some evaluations play
TASK_KEYS = (
    "timestep_s",
    "command_interval_s",
    "mjcf",
    "commands",
    "resets",
    "terminations",
    *DISTURBANCES,
)  # that matter to a judge
EVALUATION_KEY = 0xE7A1  # sets the seeds of evaluations apart from those of training, whatever the seed


@dataclass(frozen=True)
class PolicyAct:
    """A loaded policy as an Act."""

    policy: rfx.LoadedPolicy

    def __call__(self, observation: Array) -> Array:
        return self.policy({"state": observation})

    def reset(self, rows: Array | None = None) -> None:
        """Tell the policy that robots rows, or without rows all of them, begin an episode."""
        self.policy.reset(rows)


@dataclass(frozen=True, kw_only=True)
class Step:
    """How a control step ended, for each of N robots, bool."""

    terminated: Array
    truncated: Array
    failed: Array

    @property
    def fell(self) -> Array:
        """Whether the robot fell, or its simulation failed, which counts as a fall: what cannot be computed is not
        walking. (N,), bool.
        """
        return self.terminated | self.failed


def play(act: Act, env: LeggedEnv, *, seed: int, duration_s: float, pushes: bool = True) -> Iterator[Step]:
    """Play act for duration_s, yielding once before the first control step and then after each: env.state is there to
    be read and changed.

    The same seed gives the same commands and starts, none used in training. A policy that remembers is told where
    episodes begin. Where the environment pushes, it does so from the first second on; without pushes not before its
    shortest interval is over.
    """
    none = np.zeros(env.num_envs, bool)
    observation, _ = env.reset(seed=evaluation_seed(seed))
    if pushes:
        env.spread_pushes()
    begin_episodes(act)
    yield Step(terminated=none, truncated=none, failed=none)
    for _ in range(round(duration_s / env.step_s)):
        observation, _, terminated, truncated, info = env.step(act(observation["state"]))
        begin_episodes(act, terminated | truncated)
        yield Step(terminated=terminated, truncated=truncated, failed=info.get(FAILED, none))


def begin_episodes(act: Act, rows: Array | None = None) -> None:
    """Reset the memory of an act that has one (a method reset) of robots rows (N,), bool, or without rows of all."""
    if (rows is None or rows.any()) and (reset := getattr(act, "reset", None)):
        reset(rows)


def evaluation_env(
    task: EnvConfig,
    robot: RobotConfig,
    *,
    num_envs: int,
    threads: int = 0,
    timestep_s: float | None = None,
    mjcf: str | None = None,
    **changes: Any,
) -> LeggedEnv:
    """The task's commands, resets and terminations in num_envs environments, and nothing else of it; another physics
    step or model.

    Episodes all begin together and last 20 s. changes are further keys of EnvConfig, such as train/judge/conditions.py
    has. Raises as LeggedEnv does.
    """
    config = EnvConfig(
        num_envs=num_envs,
        timestep_s=timestep_s or task.timestep_s,
        episode_length_s=EPISODE_S,
        command_interval_s=task.command_interval_s,
        mjcf=mjcf or task.mjcf,
        commands=task.commands,
        resets=task.resets,
        terminations=task.terminations,
    )
    return LeggedEnv(config=dataclasses.replace(config, **changes), robot=robot, threads=threads)


def evaluation_seed(seed: int) -> int:
    """The environment's seed for an evaluation: a branch of SeedSequence(seed) that training does not spawn."""
    return int(np.random.SeedSequence(seed, spawn_key=(EVALUATION_KEY,)).generate_state(1)[0])


def load(path: str) -> rfx.LoadedPolicy:
    """A policy that says which robot it is for. Raises ValueError for another, and as load_policy does."""
    policy = rfx.load_policy(path)
    if policy.robot_config is None:
        raise ValueError(f"{path} does not say which robot it is for: save it with robot_config")
    return policy


def task_of(training_info: Mapping[str, Any], robot: str) -> EnvConfig:
    """The task that a policy was trained for, as its folder says; without that the robot's default one.

    Raises ValueError for a task with terms or values that this rfx does not have.
    """
    task = training_info.get("env", training_info.get("task"))  # folders of rfx before tasks had names say `task`
    if not isinstance(task, Mapping):
        return EnvConfig.load(robot)
    return read(EnvConfig, {key: task[key] for key in TASK_KEYS if key in task}, "training_info.env")
