"""Training from Python: the function behind `from train import train`."""

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

FOLDER = "hydra.run.dir"  # Hydra's key for the folder of a run


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """The result of a training run."""

    status: str  # "finished"; "ended" by a callback; "pruned" by a callback that gives up on the run
    folder: Path  # holds policy/, evaluation.json, metrics.csv, checkpoints/, run.json
    steps: int  # environment steps, summed over environments
    wall_s: float
    figures: Mapping[
        str, float
    ]  # figures of the policy by name (NaN: could not be measured), and `score` (lower is better)
    policy: LoadedPolicy  # the best policy of the run


def train(
    robot: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    callbacks: Iterable[Callback | Callable] = (),
    folder: str | Path | None = None,
    quiet: bool = False,
) -> TrainedRun:
    """Train as `python -m train +robot=ROBOT KEY=VALUE ...` does, with the same defaults, checks and folder.

    robot: a robot's name, the folder of a robot's files, or gym. settings: Python values by dotted key, with the keys
    of the command line, including `preset`, `resume` and keys with a plus. folder: the folder of the run, by default
    runs/DATE_TIME. quiet: prints nothing. callbacks: Callback objects, or functions of steps and metrics that are
    called after every iteration. A callback that returns True ends the run, and the policy is still judged as at the
    end of any other run. SIGINT and SIGTERM end the run as they end the command: a checkpoint is written, then
    KeyboardInterrupt or SystemExit is raised. Raises InputError for a run that cannot begin, TrainingBroken if training
    fails.
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
        SweepFolder.made = None if path.exists() else path  # removed again if the run cannot begin
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
    """The folder, or the first free one of folder_2, folder_3, ...: two runs may begin within one second."""
    names = itertools.chain([folder], (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2)))
    return next(path for path in names if not path.exists())
