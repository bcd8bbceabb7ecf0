"""`python -m measure.race` lets our trainer and its rivals learn the same walking task, and shows error over wall time.

    python -m measure.race                                              everyone, three seeds: 1.5 hours on two cores
    python -m measure.race learners=[ours,rsl_rl] seeds=1 seconds=120   some of them
    python -m measure.race robot=NAME folder=runs/race_NAME             another robot

All use the same cores. Policies are saved during training, and judged afterwards. Time counts from a process's start.
Start the command again with the same folder to go on with an interrupted race: finished measurements are kept.
measure/race.yaml says who takes part, and with which settings.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from measure.race.config import LIBRARIES, MEASURED, RaceConfig, read_race
from measure.race.plot import MOST_ERROR, MOST_FALLS, draw
from measure.race.runs import racers
from rfx.system.extras import missing
from rfx.system.folders import replace_file
from train.runs.fingerprint import provenance
from train.task.errors import bad_input, exit_on_error

PACKAGES = ("rsl-rl-lib", "stable-baselines3", "torch")


def run(race: RaceConfig, console: Console) -> dict[str, Any]:
    """Race, and write medians, curves and picture after each seed. Returns the medians, as JSON types."""
    with bad_input():
        check_installed(race)
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in race.racing}
    for racer in racers(race):
        label = f"{racer.name}, seed {racer.seed}"
        with console.status(label) as status:
            curves[racer.name].append(racer.curve(lambda doing, label=label: status.update(f"{label}: {doing}")))
        last = {name: values[-1] for name, values in curves[racer.name][-1].items()}
        console.print(
            f"{label}: {last['steps']:,} steps in {last['seconds']:.0f} s, falls {text(last['falls_per_episode'])}, errors "
            f"{', '.join(text(last[name]) for name in MEASURED[1:])}",
            highlight=False,
            soft_wrap=True,
        )
        if racer.name == race.racing[-1]:
            result = write(race, curves)
    console.print(table(result["learners"]), highlight=False)
    return result


def check_installed(race: RaceConfig) -> None:
    """Raises ImportError that names a missing extra of the racers or the picture."""
    for module in (*(LIBRARIES[race.entrants[name].library] for name in race.racing), "matplotlib"):
        if module and find_spec(module) is None:
            raise missing("the race", module)


def write(race: RaceConfig, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Write the medians, every curve, and the picture. Returns the medians."""
    result = {
        "robot": race.robot,
        "seeds": race.seeds,
        "robots_judged": race.evaluation_envs,
        "versions": versions(),
        "command": shlex.join(["python", "-m", "measure.race", *sys.argv[1:]]),
        "learners": {
            name: summary(race, of_learner) | {"label": race.entrants[name].label}
            for name, of_learner in curves.items()
        },
    }
    plot, output = Path(race.plot or Path(race.folder, "race.png")), Path(race.output or Path(race.folder, "race.json"))
    whole = result | {
        "provenance": provenance(),
        "earlier": {name: asdict(earlier) for name, earlier in race.earlier.items()},
        "learners": {name: asdict(race.entrants[name]) | {"curves": of_learner} for name, of_learner in curves.items()},
    }
    for path, data in (
        (output, (json.dumps(result, indent=1) + "\n").encode()),
        (plot.with_suffix(".curves.json"), (json.dumps(whole) + "\n").encode()),
        (plot, draw(whole)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    return result


def summary(race: RaceConfig, curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over seeds: steps/s, time to the targets, and figures of the last policy before each milestone.

    reached_s is None if at least half of the seeds never met the targets. reached counts the seeds that met them.
    """
    times = [first_met(curve) for curve in curves]
    median_s = float(np.median(times))
    at = {
        f"{milestone:g}_s": {name: median([value_at(curve, name, milestone) for curve in curves]) for name in MEASURED}
        for milestone in race.milestones_s
    }
    return {
        "seeds": len(curves),
        "reached": sum(np.isfinite(times).tolist()),
        "reached_s": median_s if np.isfinite(median_s) else None,
        "steps_per_s": median([curve["steps"][-1] / curve["seconds"][-1] for curve in curves]),
        "last": {name: median([curve[name][-1] for curve in curves]) for name in ("seconds", "steps", *MEASURED)},
        "at": at,
    }


def first_met(curve: Mapping[str, Any]) -> float:
    """Seconds until the first policy that met the targets of falls and errors; infinite if none did."""
    rows = zip(curve["seconds"], *(curve[name] for name in MEASURED))
    return next(
        (
            seconds
            for seconds, falls, *errors in rows
            if falls <= MOST_FALLS and all(error is not None and error <= MOST_ERROR for error in errors)
        ),
        np.inf,
    )


def value_at(curve: Mapping[str, Any], name: str, seconds: float) -> float | None:
    """A figure of the last policy up to that time; None before the first policy."""
    known = [value for time_s, value in zip(curve["seconds"], curve[name]) if time_s <= seconds]
    return known[-1] if known else None


def median(values: Sequence[float | None]) -> float | None:
    """The median; None if a value is missing."""
    return None if None in values else float(np.median(values))


def versions() -> dict[str, str | None]:
    """Versions of the rivals' packages."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def table(learners: Mapping[str, Mapping[str, Any]]) -> Table:
    """The medians as a table for the terminal."""
    shown = Table(
        title=f"Seconds until at most {MOST_FALLS} falls per 20 s and errors of {MOST_ERROR:.2f}, and the last policy; medians",
        title_justify="left",
        box=None,
        title_style="bold",
        pad_edge=False,
    )
    for head in ("learner", "seconds", "seeds", "steps/s", "after", "falls", "vx", "vy", "yaw rate"):
        shown.add_column(head, justify="left" if head == "learner" else "right")
    for learner in learners.values():
        last = learner["last"]
        shown.add_row(
            learner["label"],
            text(learner["reached_s"], ".0f"),
            f"{learner['reached']} of {learner['seeds']}",
            f"{learner['steps_per_s']:,.0f}",
            f"{last['seconds']:.0f} s",
            *(text(last[name]) for name in MEASURED),
        )
    return shown


def text(value: float | None, spec: str = ".3f") -> str:
    """A figure as text; a dash if it could not be measured."""
    return "-" if value is None else format(value, spec)


def main() -> None:
    """Run the command line."""
    with exit_on_error():
        with bad_input():
            race = read_race(sys.argv[1:])
        run(race, Console())


if __name__ == "__main__":
    main()
