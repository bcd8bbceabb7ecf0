"""`python -m measure.gym_speed` compares training speed on Gymnasium tasks with physics alone and Stable-Baselines3.

    python -m measure.gym_speed                                     HalfCheetah, Ant and Humanoid: ten minutes
    python -m measure.gym_speed tasks=[Ant-v5] rounds=5 rival=false

Our PPO and that of Stable-Baselines3 take turns on the same cores. Stable-Baselines3 runs Gymnasium's own environment
in rival_processes processes; ours runs in batches. Network, rollout, minibatches and epochs are the same. A turn is a
whole number of iterations, updates included.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console
from rich.table import Table

from envs.gym.make import batched_id, find_spec
from envs.mujoco import TASKS
from envs.settings.configs import compose, gym_family, merged
from measure.gym import key_values
from rfx.settings.reader import read
from rfx.system.extras import missing
from train.bench.throughput import stopwatch
from train.runs.trainer import Trainer
from train.task.config import TrainConfig
from train.task.errors import InputError, bad_input, exit_on_error

TURN_S = 10.0  # least duration of a turn, which is also at least one iteration
WARM_UP = 2  # iterations of the rival before its first turn


@dataclass(frozen=True, kw_only=True)
class GymSpeedConfig:
    """Settings of the command line, as key=value."""

    tasks: tuple[str, ...] = ("HalfCheetah-v5", "Ant-v5", "Humanoid-v5")
    train_steps: int = (
        300_000  # our training before anything is measured: the cost of physics depends on what the policy does
    )
    rounds: int = 3
    rival: bool = True  # Stable-Baselines3, extra rivals
    rival_processes: int = 8
    output: str | None = None  # JSON file for the table's rows; null: only the table

    def __post_init__(self) -> None:
        for name in ("train_steps", "rounds", "rival_processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


def read_arguments(arguments: Sequence[str]) -> GymSpeedConfig:
    """The config that key=value arguments make. Raises ValueError."""
    return read(GymSpeedConfig, key_values(arguments))


def train_config(task: str) -> TrainConfig:
    """The configuration of `python -m train +robot=gym env.id=TASK`. Raises ValueError for an unknown task."""
    return TrainConfig.from_dict(
        merged(merged(compose("tasks", "gym"), compose("gym", gym_family(task))), {"env": {"id": task}})
    )


def measure(config: GymSpeedConfig, task: str) -> dict[str, Any]:
    """Medians over turns: steps/s of physics alone in the loop's states, of our whole loop, and of the rival's loop."""
    trainer = Trainer(train_config(task))
    while trainer.steps < config.train_steps:
        trainer.iterate()
    raw, loop, theirs = [], [], {num_threads: [] for num_threads in sorted({1, len(os.sched_getaffinity(0))})}
    with rival(task, trainer.config, config.rival_processes) if config.rival else nobody() as turn:
        for _ in range(config.rounds):
            physics_per_s, steps_per_s = our_turn(trainer)
            raw.append(physics_per_s)
            loop.append(steps_per_s)
            for num_threads, rates in theirs.items() if config.rival else ():
                rates.append(turn(num_threads))
    figures = {
        "task": task,
        "cores": len(os.sched_getaffinity(0)),
        "raw_steps_per_s": statistics.median(raw),
        "loop_steps_per_s": statistics.median(loop),
        "loop_share_of_raw": statistics.median(ours / physics for ours, physics in zip(loop, raw)),
    }
    if config.rival:
        num_threads, rates = max(theirs.items(), key=lambda item: statistics.median(item[1]))  # its best setting
        figures |= {
            "sb3_steps_per_s": statistics.median(rates),
            "sb3_threads": num_threads,
            "sb3_processes": config.rival_processes,
            "times_sb3": statistics.median(ours / rate for ours, rate in zip(loop, rates)),
        }
    return figures


def our_turn(trainer: Trainer) -> tuple[float, float]:
    """Steps/s of `mujoco.batch` alone, from the time that the loop spends in it, and of the whole loop."""
    begin, steps = time.perf_counter(), trainer.steps
    with stopwatch(trainer.env.env.unwrapped, "_advance") as physics_s:
        while time.perf_counter() - begin < TURN_S:
            trainer.iterate()
    steps = trainer.steps - steps
    return steps / physics_s[0], steps / (time.perf_counter() - begin)


@contextmanager
def nobody() -> Iterator[None]:
    """No rival."""
    yield


@contextmanager
def rival(task: str, ours: TrainConfig, num_processes: int) -> Iterator[Any]:
    """Start Stable-Baselines3 in its own process, which sleeps between turns.

    Yields a function that takes its number of threads, runs a turn and returns steps/s.
    """
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=learn_in_turns, args=(there, task, ours, num_processes)
    )
    process.start()
    there.close()

    def turn(num_threads: int) -> float:
        try:
            here.send((num_threads, TURN_S))
            return here.recv()
        except (EOFError, ConnectionError) as error:
            raise InputError("Stable-Baselines3's process has ended; what it said stands above") from error

    try:
        yield turn
    finally:
        with suppress(ConnectionError):  # it has ended
            here.send(None)
        process.join()


def learn_in_turns(connection: Connection, task: str, ours: TrainConfig, num_processes: int) -> None:
    """Train Stable-Baselines3's PPO with our network, rollout, minibatches and epochs.

    It runs one turn for each (threads, seconds) that it receives, until it receives None.
    """
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

    rollout, ppo, hidden = ours.env.num_envs * ours.trainer.rollout_steps, ours.ppo, list(ours.policy.hidden)
    env = VecNormalize(
        SubprocVecEnv([partial(gymnasium.make, task, disable_env_checker=True)] * num_processes), gamma=ppo.gamma
    )
    model = PPO(
        "MlpPolicy",
        env,
        device="cpu",
        n_steps=rollout // num_processes,
        batch_size=rollout // ppo.num_minibatches,
        n_epochs=ppo.num_epochs,
        learning_rate=ppo.learning_rate,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        policy_kwargs={"net_arch": {"pi": hidden, "vf": hidden}},
    )
    model.learn(WARM_UP * rollout)
    while (turn := connection.recv()) is not None:
        num_threads, seconds = turn
        torch.set_num_threads(num_threads)
        begin, steps = time.perf_counter(), model.num_timesteps
        while time.perf_counter() - begin < seconds:
            model.learn(rollout, reset_num_timesteps=False)
        connection.send((model.num_timesteps - steps) / (time.perf_counter() - begin))
    env.close()


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as a table for the terminal."""
    shown = Table(
        title="Steps a second, medians of turns", title_justify="left", box=None, title_style="bold", pad_edge=False
    )
    for name in ("task", "physics alone", "whole loop", "of physics", "Stable-Baselines3", "times"):
        shown.add_column(name, justify="left" if name == "task" else "right")
    for row in rows:
        theirs = (f"{row['sb3_steps_per_s']:,.0f}", f"{row['times_sb3']:.1f}") if "times_sb3" in row else ("-", "-")
        shown.add_row(
            row["task"],
            f"{row['raw_steps_per_s']:,.0f}",
            f"{row['loop_steps_per_s']:,.0f}",
            f"{row['loop_share_of_raw']:.0%}",
            *theirs,
        )
    return shown


def run(config: GymSpeedConfig, console: Console) -> list[dict[str, Any]]:
    """Measure every task, print the table, write the file. Returns the rows."""
    with bad_input():
        if config.rival and importlib.util.find_spec("stable_baselines3") is None:
            raise missing("the rival", "stable_baselines3")
        for task in config.tasks:
            find_spec(task)
            if not batched_id(task):
                raise ValueError(
                    f"tasks names {task}, which is not in batches: expected some of {', '.join(f'{name}-v5' for name in TASKS)}"
                )
    rows = []
    for task in config.tasks:
        with console.status(task):
            rows.append(measure(config, task))
    console.print(table(rows), highlight=False)
    if config.output:
        Path(config.output).write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return rows


def main() -> None:
    """Run the command line."""
    with exit_on_error():
        with bad_input():
            config = read_arguments(sys.argv[1:])
        run(config, Console())


if __name__ == "__main__":
    main()
