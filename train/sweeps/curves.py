"""Plots of several runs: their curves against steps and wall time, and the effect of each key.

Each function returns a PNG.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from rfx.robot.state import Array
from rfx.system.extras import missing
from train.judge.plots import COLORS, FAINT, INK, STYLE, new_figure, png
from train.runs.metrics import read_curves
from train.runs.resume import read_record

MOST_POINTS = 200  # most points of a curve; more points are averaged in bins
COLORS_OF_POINTS = (*COLORS, "#1a7f37", "#8250df", "#bf3989", "#57606a", "#9a6700", "#0598bc")


def style() -> object:
    """The style context for the plots. Raises ImportError that names the extra if matplotlib is missing."""
    try:
        import matplotlib
    except ImportError as error:
        raise missing("a report's plots", "matplotlib") from error
    return matplotlib.rc_context(STYLE | {"lines.linewidth": 1.5})


def curves_of(folder: Path) -> dict[str, Array]:
    """Steps, minutes of training and values (n, 3) of each tag of a run; interruptions do not count as time."""
    found = read_curves(folder)
    times = np.unique(np.concatenate([values[:, 1] for values in found.values()])) if found else np.zeros(0)
    if not len(times):
        return {}
    record, gaps = read_record(folder), np.diff(times, prepend=times[0])
    for resumed in record.get("resumed", []):
        after = np.searchsorted(times, datetime.fromisoformat(resumed["time"]).timestamp())
        if 0 < after < len(times):
            gaps[after] = np.median(gaps[1:])
    began = datetime.fromisoformat(record["began"]).timestamp() if "began" in record else times[0]
    minutes = (max(0.0, times[0] - began) + np.cumsum(gaps)) / 60.0
    for values in found.values():
        values[:, 1] = minutes[np.searchsorted(times, values[:, 1])]
    return found


def draw_curves(
    runs: Mapping[str, Path], labels: Mapping[str, str], best: str | None, figures: Mapping[str, str]
) -> bytes:
    """One row per tag in figures (label by tag) that some run has: against steps, and against wall time.

    labels: text for the color of each run, the same for all runs of one point. The best run is drawn on top, thick.
    """
    curves = {name: curves_of(folder) for name, folder in runs.items()}
    shown = {tag: label for tag, label in figures.items() if any(len(of.get(tag, ())) > 1 for of in curves.values())}
    colors = colors_of(labels)
    most = max((values[-1, 0] for of in curves.values() for values in of.values()), default=0.0)
    unit, name_of_unit = (1e6, "million steps") if most >= 1e6 else (1e3, "thousand steps")
    figure = new_figure(9.6, 2.9 * max(1, len(shown)))
    axes = figure.subplots(max(1, len(shown)), 2, squeeze=False, sharey="row")
    for row, (tag, label) in zip(axes, shown.items()):
        for name, of in sorted(curves.items(), key=lambda item: item[0] == best):
            values = thinned(of.get(tag, np.zeros((0, 3))))
            for axis, column, scale in zip(row, (0, 1), (1.0 / unit, 1.0)):
                axis.plot(
                    values[:, column] * scale,
                    values[:, 2],
                    "o-" if len(values) < 12 else "-",
                    color=colors[labels[name]],
                    linewidth=2.6 if name == best else 1.1,
                    alpha=1.0 if name == best else 0.7,
                )
        row[0].set(ylabel=label, xlabel=name_of_unit)
        row[1].set(xlabel="minutes of wall time")
    if len(colors) <= len(COLORS_OF_POINTS):
        lines = [axes[0, 0].plot([], [], color=color, label=label)[0] for label, color in colors.items()]
        figure.legend(handles=lines, loc="outside upper left", frameon=False, fontsize=7)
    return png(figure)


def colors_of(labels: Mapping[str, str]) -> dict[str, object]:
    """A color for each label: a few labels get distinct colors, many labels get a gradient from first to last."""
    from matplotlib import colormaps

    different = list(dict.fromkeys(labels.values()))
    if len(different) <= len(COLORS_OF_POINTS):
        return dict(zip(different, COLORS_OF_POINTS))
    return dict(zip(different, colormaps["viridis"](np.linspace(0.0, 0.92, len(different)))))


def thinned(values: Array) -> Array:
    """At most MOST_POINTS rows of values (n, 3): each is the mean of a bin, and all bins have about equal size."""
    if len(values) <= MOST_POINTS:
        return values
    return np.array([part.mean(axis=0) for part in np.array_split(values, MOST_POINTS)])


def draw_keys(
    rows: Sequence[Mapping[str, object]], keys: Sequence[str], metric: str, label: str, best: str | None
) -> bytes:
    """The metric of each run against the value of every key, one plot per key."""
    columns = min(4, len(keys))
    lines = math.ceil(len(keys) / columns)
    figure = new_figure(9.6, 2.5 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    done = [row for row in rows if row.get(metric) is not None]
    for axis, key in zip(axes.flat, keys):
        texts = [str(row[key]) for row in done]
        numbers = [as_number(text) for text in texts]
        if all(value is not None for value in numbers) and len(set(numbers)) > 2:
            places = numbers
            if min(numbers) > 0 and max(numbers) > 20 * min(numbers):
                axis.set_xscale("log")
        else:
            names = sorted(set(texts), key=lambda text: (as_number(text) is None, as_number(text), text))
            places = [names.index(text) for text in texts]
            axis.set_xticks(range(len(names)), names, fontsize=7)
            axis.set_xlim(-0.5, len(names) - 0.5)
        color = [COLORS[1] if row["run"] == best else COLORS[0] for row in done]
        axis.scatter(places, [row[metric] for row in done], c=color, s=20)
        axis.set_xlabel(key)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    return png(figure)


def draw_importance(importance: Mapping[str, float]) -> bytes:
    """One bar per key."""
    figure = new_figure(7.2, 0.6 + 0.32 * len(importance))
    axis = figure.subplots()
    names = list(reversed(importance))
    bars = axis.barh(names, [importance[name] for name in names], color=COLORS[0])
    axis.bar_label(bars, fmt="%.2f", padding=3, color=INK)
    axis.set_xlim(0.0, max([0.1, *importance.values()]) * 1.12)
    axis.grid(False)
    axis.spines["left"].set_color(FAINT)
    return png(figure)


def as_number(text: str) -> float | None:
    """The text as a number, or None if it is not a finite number."""
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return None
    return (
        float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )
