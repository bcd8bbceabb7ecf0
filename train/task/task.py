"""What a run learns: the Task that the trainer asks for environments, judgements and exports, and the figures it tells
of a policy.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gymnasium.vector import VectorEnv
from rich.table import Table

from rfx.loading.loaded_policy import LoadedPolicy
from rfx.robot.mirror import Mirror
from rfx.settings.terms import find_foreign, is_foreign, nearest

if TYPE_CHECKING:
    from train.task.config import TrainConfig

TASKS = {
    "legged": "train.tasks.legged:LeggedTask",
    "gym": "train.tasks.gym:GymTask",
}  # by the name that a config's key `task` says


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number as people read it, with the name that files and logs have for it."""

    name: str
    label: str
    unit: str = ""
    format: str = ".3f"
    value: float = math.nan  # NaN: it could not be measured
    main: bool = False  # one of the few that are shown where there is little room, as in the table of a sweep

    @property
    def text(self) -> str:
        """The value for reading."""
        return format(self.value, self.format) if math.isfinite(self.value) else "-"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How good a policy is: a score, of which lower is better, and the figures that say what that means."""

    score: float  # infinite where nothing could be measured
    figures: tuple[Figure, ...]
    conditions: Mapping[str, Any]  # under which it was played, as JSON types
    note: str  # the same in a few words

    def to_dict(self) -> dict[str, Any]:
        """Figures, conditions and score by name, as JSON types; what could not be measured is None."""
        values = dict(self.conditions) | {"score": self.score}
        values = {figure.name: figure.value for figure in self.figures} | values
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }

    def metrics(self) -> dict[str, float]:
        """Figures and score by tag, those that could be measured."""
        values = {figure.name: figure.value for figure in self.figures} | {"score": self.score}
        return {f"evaluation/{name}": float(value) for name, value in values.items() if math.isfinite(value)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Judgement:
        """The one that dataclasses.asdict told."""
        return cls(**{**state, "figures": tuple(Figure(**figure) for figure in state["figures"])})


class Task(Protocol):
    """Everything that a run must know of what it learns; the trainer, train/ppo and train/runs know nothing else of it.

    A task is made once a run, from its TrainConfig, and may read all of it. To add one, write a class like
    train/tasks/legged.py, and say task=MODULE:CLASS, as docs/terms.md shows. Its environments are Gymnasium vector
    environments that reset in the same step, with actions of a Box in [-1, 1], which the environment clips (one
    with other bounds goes through Gymnasium's RescaleAction), or of Discrete(n). Observations are a Box of one
    axis, or a Dict of `state` and, for a privileged critic, `critic`. An environment may have state_dict and
    load_state_dict, without which a run that goes on begins new episodes; metrics(), figures by tag since the last
    call; and info[rfx.robot.state.FAILED], simulations that broke and are not learned from. A task may have a note, one more line
    that a run begins with.
    """

    state_dim: (
        int | None
    )  # how many columns of the environment's state are real, the first; None: all, there is no padding
    shown: tuple[
        Figure, ...
    ]  # which metrics of training a run shows while it goes on: names are tags, values are not set

    def __init__(self, config: TrainConfig): ...

    @classmethod
    def read_env(cls, values: Mapping[str, Any]) -> Any:
        """The `env` section of a run's plain values, checked, as a frozen dataclass that has num_envs.

        Raises ValueError that names the key, the value and what is possible, also for what else of the values the task
        cannot do with.
        """

    def make_env(self, rows: range | None = None) -> VectorEnv:
        """The environments to learn in, env.num_envs of them; or the rows of these, of which a worker has some.

        Environment i of a reset with seed s must be, to the bit, environment 0 of one with seed s + i, as in
        Gymnasium's own vector environments. Only runs with `scale` give rows. Such environments tell metrics by
        measured(), arrays with a row for each environment, and summarize(measured), which makes metrics of those of
        all.
        """

    def judge(
        self, policy: LoadedPolicy, *, final: bool = False, after_step: Callable[[], None] | None = None
    ) -> Judgement:
        """Play a policy without exploration, on seeds that training never sees: short while it trains, longer where
        final says so.

        after_step, if given, is called after every step, and may raise to end it.
        """

    def export(self, policy: LoadedPolicy, path: Path, training_info: Mapping[str, Any]) -> None:
        """Write the policy folder, with what is needed to run it. Raises OSError."""

    def mirror(self) -> Mirror:
        """The mirror that swaps left and right, for a symmetric policy. Raises ValueError where there is none."""

    def meaning(self) -> dict[str, Any]:
        """What the numbers in observations and actions mean, as a tree of JSON types: only equal ones can share a
        network.
        """

    def commands(self, path: Path) -> Mapping[str, str]:
        """What to do with the policy folder at path, by what it does: command lines that a run ends with."""


def find_task(name: str) -> type[Task]:
    """The task called name in TASKS, or a user's own, MODULE:CLASS. Raises ValueError naming the nearest."""
    if is_foreign(name):
        if not isinstance(task := find_foreign(name), type):
            raise ValueError(
                f"task={name} is a {type(task).__name__}: it must be a class, as Task in train/task/task.py"
            )
        return task
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: {nearest(str(name), TASKS)}, or one of your own, MODULE:CLASS")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def figures_table(figures: Mapping[str, tuple[Figure, ...]]) -> Table:
    """Figures of several policies side by side, one column each; the names of the columns are shown where there are
    several.
    """
    table = Table(box=None, pad_edge=False, show_header=len(figures) > 1)
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    table.add_column("")
    rows = {figure.name: figure for column in figures.values() for figure in column}
    columns = [{figure.name: figure for figure in column} for column in figures.values()]
    for name, row in rows.items():
        table.add_row(
            row.label,
            *(column.get(name, dataclasses.replace(row, value=math.nan)).text for column in columns),
            f"[dim]{row.unit}[/]",
        )
    return table
