"""One HTML page about a sweep, or about any folders of runs.

It has tables with intervals, the curves of all runs, the effect of each key, and the best policy.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rfx.system.folders import replace_file
from train.judge.output import check_writable
from train.judge.page import data_url, document, number, section, table
from train.runs.resume import read_record
from train.sweeps.curves import draw_curves, draw_importance, draw_keys, style
from train.sweeps.importance import explained, of_search
from train.sweeps.points import APART
from train.sweeps.study import STUDY, load_study
from train.sweeps.sweep import (
    SCORE,
    compare,
    figures_of,
    interval_text,
    point_rows,
    read_result,
    read_results,
    several,
    short,
)
from train.task.errors import InputError, one_line
from train.task.task import Figure

PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs that are shown together.

    results and rows have one entry per run, by the names in rows. Also holds the keys that differ between the runs,
    and the runs' folders.
    """

    results: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    keys: list[str]
    folders: dict[str, Path]
    metric: str = "score"  # the metric that decides which run is best
    maximize: bool = False
    search: Path | None = None  # the folder of the search that the runs belong to

    @property
    def best(self) -> str | None:
        """The name of the best run that has a policy; None if no run has one."""
        able = [row for row in self.rows if row["status"] == "finished" and row.get(self.metric) is not None]
        return (max if self.maximize else min)(able, key=lambda row: row[self.metric])["run"] if able else None


def gather(folders: Sequence[Path]) -> Runs:
    """The runs in folders, each the folder of a sweep or a run. Raises InputError for a folder without runs."""
    found, of_searches = {}, [folder for folder in folders if (folder / STUDY).is_file()]
    for folder in folders:
        prefix = f"{folder.name}/" if len(folders) > 1 else ""
        runs = {f"{prefix}{result['run']}": (folder / result["run"], result) for result in read_results(folder)}
        if not runs and (result := read_result(folder)):
            runs = {folder.name: (folder, result)}
        if not runs:
            raise InputError(
                f"{folder} holds no run that has ended: expected the folder of a run or a sweep, such as runs/DATE_TIME_sweep"
            )
        if found.keys() & runs.keys():
            runs = {str(path): (path, result) for path, result in runs.values()}
        found |= runs
    results = [result | {"run": name} for name, (_, result) in found.items()]
    rows, keys = compare(results)
    for row in rows:  # a key that a run's overrides do not give has the value in its configuration
        folder, _ = found[row["run"]]
        row.update(
            {key: _written(read_record(folder).get("config", {}).get(key, "")) for key in keys if row[key] == ""}
        )
    more: dict[str, Any] = {}
    if len(folders) == len(of_searches) == 1:
        search = load_study(folders[0]).user_attrs["search"]
        more = {"metric": search["metric"], "maximize": search["direction"] == "maximize", "search": folders[0]}
        keys = [key for key in keys if key in search["space"] or key in APART]
    return Runs(
        results=results, rows=rows, keys=keys, folders={name: path for name, (path, _) in found.items()}, **more
    )


def _written(value: Any) -> str:
    """The value as an override would write it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def write_page(folders: Sequence[Path], path: Path, *, video: bool = True) -> Path:
    """Write the page about the runs in folders to path, and return path.

    Raises InputError if there are no runs, OSError if path cannot be written, ImportError without matplotlib.
    """
    runs = gather(folders)
    check_writable(path)
    with style():
        pictures = {"curves": _curves(runs)} | _keys(runs)
    film = film_of(runs.folders[runs.best] / "policy") if video and runs.best else None
    replace_file(path, page(runs, pictures, film, ", ".join(str(folder) for folder in folders)).encode())
    return path


def page(
    runs: Runs, pictures: Mapping[str, tuple[bytes, str]], film: tuple[bytes | None, str] | None, title: str
) -> str:
    """The page as HTML.

    pictures: PNG and caption, by what they show. film: MP4 of the best policy, or None and the reason.
    """
    figures = [*(figure for figure in figures_of(runs.results) if figure.main), SCORE]
    counts: dict[str, int] = {}
    for row in runs.rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    head = (
        f"<h1>{escape(title)}</h1><p>{len(runs.rows)} runs: {', '.join(f'{num} {escape(status)}' for status, num in counts.items())}. "
        f"Best by {escape(runs.metric)}: {f'run {escape(runs.best)}' if runs.best else 'none'}.</p>"
    )
    sections = []
    if several(runs.rows, runs.keys):
        sections.append(
            section(
                "Points",
                "Means over the runs of a point, which differ in their seed, with 95% intervals by Student's t.",
                _points(runs, figures),
            )
        )
    sections.append(
        section(
            "Runs",
            "Final evaluations; of runs that were given up the last one in training. The best is marked.",
            _runs(runs, figures),
        )
    )
    for what, (picture, caption) in pictures.items():
        name = what.capitalize()
        sections.append(section(name, caption, f'<img alt="{name}" src="{data_url("image/png", picture)}">'))
    if film:
        data, why = film
        shown = (
            f'<video controls autoplay muted loop playsinline src="{data_url("video/mp4", data)}"></video>'
            if data
            else f"<p>No video: {escape(why)}</p>"
        )
        policy = escape(str(runs.folders[runs.best] / "policy"))
        film_html = f'<div class="films"><figure>{shown}<figcaption>{policy}</figcaption></figure></div>'
        sections.append(section("The best policy", "In motion.", film_html))
    return document(title, head + "\n".join(sections))


def _points(runs: Runs, figures: Sequence[Figure]) -> str:
    keys = [key for key in runs.keys if key not in APART]
    rows = point_rows(runs.rows, runs.keys, figures_of(runs.results))
    scores = [row["score"] for row in rows if row["score"] is not None]
    is_best = [
        bool(scores) and row["score"] == min(scores) for row in rows
    ]  # best by the score; other figures may be worse
    cells = [
        [
            (row["runs"], "met" if best else ""),
            *(escape(short(row[key])) for key in keys),
            *((interval_text(figure, row), "met" if best and figure is SCORE else "") for figure in figures),
        ]
        for row, best in zip(rows, is_best)
    ]
    return table(["runs", *map(_breakable, keys), *(escape(_named(figure)) for figure in figures)], cells)


def _runs(runs: Runs, figures: Sequence[Figure]) -> str:
    def row_of(row: Mapping[str, Any]) -> list[str | tuple[str, str]]:
        values = ["-" if row[figure.name] is None else number(row[figure.name]) for figure in figures]
        time = "-" if row["wall_s"] is None else f"{row['wall_s']:.0f} s"
        mark = "met" if row["run"] == runs.best else ""  # the best by this metric; its other figures may be worse
        marked = [(value, mark if figure.name == runs.metric else "") for figure, value in zip(figures, values)]
        return [
            (escape(row["run"]), mark),
            *(escape(short(row[key])) for key in runs.keys),
            *marked,
            time,
            (
                escape(row["status"] + (f": {row['error']}" if row["error"] else "")),
                "missed" if row["status"] == "failed" else "unit",
            ),
        ]

    head = ["run", *map(_breakable, runs.keys), *(escape(_named(figure)) for figure in figures), "time", ""]
    return table(head, [row_of(row) for row in runs.rows])


def _breakable(key: str) -> str:
    """A key as HTML that may wrap in a narrow column."""
    return escape(key).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _named(figure: Figure) -> str:
    return f"{figure.label}, {figure.unit}" if figure.unit else figure.label


def _curves(runs: Runs) -> tuple[bytes, str]:
    keys = [key for key in runs.keys if key not in APART]
    labels = {
        row["run"]: " ".join(f"{key.rpartition('.')[2]}={short(row[key])}" for key in keys) or row["run"]
        for row in runs.rows
    }
    main = [figure for figure in figures_of(runs.results) if figure.main]
    tags = {
        "evaluation/score": "score",
        **{f"episode/{figure.name}": f"{_named(figure)}, training" for figure in main},
        "episode/return": "return",
    }
    caption = "While training, of all runs; those of a point share a colour, and the best run is drawn thick. Lower scores are better."
    return draw_curves(runs.folders, labels, runs.best, tags), caption


def _keys(runs: Runs) -> dict[str, tuple[bytes, str]]:
    keys = [key for key in runs.keys if key not in APART]
    if not keys or len(runs.rows) < 3:
        return {}
    pictures = {
        "keys": (
            draw_keys(runs.rows, keys, runs.metric, runs.metric, runs.best),
            "Each run over its value of a key, orange the best. Runs that were given up are there with their last evaluation.",
        )
    }
    importance, how = (
        of_search(runs.search)
        if runs.search
        else (
            explained(_finished(runs), keys, runs.metric),
            "Share of the variance between runs that a key explains by itself",
        )
    )
    if importance:
        pictures["importance"] = draw_importance(importance), f"What the {runs.metric} depends on: {how}."
    return pictures


def _finished(runs: Runs) -> list[dict[str, Any]]:
    return [row for row in runs.rows if row["status"] == "finished"]


def film_of(path: Path) -> tuple[bytes | None, str]:
    """A video of a policy as MP4, or None and the reason."""
    from train.judge import gym, report
    from train.judge.play import PolicyAct, load, task_of

    try:
        if policy := gym.gym_policy(str(path)):
            with tempfile.TemporaryDirectory() as folder:
                gym.film(policy, *gym.environment_of(policy), 0, Path(folder) / "video.mp4")
                return (Path(folder) / "video.mp4").read_bytes(), ""
        policy = load(str(path))
        film = report.film(
            PolicyAct(policy), task_of(policy.training_info, policy.robot_config.name), policy.robot_config
        )
        return film["video"], film.get("why", "")
    except (InputError, ImportError, ValueError, RuntimeError, OSError) as error:
        return None, one_line(error)
