"""What a run learns: the Task, which makes environments, judges policies and exports them, and its figures."""

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

# By the name that the key `task` of a configuration has
TASKS = {"legged": "train.tasks.legged:LeggedTask", "gym": "train.tasks.gym:GymTask"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with a label, unit and format for people, and a name for files and logs."""

    name: str
    label: str
    unit: str = ""
    format: str = ".3f"
    value: float = math.nan  # NaN: no measurement
    main: bool = False  # shown even where there is little room, as in the table of a sweep

    @property
    def text(self) -> str:
        """The formatted value, or "-" without a measurement."""
        return format(self.value, self.format) if math.isfinite(self.value) else "-"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How good a policy is: a score, where lower is better, and the figures behind it."""

    score: float  # infinite without a measurement
    figures: tuple[Figure, ...]
    conditions: Mapping[str, Any]  # the conditions of the evaluation, as JSON types
    note: str  # the conditions in a few words

    def to_dict(self) -> dict[str, Any]:
        """Figures, conditions and score by name, as JSON types; a number without a measurement is None."""
        values = dict(self.conditions) | {"score": self.score}
        values = {figure.name: figure.value for figure in self.figures} | values
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }

    def metrics(self) -> dict[str, float]:
        """Figures and score by tag, without those that have no measurement."""
        values = {figure.name: figure.value for figure in self.figures} | {"score": self.score}
        return {f"evaluation/{name}": float(value) for name, value in values.items() if math.isfinite(value)}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Judgement:
        """The Judgement that dataclasses.asdict turned into state."""
        return cls(**{**state, "figures": tuple(Figure(**figure) for figure in state["figures"])})


class Task(Protocol):
    """Everything that a run knows about what it learns; the trainer, train/ppo and train/runs use nothing else.

    A run makes its task once, from its TrainConfig, and the task may read all of that. To add a task, write a class
    like the one in train/tasks/legged.py, and set task=MODULE:CLASS, as docs/terms.md shows.

    A task's environments are Gymnasium vector environments that reset in the same step. Actions are a Box in [-1, 1],
    which the environment clips, or Discrete(n); wrap an environment with other bounds in Gymnasium's RescaleAction.
    Observations are a Box of one axis, or a Dict of `state` and, for a privileged critic, `critic`.

    An environment may have three extras. With state_dict and load_state_dict, a resumed run continues its episodes;
    without them it begins new ones. metrics() returns figures by tag since the last call.
    info[rfx.robot.state.FAILED] marks failed simulations, which training ignores.

    A task may have a note: one more line that a run prints at its start.
    """

    # The first state_dim columns of the environment's state are real, the others padding; None: no padding
    state_dim: int | None
    # The training metrics that a run shows while it trains: their names are tags, their values are not set
    shown: tuple[Figure, ...]

    def __init__(self, config: TrainConfig): ...

    @classmethod
    def read_env(cls, values: Mapping[str, Any]) -> Any:
        """Check the `env` section of a run's plain values; returns a frozen dataclass that has num_envs.

        Raises ValueError that names the key, its value and the possible values, also for keys outside `env` that the
        task cannot work with.
        """

    def make_env(self, rows: range | None = None) -> VectorEnv:
        """Make the env.num_envs environments to learn in, or only the given rows of them, for a worker.

        After a reset with seed s, environment i must be identical, bit for bit, to environment 0 after a reset with
        seed s + i, as in Gymnasium's own vector environments. Only runs with `scale` give rows. Environments for
        `scale` report metrics by two methods: measured() returns arrays with a row for each environment, and
        summarize(measured) makes metrics from the arrays of all environments.
        """

    def judge(
        self, policy: LoadedPolicy, *, final: bool = False, after_step: Callable[[], None] | None = None
    ) -> Judgement:
        """Play a policy without exploration, on seeds that training never uses; with final, for longer.

        after_step, if given, is called after every step, and may raise an exception to end the play.
        """

    def export(self, policy: LoadedPolicy, path: Path, training_info: Mapping[str, Any]) -> None:
        """Write the policy folder, with everything that is needed to run the policy. Raises OSError."""

    def mirror(self) -> Mirror:
        """The mirror that swaps left and right, for a symmetric policy. Raises ValueError if the task has no mirror."""

    def meaning(self) -> dict[str, Any]:
        """What the numbers in observations and actions mean, as a tree of JSON types.

        Two runs can share a network only if their meanings are equal.
        """

    def commands(self, path: Path) -> Mapping[str, str]:
        """Command lines for the policy folder at path, by purpose; a run prints them at its end."""


def find_task(name: str) -> type[Task]:
    """The task called name in TASKS, or a user's own MODULE:CLASS. Raises ValueError that names the nearest."""
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
    """Make a table with a column of figures for each policy; it shows the columns' names if there are several."""
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
