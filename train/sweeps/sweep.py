"""The result of a sweep: one row per run, as a printed table and as sweep.csv."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from train.sweeps.points import APART, points, spread
from train.task.errors import one_line
from train.task.task import Figure

SCORE = Figure(name="score", label="score")
BEFORE_RUNS = {"multirun.yaml", "study.db"}  # files in a sweep's folder before its first run
MEASURES = ("score", "env_steps_per_s", "wall_s")  # columns in addition to the figures of the task


class SweepFolder:
    """A Hydra callback that makes the folder of this process's run or sweep.

    It remembers the folder of a sweep, and whether it made the folder.
    """

    path: Path | None = None
    made: Path | None = None

    def on_run_start(self, config: Any, **_: Any) -> None:
        self._claim(config, "run")

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        SweepFolder.path = self._claim(config, "sweep")

    def _claim(self, config: Any, kind: str) -> Path:
        folder, made = claim_folder(config, kind)
        SweepFolder.made = folder if made else None
        return folder

    def _nothing(self, **_: Any) -> None:
        pass

    on_multirun_end = on_run_end = on_job_start = on_job_end = on_compose_config = _nothing


def claim_folder(config: Any, kind: str) -> tuple[Path, bool]:
    """Make the folder hydra.KIND.dir of config; returns the folder, and whether it is new.

    If the folder is already taken, a number is added to its name, unless the command line gave the name. The default
    name is the current second, and two processes may begin in the same second. If the folder cannot be made, Hydra
    reports it.
    """
    key, wanted, overrides = f"hydra.{kind}.dir", Path(config.hydra[kind].dir), config.hydra.overrides.hydra
    asked_for = any(override.lstrip("+").startswith(f"{key}=") for override in overrides)
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()  # only one of two processes succeeds
        except FileExistsError:
            if asked_for:
                return wanted, False
            continue
        except OSError:
            return wanted, False
        break
    if not asked_for:
        config.hydra[kind].dir = str(folder)
        overrides.append(f"{key}={folder}")  # a sweep composes each run's configuration again, from these
    return folder, True


def finish_sweep(folder: Path, console: Console | None = None) -> int:
    """Print the table of the sweep's runs and write sweep.csv, and points.csv if points ran with several seeds.

    Returns the number of failed runs.
    """
    results = read_results(folder)
    rows, varying = compare(results)
    if not rows:
        if folder == SweepFolder.made and folder.is_dir() and {path.name for path in folder.iterdir()} <= BEFORE_RUNS:
            for name in BEFORE_RUNS:
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # not empty, because another process's run has begun there
                folder.rmdir()
        return 0
    console, figures = console or Console(), figures_of(results)
    tables = [("sweep.csv", rows, sweep_table(rows, varying, figures))]
    if several(rows, varying):
        tables.append(("points.csv", point_rows(rows, varying, figures), points_table(rows, varying, figures)))
    for _, _, table in tables:
        console.print(
            "", table, soft_wrap=not console.is_terminal
        )  # on a terminal the columns fit its width; in a file no line is broken
    try:
        for name, written, _ in tables:
            write_csv(written, folder / name)
        console.print("", f"[dim]{folder / 'sweep.csv'}[/]", soft_wrap=True)
    except OSError as error:
        console.print(f"no sweep.csv: {one_line(error)}", markup=False, highlight=False, soft_wrap=True)
    return sum(row["status"] == "failed" for row in rows)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Results of the runs in a sweep's folder, ordered by number; policy is its current path."""
    runs = [path for path in folder.glob("*") if path.name.isdigit()]
    found = {path: read_result(path) for path in sorted(runs, key=lambda path: int(path.name))}
    return [
        result | {"run": path.name, "policy": str((path / "policy").absolute()) if result.get("policy") else None}
        for path, result in found.items()
        if result
    ]


def read_result(folder: Path) -> dict[str, Any]:
    """The content of a run's result.json; empty if there is none."""
    try:
        return json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return {}


def figures_of(results: list[dict[str, Any]]) -> list[Figure]:
    """The figures of the first run that was evaluated, which describe those of all runs."""
    return next(([Figure(**figure) for figure in result["figures"]] for result in results if result.get("figures")), [])


def compare(results: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """One flat row per run: its number, the keys that differ between runs, status, figures, measures and policy.

    Returns the rows, and the names of the keys that differ.
    """
    overrides = [dict(override.partition("=")[::2] for override in result["overrides"]) for result in results]
    keys = list(dict.fromkeys(key for given in overrides for key in given))
    varying = [key for key in keys if len(results) == 1 or len({given.get(key) for given in overrides}) > 1]
    names = [*(figure.name for figure in figures_of(results)), *MEASURES]
    rows = []
    for result, given in zip(results, overrides):
        evaluation = result.get("evaluation") or {}
        row = {"run": result["run"]} | {key: given.get(key, "") for key in varying} | {"status": result["status"]}
        row |= {name: evaluation.get(name, result.get(name)) for name in names}
        rows.append(row | {"policy": result.get("policy") or "", "error": result.get("error") or ""})
    return rows, varying


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows as a CSV file with a header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def sweep_table(rows: list[dict[str, Any]], varying: list[str], figures: Sequence[Figure]) -> Table:
    """Table of the runs with their main figures; the best score is bold."""
    table = Table(title="Final evaluations", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for key in ("run", *varying):
        table.add_column(key, overflow="fold")
    shown = [figure for figure in figures if figure.main]
    for label in (*(figure.label.replace(" ", "\n") for figure in shown), "steps/s", "time"):
        table.add_column(label, justify="right", no_wrap=True, vertical="bottom")
    scores = [row["score"] for row in rows if row["score"] is not None]
    for row in rows:
        cells = [row["run"], *(short(row[key]) for key in varying)]
        if all(row[figure.name] is None for figure in shown):
            cells.append(row["status"])
        else:
            values = [math.nan if row[figure.name] is None else row[figure.name] for figure in shown]
            cells += [dataclasses.replace(figure, value=value).text for figure, value in zip(shown, values)]
            cells += [f"{row['env_steps_per_s']:,.0f}", f"{row['wall_s']:.0f} s"]
        table.add_row(*map(str, cells), style="bold" if scores and row["score"] == min(scores) else "")
    return table


def several(rows: list[dict[str, Any]], varying: list[str]) -> bool:
    """Whether any point has more than one run."""
    return "seed" in varying and any(len(runs) > 1 for runs in points(rows, varying))


def point_rows(rows: list[dict[str, Any]], varying: list[str], figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """One flat row per point: its runs, its keys, how many runs ended well, and mean and 95% interval of each figure.

    The interval is in NAME_low and NAME_high.
    """
    names, found = [*(figure.name for figure in figures), "score"], []
    for runs in points(rows, varying):
        row = {"runs": " ".join(run["run"] for run in runs)} | {
            key: runs[0][key] for key in varying if key not in APART
        }
        row["finished"] = sum(run["status"] == "finished" for run in runs)
        for name in names:
            over = spread([run[name] for run in runs if run["status"] == "finished"])
            row |= {name: _known(over.mean), f"{name}_low": _known(over.low), f"{name}_high": _known(over.high)}
        found.append(row)
    return found


def points_table(rows: list[dict[str, Any]], varying: list[str], figures: Sequence[Figure]) -> Table:
    """Table of the points: for the main figures and the score the mean over runs and half the interval's width."""
    table = Table(
        title="Means over seeds, with 95% intervals (Student's t)",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    keys = [key for key in varying if key not in APART]
    for key in ("runs", *keys):
        table.add_column(key, overflow="fold")
    shown = [*(figure for figure in figures if figure.main), SCORE]
    for figure in shown:
        table.add_column(figure.label.replace(" ", "\n"), justify="right", no_wrap=True, vertical="bottom")
    found = point_rows(rows, varying, figures)
    means = [row["score"] for row in found if row["score"] is not None]
    for row in found:
        texts = [interval_text(figure, row) for figure in shown]
        table.add_row(
            row["runs"],
            *(short(row[key]) for key in keys),
            *texts,
            style="bold" if means and row["score"] == min(means) else "",
        )
    return table


def interval_text(figure: Figure, row: dict[str, Any]) -> str:
    """A figure of a point as text: 0.123 ± 0.010."""
    mean, low = row[figure.name], row[f"{figure.name}_low"]
    text = dataclasses.replace(figure, value=math.nan if mean is None else mean).text
    return text if low is None else f"{text} ± {dataclasses.replace(figure, value=mean - low).text}"


def short(value: Any) -> str:
    """A key's value for a table; a long number gets four digits."""
    try:
        return f"{float(value):.4g}" if len(str(value)) > 8 else str(value)
    except ValueError:
        return str(value)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
