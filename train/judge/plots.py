"""Plots of the suite. Each function draws the policies side by side and returns a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rfx.system.extras import missing
from train.judge.pushes import DIRECTIONS
from train.judge.suite import SWEEPS, TARGET_PUSH_M_S, TARGET_PUSH_SHARE, Suite
from train.judge.targets import TRACKING
from train.judge.tracking import AXES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#1f6feb", "#e8710a")
INK, FAINT = "#24292f", "#d0d7de"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.grid": True,
    "grid.color": "#eaeef2",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "lines.linewidth": 2,
    "lines.markersize": 4.5,
}
VX, YAW, FALLS = (
    ("error_vx", "error vx, m/s"),
    ("error_yaw_rate", "error yaw rate, rad/s"),
    ("falls_per_episode", "falls per 20 s"),
)


def draw(suites: Mapping[str, Suite]) -> dict[str, bytes]:
    """All plots as PNG, by name. Raises ImportError that names the extra if matplotlib is missing."""
    try:
        import matplotlib
    except ImportError as error:
        raise missing("a plot", "matplotlib") from error
    with matplotlib.rc_context(STYLE):
        return {
            "tracking": tracking(suites),
            "commands": commands(suites),
            "sweeps": sweeps(suites),
            "pushes": pushes(suites),
            "terrain": terrain(suites),
        }


def tracking(suites: Mapping[str, Suite]) -> bytes:
    """Reached against commanded velocity of each axis, with 95% intervals.

    The dashed line shows the commanded value, and the dotted lines the limits of the target.
    """
    figure = new_figure(9.6, 3.1)
    for axis, (name, unit) in zip(figure.subplots(1, len(AXES)), AXES.items()):
        for color, (policy, suite) in zip(COLORS, suites.items()):
            if (curve := suite.nominal.tracking.get(name)) is not None:
                axis.errorbar(
                    curve.command,
                    curve.reached,
                    yerr=1.96 * np.nan_to_num(curve.standard_error),
                    fmt="o-",
                    color=color,
                    label=policy,
                )
                axis.plot(curve.command, curve.command, "--", color=INK, linewidth=1, zorder=0)
                for aside in (-TRACKING, TRACKING):
                    axis.plot(curve.command, curve.command + aside, ":", color=INK, linewidth=1, zorder=0)
        title = name.replace("_", " ")
        axis.set(xlabel=f"commanded {title}, {unit}", ylabel=f"reached, {unit}", title=title)
    _legend(figure.axes[0], suites)
    return png(figure)


def commands(suites: Mapping[str, Suite]) -> bytes:
    """Heat maps over vx and yaw rate, one row per policy. All share one color scale, which ends at a bad value."""
    figure = new_figure(9.6, 3.1 * len(suites))
    axes = figure.subplots(len(suites), 3, squeeze=False)
    for row, (name, suite) in zip(axes, suites.items()):
        grid = suite.grid
        for axis, (field, label), worst in zip(row, (VX, YAW, FALLS), (0.2, 0.4, 1.0)):
            values = getattr(grid, field)
            picture = axis.imshow(values, origin="lower", cmap="YlOrRd", vmin=0.0, vmax=worst, aspect="auto")
            for i, j in np.ndindex(*values.shape):
                if np.isfinite(values[i, j]):
                    axis.text(
                        j,
                        i,
                        _short(values[i, j]),
                        ha="center",
                        va="center",
                        fontsize=6,
                        color="white" if values[i, j] > 0.65 * worst else INK,
                    )
            axis.set_xticks(range(len(grid.yaw_rate))[::2], [f"{value:g}" for value in np.round(grid.yaw_rate[::2], 2)])
            axis.set_yticks(range(len(grid.vx))[::2], [f"{value:g}" for value in np.round(grid.vx[::2], 2)])
            axis.set(xlabel="commanded yaw rate, rad/s", ylabel="commanded vx, m/s", title=_titled(label, name, suites))
            axis.grid(False)
            figure.colorbar(picture, ax=axis, extend="max", pad=0.02).outline.set_visible(False)
    return png(figure)


def sweeps(suites: Mapping[str, Suite]) -> bytes:
    """Falls and errors over each sweep, one line per policy; marks below show the nominal robot's value."""
    figure = new_figure(11.0, 6.0)
    axes = figure.subplots(3, len(SWEEPS), sharex="col", sharey="row")
    for column, (name, sweep) in enumerate(SWEEPS.items()):
        for axis, (field, label) in zip(axes[:, column], (FALLS, VX, YAW)):
            for color, (policy, suite) in zip(COLORS, suites.items()):
                axis.plot(
                    sweep.values,
                    [getattr(evaluation, field) for evaluation in suite.sweeps[name]],
                    "o-",
                    color=color,
                    label=policy,
                )
                nominal = suite.nominal.timestep_s * 1e3 if sweep.nominal is None else sweep.nominal
                axis.axvline(nominal, color=FAINT, zorder=0, linestyle="--")
            if column == 0:
                axis.set_ylabel(label)
        axes[-1, column].set_xlabel(f"{sweep.label}, {sweep.unit}".rstrip(", "))
    for row, at_least in zip(axes, (0.05, 0.1, 0.2)):  # all plots in the row share the limits
        row[0].set_ylim(0.0, max([at_least, *(1.08 * axis.dataLim.y1 for axis in row if np.isfinite(axis.dataLim.y1))]))
    _legend(axes[0, 0], suites)
    return png(figure)


def pushes(suites: Mapping[str, Suite]) -> bytes:
    """Share of survivors over the size of a push; and for each side, the push size that half of the robots survive."""
    figure = new_figure(9.6, 3.6)
    grid = figure.add_gridspec(1, 2, width_ratios=(1.5, 1))
    axis, around = figure.add_subplot(grid[0]), figure.add_subplot(grid[1], projection="polar")
    turn = 2 * np.pi * np.arange(DIRECTIONS + 1) / DIRECTIONS
    for color, (name, suite) in zip(COLORS, suites.items()):
        result = suite.pushes
        axis.plot([0.0, *result.speed_m_s], [1.0, *map(result.share, result.speed_m_s)], "o-", color=color, label=name)
        kept = (np.cumprod(result.by_direction >= 0.5, axis=0)).sum(axis=0) * result.speed_m_s[0]
        around.plot(turn, [*kept, kept[0]], "o-", color=color)
        around.fill(turn, [*kept, kept[0]], color=color, alpha=0.12)
    axis.plot(
        [TARGET_PUSH_M_S],
        [TARGET_PUSH_SHARE],
        marker="+",
        markersize=12,
        markeredgewidth=2,
        color=INK,
        linestyle="none",
        label="target",
    )
    axis.set(
        xlabel="push, m/s",
        ylabel="robots that do not fall",
        ylim=(0.0, 1.03),
        xlim=(0.0, None),
        title="survival as trained, from all sides",
    )
    axis.legend(frameon=False)
    around.set_theta_zero_location("N")
    around.set_xticks(turn[:-1], ["forwards", "", "left", "", "back", "", "right", ""])
    around.set_rlim(0.0, max(1.0, around.get_rmax()))
    around.set_rticks(np.arange(0.5, around.get_rmax(), 0.5))
    around.set_rlabel_position(112.5)
    around.set_title("half survive up to, m/s, pushed")
    return png(figure)


def terrain(suites: Mapping[str, Suite]) -> bytes:
    """Heat maps over kinds and levels of terrain, one row per policy: falls, and robots that did not cross."""
    figure = new_figure(9.6, 4.0 * len(suites))
    axes = figure.subplots(len(suites), 2, squeeze=False)
    for row, (name, suite) in zip(axes, suites.items()):
        crossings = suite.crossings
        kinds = [kind.replace("_", "\n") for kind in crossings.kinds]
        maps = (crossings.falls, "falls per episode"), (1.0 - crossings.crossed, "robots that do not get across")
        for axis, (values, label) in zip(row, maps):
            picture = axis.imshow(values, origin="lower", cmap="YlOrRd", vmin=0.0, vmax=1.0, aspect="auto")
            for i, j in np.ndindex(*values.shape):
                axis.text(
                    j,
                    i,
                    _short(values[i, j]),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if values[i, j] > 0.65 else INK,
                )
            axis.axhline(crossings.levels_passed - 0.5, color=INK, linewidth=1, linestyle="--")  # passed below
            axis.set_xticks(range(len(kinds)), kinds)
            axis.set_yticks(range(len(values)))
            axis.set(ylabel="level", title=_titled(label, name, suites))
            axis.grid(False)
            figure.colorbar(picture, ax=axis, pad=0.02).outline.set_visible(False)
    return png(figure)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; width and height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=130, facecolor="white")


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 9.995 else f"{value:.0f}"


def _titled(label: str, name: str, suites: Mapping[str, Suite]) -> str:
    return f"{name}: {label}" if len(suites) > 1 else label


def _legend(axis, suites: Mapping[str, Suite]) -> None:
    if len(suites) > 1:
        axis.legend(frameon=False)


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()
