"""One entrant with one seed: its process, and its curve, which is judged after the process has ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from envs.settings.configs import compose
from measure.race.config import MEASURED, RaceConfig
from measure.race.snapshots import Kept, kept_by_rival, kept_by_us
from rfx.robot.files import load_robot
from rfx.system.folders import replace_file
from train.judge.evaluation import evaluate
from train.judge.play import EPISODE_S, evaluation_env
from train.task.errors import InputError

CURVE, CHECKPOINT_STEPS, JUDGE_SEED = "curve.json", 25_000, 0
PASSIVE = {
    "OMP_WAIT_POLICY": "passive"
}  # for PyTorch's threads: spinning threads would take the cores from the physics


@dataclass(frozen=True, kw_only=True)
class Racer:
    """An entrant with a seed, and its folder."""

    race: RaceConfig
    name: str
    seed: int

    @property
    def folder(self) -> Path:
        """The folder that it writes into."""
        return Path(self.race.folder, self.name, str(self.seed))

    @property
    def command(self) -> list[str]:
        """The arguments of `python -m` that train it, for a rival without the start time of its process."""
        race, steps = self.race, self.race.steps
        if race.entrants[self.name].library == "rfx":
            return [
                "train",
                f"+robot={race.robot}",
                f"seed={self.seed}",
                f"trainer.checkpoint_every={CHECKPOINT_STEPS}",
                "trainer.keep_checkpoints=10000",
                *([f"trainer.total_steps={steps}"] if steps else []),
                *race.entrants[self.name].settings.get("overrides", ()),
                f"hydra.run.dir={self.folder}",
            ]
        milestones = ",".join(f"{value:g}" for value in race.milestones_s)
        return [
            "measure.race.rival",
            f"name={self.name}",
            f"seed={self.seed}",
            f"folder={self.folder}",
            f"robot={race.robot}",
            f"seconds={race.seconds:g}",
            *([f"steps={steps}"] if steps else []),
            f"milestones_s=[{milestones}]",
        ]

    def curve(self, tell: Callable[[str], None]) -> dict[str, Any]:
        """Train and judge, unless the same command has done so. Returns the contents of curve.json.

        Raises InputError if it failed.
        """
        path, command = self.folder / CURVE, " ".join(["python", "-m", *self.command])
        if path.is_file() and (found := json.loads(path.read_text()))["command"] == command:
            tell("measured before")
            return found
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        tell("learning")
        kept = self.train()
        curve = {
            "command": command,
            "seconds": [round(policy.seconds, 2) for policy in kept],
            "steps": [policy.steps for policy in kept],
        }
        judged = []
        for index, policy in enumerate(kept, 1):
            tell(f"judging policy {index} of {len(kept)}")
            judged.append(judge(self.race, policy))
        curve |= {name: [figures[name] for figures in judged] for name in MEASURED}
        replace_file(path, (json.dumps(curve) + "\n").encode())
        return curve

    def train(self) -> list[Kept]:
        """Run the process to its end. Returns the policies that it kept. Raises InputError if it failed."""
        ours, log, started = self.race.entrants[self.name].library == "rfx", self.folder / "log.txt", time.time()
        command, environment = (
            [*self.command, *([] if ours else [f"started={started!r}"])],
            os.environ | ({} if ours else PASSIVE),
        )
        with open(log, "w") as file:
            done = subprocess.run(
                [sys.executable, "-m", *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        ended = time.time()
        if done.returncode:
            raise InputError(f"{self.name} with seed {self.seed} ended with exit code {done.returncode}: see {log}")
        if not ours:
            return kept_by_rival(self.folder, started)
        steps = json.loads((self.folder / "result.json").read_text())["steps"]
        return kept_by_us(self.folder, started, ended, steps, self.race.milestones_s)


def judge(race: RaceConfig, policy: Kept) -> Mapping[str, Any]:
    """The figures of a policy, as in `python -m train.evaluate`.

    Robots are nominal, there is no exploration, and nobody learned on these seeds.
    """
    return evaluate(
        policy.act(), judge_env(race.robot, race.evaluation_envs), seed=JUDGE_SEED, duration_s=EPISODE_S
    ).to_dict()


@cache
def judge_env(robot: str, num_envs: int) -> LeggedEnv:
    """The environments for judging policies."""
    whole = compose("robot", robot)
    return evaluation_env(EnvConfig.from_dict(whole["env"]), load_robot(whole["robot"]), num_envs=num_envs)


def racers(race: RaceConfig) -> Sequence[Racer]:
    """All racers, seed by seed, so that a race that is cut short has results of everyone."""
    return [Racer(race=race, name=name, seed=seed) for seed in range(race.seeds) for name in race.racing]
