"""`python -m train.bench.race.rival NAME FOLDER SEED STARTED KEY=VALUE...`: one rival learns, and keeps its policies as it goes.

STARTED is when the process was started, as time.time() has it; the other arguments are those of `python -m train.bench.race`.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import numpy as np

from envs.configs import compose
from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from rfx.robot_files import load_robot
from train.bench.race.config import RaceConfig, read_race
from train.bench.race.snapshots import SNAPSHOTS, Stopwatch


def learn(race: RaceConfig, name: str, folder: Path, seed: int, started: float) -> None:
    """Let the rival called name learn until its time is over."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    entrant, whole = race.entrants[name], compose("robot", race.robot)
    env = LeggedEnv(entrant.num_envs, config=EnvConfig.from_dict(whole["env"]), robot=load_robot(whole["robot"]))
    watch = Stopwatch(folder=folder / SNAPSHOTS, started=started, milestones_s=race.milestones_s, seconds=race.seconds, steps=race.steps)
    library = importlib.import_module(f"train.bench.race.{entrant.library}")
    library.learn(env, env_seed(seed), watch, {"hidden": list(whole["policy"]["hidden"]), **entrant.settings})


def env_seed(seed: int) -> int:
    """The environments' seed of our trainer's run with this seed: the same robots, commands and pushes for everyone."""
    return int(np.random.SeedSequence(seed, spawn_key=(3,)).generate_state(1)[0])




if __name__ == "__main__":
    learn(read_race(sys.argv[5:]), sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
