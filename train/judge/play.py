"""Plays a policy in an environment: the one loop behind evaluations, the suite and the video."""

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
]  # observations (N, max_state_dim) -> actions (N, action_dim), for the same robots at every step

EPISODE_S = 20.0  # falls are counted per episode of this length
DISTURBANCES = (
    "randomize",
    "randomization",
    "noise",
    "push_interval_s",
    "pushes",
)  # keys of EnvConfig that only some evaluations use
TASK_KEYS = (
    "timestep_s",
    "command_interval_s",
    "mjcf",
    "commands",
    "resets",
    "terminations",
    *DISTURBANCES,
)  # keys of a task that affect an evaluation
EVALUATION_KEY = 0xE7A1  # separates the seeds of evaluations from those of training, for any seed


@dataclass(frozen=True)
class PolicyAct:
    """A loaded policy as an Act."""

    policy: rfx.LoadedPolicy

    def __call__(self, observation: Array) -> Array:
        return self.policy({"state": observation})

    def reset(self, rows: Array | None = None) -> None:
        """Tell the policy that the robots in rows begin an episode; without rows, all robots do."""
        self.policy.reset(rows)


@dataclass(frozen=True, kw_only=True)
class Step:
    """How a control step ended, for each of N robots, as bool arrays."""

    terminated: Array
    truncated: Array
    failed: Array

    @property
    def fell(self) -> Array:
        """Whether the robot fell, (N,), bool.

        A failed simulation counts as a fall: a robot whose state cannot be computed does not walk.
        """
        return self.terminated | self.failed


def play(act: Act, env: LeggedEnv, *, seed: int, duration_s: float, pushes: bool = True) -> Iterator[Step]:
    """Play act for duration_s; yields once before the first control step and then after each one.

    Between steps the caller may read and change env.state. The same seed gives the same commands and starts. Training
    uses none of them. A policy with memory is told when episodes begin. If the environment pushes, it pushes from the
    first second on; with pushes=False it does not push before its shortest interval is over.
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
    """Reset the memory of an act that has a method reset: of the robots in rows (N,), bool, or of all without rows."""
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
    """num_envs environments with the task's commands, resets and terminations, and nothing else of the task.

    timestep_s and mjcf replace the physics step and the model. All episodes begin together and last 20 s. changes are
    further keys of EnvConfig, such as those of train/judge/conditions.py. Raises as LeggedEnv does.
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
    """The environment's seed for an evaluation: a branch of SeedSequence(seed) that training never spawns."""
    return int(np.random.SeedSequence(seed, spawn_key=(EVALUATION_KEY,)).generate_state(1)[0])


def load(path: str) -> rfx.LoadedPolicy:
    """Load a policy that names its robot. Raises ValueError for a policy that does not, and as load_policy does."""
    policy = rfx.load_policy(path)
    if policy.robot_config is None:
        raise ValueError(f"{path} does not say which robot it is for: save it with robot_config")
    return policy


def task_of(training_info: Mapping[str, Any], robot: str) -> EnvConfig:
    """The task that a policy was trained for, read from its folder; if it is not there, the robot's default task.

    Raises ValueError for a task with terms or values that this rfx does not have.
    """
    task = training_info.get("env", training_info.get("task"))  # older rfx wrote the key `task`
    if not isinstance(task, Mapping):
        return EnvConfig.load(robot)
    return read(EnvConfig, {key: task[key] for key in TASK_KEYS if key in task}, "training_info.env")
