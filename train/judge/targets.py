"""The project's targets: the limit of each figure, and whether a policy meets it with 95% confidence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from train.judge.evaluation import Evaluation
from train.judge.tracking import AXES

PER_EPISODE = "per 20 s episode"
TRACKING = 0.05  # m/s and rad/s: limit of the difference between any command and the mean velocity reached
WALKING = (
    0.02,
    0.10,
    0.10,
    0.10,
)  # limits of falls and errors of vx, vy, yaw rate to count as walking, see docs/results.md


@dataclass(frozen=True, kw_only=True)
class Target:
    """One figure with its limit, its measured value, and the 95% confidence bound of that value."""

    name: str
    unit: str
    value: float
    bound_95: float
    limit: float
    at_least: bool = False  # True: the figure must be at least limit; False: at most

    @property
    def met(self) -> bool:
        """Whether the bound, and not only the measured value, is within the limit; False for NaN."""
        return bool(self.bound_95 >= self.limit if self.at_least else self.bound_95 <= self.limit)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; a figure that could not be measured is None."""
        values = dataclasses.asdict(self) | {"met": self.met}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }


def fall_target(name: str, evaluation: Evaluation, limit: float) -> Target:
    """Target for the falls of an evaluation."""
    return Target(
        name=name, unit=PER_EPISODE, value=evaluation.falls_per_episode, bound_95=evaluation.falls_upper_95, limit=limit
    )


def evaluation_targets(evaluation: Evaluation, limits: tuple[float, float, float, float]) -> list[Target]:
    """Targets for falls and errors of an evaluation, with limits such as WALKING.

    Includes the worst deviations if they were measured.
    """
    errors = (("error_vx", "m/s"), ("error_vy", "m/s"), ("error_yaw_rate", "rad/s"))
    return (
        [fall_target("falls", evaluation, limits[0])]
        + [
            Target(
                name=name.replace("_", " "),
                unit=unit,
                value=getattr(evaluation, name),
                bound_95=getattr(evaluation, f"{name}_upper_95"),
                limit=limit,
            )
            for (name, unit), limit in zip(errors, limits[1:])
        ]
        + [
            Target(
                name=f"worst error at one {axis.replace('_', ' ')}",
                unit=AXES[axis],
                value=curve.worst,
                bound_95=curve.worst_upper_95,
                limit=TRACKING,
            )
            for axis, curve in evaluation.tracking.items()
        ]
    )


def targets_table(targets: Sequence[Target]) -> Table:
    """Table of the targets, one per row."""
    table = Table(box=None, pad_edge=False)
    table.add_column("target")
    for head in ("measured", "95% bound", "limit"):
        table.add_column(head, justify="right")
    table.add_column("")
    for target in targets:
        limit = f"{'at least' if target.at_least else 'at most'} {target.limit:g}"
        measured, bound = (f"{value:.3f}" if math.isfinite(value) else "-" for value in (target.value, target.bound_95))
        table.add_row(target.name, measured, bound, limit, ("[green]met[/]" if target.met else "[red]missed[/]"))
    return table
