"""`python -m measure.race.rival name=NAME seed=SEED folder=FOLDER` trains one rival, and saves its policies meanwhile.

started=SECONDS is the start of the process, in the time of time.time(), by default now. Further arguments are those of
the race.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

import numpy as np

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from envs.settings.configs import compose
from measure.gym import key_values
from measure.race.config import RaceConfig, read_race
from measure.race.snapshots import SNAPSHOTS, Stopwatch
from rfx.robot.files import load_robot


def learn(race: RaceConfig, name: str, seed: int, started: float) -> None:
    """Train the rival called name until its time is over; race.folder is its own folder."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    np.random.seed(seed)  # Stable-Baselines3 shuffles its minibatches with this generator
    entrant, whole = race.entrants[name], compose("robot", race.robot)
    env = LeggedEnv(entrant.num_envs, config=EnvConfig.from_dict(whole["env"]), robot=load_robot(whole["robot"]))
    watch = Stopwatch(
        folder=Path(race.folder, SNAPSHOTS),
        started=started,
        milestones_s=race.milestones_s,
        seconds=race.seconds,
        steps=race.steps,
    )
    library = importlib.import_module(f"measure.race.{entrant.library}")
    library.learn(env, env_seed(seed), watch, {"hidden": list(whole["policy"]["hidden"]), **entrant.settings})


def env_seed(seed: int) -> int:
    """The environments' seed of our trainer's run with this seed: the same robots, commands and pushes for everyone."""
    return int(np.random.SeedSequence(seed, spawn_key=(3,)).generate_state(1)[0])


def main(arguments: list[str]) -> None:
    """Run the command line."""
    values = key_values(arguments)
    own = {name: values.pop(name, default) for name, default in (("name", None), ("seed", 0), ("started", time.time()))}
    race = read_race([argument for argument in arguments if argument.partition("=")[0] in values])
    learn(race, str(own["name"]), int(own["seed"]), float(own["started"]))


if __name__ == "__main__":
    main(sys.argv[1:])
