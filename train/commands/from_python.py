"""Training from Python: what `from train import train` gives."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rfx.loading.loaded_policy import LoadedPolicy, load_policy
from train.commands.compose import compose_run, override
from train.commands.train import go_on, run_alone, take_robot_folders
from train.ppo.errors import TrainingBroken
from train.runs.callbacks import Callback
from train.sweeps.sweep import SweepFolder
from train.task.errors import InputError, bad_input

FOLDER = "hydra.run.dir"  # what says the folder on the command line


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """What a run came to."""

    status: str  # "finished"; "ended", by a callback; "pruned", by a callback that gives runs up
    folder: Path  # policy/, evaluation.json, metrics.csv, checkpoints/, run.json
    steps: int  # environment steps, summed over environments
    wall_s: float
    figures: Mapping[
        str, float
    ]  # of the policy, by name (NaN: could not be measured), and `score`, of which lower is better
    policy: LoadedPolicy  # the best of the run


def train(
    robot: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    callbacks: Iterable[Callback | Callable] = (),
    folder: str | Path | None = None,
    quiet: bool = False,
) -> TrainedRun:
    """Train as `python -m train +robot=ROBOT KEY=VALUE ...` does, with the same defaults, checks and folder.

    robot is a robot's name, the folder of a robot's files, or gym. settings are by dotted key as on the command line,
    also `preset`, `resume` and keys with a plus; values are Python's own. folder is the run's, by default
    runs/DATE_TIME. quiet prints nothing. callbacks are Callback objects, or functions of steps and metrics that are
    called after every iteration; True ends the run there, and its policy is judged as at the end of any other. SIGINT
    and SIGTERM end it as they end the command, with a checkpoint on disk: KeyboardInterrupt or SystemExit is raised
    then. Raises InputError for what cannot be run, TrainingBroken where training fails.
    """
    settings = dict(settings or {})
    if folder is not None:
        if FOLDER in settings:
            raise InputError(f"got folder={str(folder)!r} and {FOLDER}={settings[FOLDER]!r}: give one of them")
        settings[FOLDER] = folder
    callbacks = list(callbacks)
    given = [f"+robot={robot}", *(override(key, value) for key, value in settings.items())]
    given = take_robot_folders(go_on(given, (lambda line: None) if quiet else print))
    composed = compose_run(given)
    path = composed.folder if FOLDER in settings else unused(composed.folder)
    with bad_input():
        SweepFolder.made = None if path.exists() else path  # removed again where the run cannot begin
        composed.write(path)
    path, result = run_alone(
        composed.values,
        path,
        composed.overrides,
        composed.robot,
        Console(quiet=True, force_terminal=False) if quiet else Console(),
        callbacks,
    )
    if result["status"] == "failed":
        raise TrainingBroken(result["error"])
    if result["status"] == "stopped":
        raise KeyboardInterrupt if result["exit_code"] == 128 + signal.SIGINT else SystemExit(result["exit_code"])
    if result["policy"] is None:
        raise InputError(f"the policy could not be written into {path}: make room, then train again with resume={path}")
    figures = {figure["name"]: figure["value"] for figure in result["figures"]}
    if result["evaluation"]:
        figures["score"] = math.inf if result["evaluation"]["score"] is None else result["evaluation"]["score"]
    return TrainedRun(
        status=result["status"],
        folder=path,
        steps=result["steps"],
        wall_s=result["wall_s"],
        figures=figures,
        policy=load_policy(result["policy"]),
    )


def unused(folder: Path) -> Path:
    """The folder, or the first of folder_2, folder_3, ... that is not there: runs may begin within one second."""
    names = itertools.chain([folder], (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2)))
    return next(path for path in names if not path.exists())
