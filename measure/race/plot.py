"""The race as a picture: error against wall time, a line for each learner, each seed thin."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rfx.robot.state import Array
from rfx.system.extras import missing
from train.judge.plots import FAINT, INK, STYLE

COLORS = ("#1f6feb", "#e8710a", "#b3261e", "#188038", "#8e44ad", "#80868b")
EARLIER_COLORS = ("#5f6368", "#9aa0a6")
MOST_FALLS, MOST_ERROR = 0.02, 0.10  # per 20 s; m/s and rad/s: the targets of the default run
PANELS = {
    "velocity error, mean of vx and vy, m/s": ("error_vx", "error_vy"),
    "yaw-rate error, rad/s": ("error_yaw_rate",),
}


def draw(race: Mapping[str, Any]) -> bytes:
    """A PNG of the contents of race.json: learners and earlier, by name, with label and curves.

    Raises ImportError naming the extra.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise missing("a plot", "matplotlib") from error
    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6, 4.6), layout="constrained", dpi=130, facecolor="white")
        axes = figure.subplots(1, len(PANELS))
        for axis, (label, names) in zip(axes, PANELS.items()):
            for color, learner in zip(COLORS, race["learners"].values()):
                draw_learner(axis, learner["curves"], names, color, learner["label"])
            for color, earlier in zip(EARLIER_COLORS, race["earlier"].values()):
                draw_curve(
                    axis,
                    earlier,
                    names,
                    color,
                    label=earlier["label"] + ", measured earlier,\non two cores, from its own simulation",
                    linestyle="--",
                    linewidth=1.2,
                )
            axis.axhline(MOST_ERROR, color=FAINT, zorder=0)
            axis.set(xscale="log", yscale="log", xlabel="seconds since the process's start", title=label)
            ticks(axis)
        axes[0].plot([], [], "o", color=INK, label=f"at most {MOST_FALLS} falls per 20 s")
        axes[0].plot([], [], "o", color=INK, markerfacecolor="white", label="more falls")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        data = io.BytesIO()
        figure.savefig(data, format="png")
    return data.getvalue()


def draw_learner(axis: Any, curves: Sequence[Mapping[str, Any]], names: Sequence[str], color: str, label: str) -> None:
    """Draw a thin line for each seed, and the median over them."""
    for curve in curves if len(curves) > 1 else ():
        axis.plot(curve["seconds"], column(curve, names), color=color, linewidth=0.7, alpha=0.4)
    draw_curve(axis, median_curve(curves), names, color, label=label)


def draw_curve(axis: Any, curve: Mapping[str, Any], names: Sequence[str], color: str, **style: Any) -> None:
    """Draw a line with a mark at each policy; the mark is filled if the policy falls little."""
    seconds, values = np.array(curve["seconds"], float), column(curve, names)
    steady = column(curve, ("falls_per_episode",)) <= MOST_FALLS
    axis.plot(seconds, values, color=color, **style)
    for rows, face in ((steady, color), (~steady, "white")):
        axis.plot(seconds[rows], values[rows], "o", color=color, markerfacecolor=face)


def column(curve: Mapping[str, Any], names: Sequence[str]) -> Array:
    """The mean of these columns of a curve, (points,); NaN if something could not be measured."""
    return np.mean([[math.nan if value is None else value for value in curve[name]] for name in names], axis=0)


def median_curve(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median over seeds of every column, point by point, up to the end of the shortest curve.

    It is NaN if a value could not be measured.
    """
    num_points = min(len(curve["seconds"]) for curve in curves)
    return {
        name: np.median([column(curve, (name,))[:num_points] for curve in curves], axis=0)
        for name, values in curves[0].items()
        if isinstance(values, list)
    }


def ticks(axis: Any) -> None:
    """Write plain numbers on both logarithmic axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side.set_minor_formatter(NullFormatter())
