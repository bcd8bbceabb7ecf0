"""The figures that README and docs claim, as data.

measure/figures.yaml has them in groups. Each group has the commands that measure it, and its table.
"""

from __future__ import annotations

import shlex
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfx.settings.reader import read, read_yaml
from train.runs.fingerprint import git

RUNS = "runs/figures"  # in a checkout
CHANGED = "+changes"  # appended to a commit if files differed from it


@dataclass(frozen=True, kw_only=True)
class Group:
    """Figures that are measured and shown together, in one table.

    The commands run once for every row and seed. Commands, depends and cells may name {row}, {seed} and the row's own
    fields, such as {label}. Commands may also name {folder}, the run's folder; {output}, the JSON file that the command
    writes; and {source}, the folder of the run that it reads. A command without {output} writes {folder}/result.json.
    Cells name measured values, as {command[key]}; process_s is every command's time from its start to its exit.
    """

    about: str
    minutes: float  # duration on two cores, until it is measured
    apart: bool = False  # measured only if named on the command line
    reads: str | None = None  # an earlier group whose outputs, of the same row and seed, the commands read
    rows: dict[str, dict[str, str]]  # by name: further fields that cells may show
    seeds: tuple[int, ...] = (0,)
    commands: dict[str, str]  # arguments of `python -m`, in order, by the name that cells use for the output
    depends: tuple[str, ...]  # git pathspecs: the figures are stale if these files change
    head: tuple[str, ...]  # the table's head
    each: tuple[str, ...] = ()  # cells of a line for every run
    median: bool = False  # whether another such line shows the medians over all runs
    lines: tuple[tuple[str, ...], ...] = ()  # cells of further lines, which show medians over all runs
    summary: tuple[
        str, ...
    ] = ()  # cells of its line in the summary of all groups: what, and how much, as medians over all runs

    def __post_init__(self) -> None:
        if not (self.rows and self.seeds and self.commands and self.depends):
            raise ValueError("rows, seeds, commands and depends must each name at least one")
        if len(self.summary) not in (0, 2):
            raise ValueError(f"a summary of {len(self.summary)} cells; expected two, what and how much")
        for line in (*([self.each] if self.each else []), *self.lines):
            if len(line) != len(self.head):
                raise ValueError(f"a line of {len(line)} cells, {line[0]!r} the first: the head has {len(self.head)}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row of a group with one seed, and the folder that its commands write into."""

    group: Group
    row: str
    seed: int
    folder: Path  # relative to a checkout

    @property
    def source(self) -> Path | None:
        """The folder of the run whose figures its commands read, if they read any."""
        return Path(RUNS, self.group.reads, self.name) if self.group.reads else None

    @property
    def name(self) -> str:
        """Row and seed."""
        return f"{self.row}/{self.seed}"

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of this run that commands and cells may name."""
        return {**self.group.rows[self.row], "row": self.row, "seed": self.seed}

    def command(self, name: str) -> list[str]:
        """The words of a command, after `python -m`."""
        fields = self.fields | {"folder": self.folder, "output": self.folder / f"{name}.json", "source": self.source}
        return [word.format(**fields) for word in shlex.split(self.group.commands[name])]

    def output(self, name: str) -> Path:
        """The JSON file that a command writes."""
        return self.folder / (f"{name}.json" if "{output}" in self.group.commands[name] else "result.json")

    @property
    def depends(self) -> list[str]:
        """The pathspecs of the files that its figures depend on."""
        return [path.format(**self.fields) for path in self.group.depends]


def read_groups(path: Path = Path(__file__).with_name("figures.yaml")) -> dict[str, Group]:
    """The groups by name.

    An entry of depends that names an entry of the file's `paths` is replaced by those paths.
    Raises ValueError that names the key.
    """
    values = read_yaml(path)
    paths = values.get("paths", {})
    groups = {
        name: read(
            Group, group | {"depends": [path for entry in group["depends"] for path in paths.get(entry, [entry])]}, name
        )
        for name, group in values["groups"].items()
    }
    for name, group in groups.items():
        if group.reads and not (
            group.reads in groups
            and {*group.rows} <= {*groups[group.reads].rows}
            and {*group.seeds} <= {*groups[group.reads].seeds}
        ):
            raise ValueError(f"{name}.reads: got {group.reads!r}, expected a group with the same rows and seeds")
    return groups


def runs_of(name: str, group: Group) -> list[Run]:
    """Every run of a group."""
    return [
        Run(group=group, row=row, seed=seed, folder=Path(RUNS, name, row, str(seed)))
        for row in group.rows
        for seed in group.seeds
    ]


def changed_since(commit: str | None, paths: Sequence[str]) -> list[str]:
    """Files under git's pathspecs that differ now from a commit, committed or not.

    If git cannot tell, the list has one line that says why.
    """
    if commit is None or git("rev-parse", "HEAD") is None:
        return ["measured outside a checkout, or shown in none"]
    if commit.endswith(CHANGED):
        return ["measured with changes that no commit has"]
    differing = git("diff", "--name-only", commit, "--", *paths)
    if differing is None:
        return [f"commit {commit[:7]} is not in this checkout"]
    return sorted(
        {*differing.split(), *(git("ls-files", "--others", "--exclude-standard", "--", *paths) or "").split()}
    )


def commit_now(paths: Sequence[str]) -> str | None:
    """The commit of this checkout, marked if files under the pathspecs differ from it."""
    commit = git("rev-parse", "HEAD")
    return commit and commit + (CHANGED if changed_since(commit, paths) else "")


class Cells(string.Formatter):
    """Format strings over nested mappings.

    A value that could not be measured is a dash. `.1fM` shows millions; `.0fmin` shows seconds as minutes.
    """

    def format_field(self, value: Any, format_spec: str) -> str:
        """One value as text."""
        if value is None:
            return "-"
        for suffix, divisor, unit in (("M", 1e6, " M"), ("min", 60.0, " min")):
            if format_spec.endswith(suffix):
                return format(value / divisor, format_spec.removesuffix(suffix)) + unit
        return format(value, format_spec)


def cell(text: str, values: Mapping[str, Any]) -> str:
    """A cell with its values put in. Raises ValueError if it names a value that was not measured."""
    try:
        return Cells().vformat(text, (), values)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"the cell {text!r} cannot be filled in: {type(error).__name__} {error}; expected names of commands and of what "
            f"they wrote, such as {{{next(iter(values), 'train')}[...]}}"
        ) from error
