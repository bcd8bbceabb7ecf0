"""`python -m measure.figures`: measures what README and docs claim, writes docs/figures.json, and fills in the tables
between their markers.

    python -m measure.figures                    every group that is not apart; --list tells what there is, and how long it takes
    python -m measure.figures --only default     one group; --only again for more
    python -m measure.figures --render           the tables of what is measured, and which of it is stale; nothing is run

Begun again it goes on: what the same command measured already, on code that has not changed since, is not measured
again. A command that was interrupted begins anew, so that its time is true.
"""

from __future__ import annotations

if __name__ == "__main__":
    from rfx.system.extras import exit_without

    exit_without("train", "python -m measure.figures")

import argparse
import itertools
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from measure.claims import Group, Run, changed_since, commit_now, read_groups, runs_of
from measure.markdown import rendered
from rfx.settings.terms import nearest
from rfx.system.folders import replace_file
from train.runs.fingerprint import ROOT, git, provenance
from train.task.errors import InputError, bad_input, exit_on_error

FILE, TEXTS = "docs/figures.json", ("README.md", "docs/*.md")
LEFT_OUT = ("figures", "overrides", "policy")  # of the commands' output: it is stored elsewhere
MOST_TOLD = 2  # most files that one line names
MEASURED = "measured.json"  # in a run's folder: each command with its commit and its time


class Figures:
    """docs/figures.json under root, the runs behind it, and the texts that show it."""

    def __init__(self, groups: Mapping[str, Group], root: Path, console: Console):
        self.groups, self.root, self.console = groups, root, console
        self.path = root / FILE
        with bad_input(f"{FILE}: "):
            self.values: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def measure(self, names: Sequence[str]) -> bool:
        """Run the commands of these groups that have to be run, group by group.

        Each run is written as soon as it is whole. Returns whether all went well.
        """
        went_well, jobs = True, [(name, run) for name in names for run in runs_of(name, self.groups[name])]
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        if dirty := sorted({path for _, run in jobs for path in changed_since(git("rev-parse", "HEAD"), run.depends)}):
            self.console.print(
                f"{', '.join(dirty[:MOST_TOLD])} differ from the last commit: what is measured now counts as stale, and is measured "
                "again next time. Commit first",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        with bar:
            task = bar.add_task("", total=sum(len(run.group.commands) for _, run in jobs))
            for name, run in jobs:
                done = measure_run(
                    run,
                    self.root,
                    lambda text, name=name: bar.update(task, description=f"{name} {text}"),
                    lambda line, name=name: self.console.print(
                        f"{name} {line}", highlight=False, markup=False, soft_wrap=True
                    ),
                )
                bar.advance(task, len(run.group.commands))
                went_well &= done
                if done:
                    measured = gathered(run, self.root)
                    self.values.setdefault(name, {})[run.name] = measured | {
                        "changed_since": self.changed_since(run, measured)
                    }
                    self.write()
        self.note_stale()  # runs that read new values are stale now
        self.write()
        return went_well

    def note_stale(self) -> None:
        """Note for every run which code has changed since. A run that no group has any more is dropped."""
        for name in self.values.keys() & self.groups.keys():
            by_name = {run.name: run for run in runs_of(name, self.groups[name])}
            self.values[name] = {
                key: self.values[name][key] | {"changed_since": self.changed_since(run, self.values[name][key])}
                for key, run in by_name.items()
                if key in self.values[name]
            }

    def changed_since(self, run: Run, measured: Mapping[str, Any]) -> list[str]:
        """The dependencies of a run that have changed since it was measured.

        These are files, and the run whose figures it reads.
        """
        read = self.values.get(run.group.reads, {}).get(run.name)
        return changed_since(measured["commit"], run.depends) + (
            [str(run.source)] if read and is_newer(read, measured) else []
        )

    def write(self) -> None:
        """Write the file and fill in the texts. Raises InputError for a text with wrong markers."""
        ordered = {name: self.values[name] for name in self.groups if self.values.get(name)}
        replace_file(self.path, (json.dumps(ordered, indent=1) + "\n").encode())
        for path in (path for pattern in TEXTS for path in sorted(self.root.glob(pattern))):
            with bad_input(f"{path.name}: "):
                before = path.read_text()
                if (after := rendered(before, self.groups, ordered)) != before:
                    replace_file(path, after.encode())

    def minutes(self, name: str) -> float:
        """How long a group takes: as last measured, or else as the group says."""
        group, runs = self.groups[name], self.values.get(name, {})
        seconds = sum(run[command]["process_s"] for run in runs.values() for command in group.commands)
        return seconds / 60.0 if len(runs) == len(runs_of(name, group)) else group.minutes

    def table(self) -> Table:
        """Every group: what it is, how many minutes it takes, and whether its figures are measured and fresh."""
        shown = Table(box=None, pad_edge=False)
        for head in ("group", "what", "minutes", "figures"):
            shown.add_column(head, justify="right" if head == "minutes" else "left")
        for name, group in self.groups.items():
            runs, num = self.values.get(name, {}), len(runs_of(name, group))
            stale = sorted({path for run in runs.values() for path in run["changed_since"]})
            state = "not measured" if not runs else f"{len(runs)} of {num} runs" if len(runs) < num else "measured"
            more = f" and {len(stale) - MOST_TOLD} more" if len(stale) > MOST_TOLD else ""
            shown.add_row(
                name,
                group.about,
                f"{self.minutes(name):.0f}",
                state + (f", stale: {', '.join(stale[:MOST_TOLD])}{more} changed since" if stale else ""),
            )
        apart = [name for name, group in self.groups.items() if group.apart]
        shown.caption, shown.caption_justify = (
            f"measured only when named: {', '.join(apart)}" if apart else None,
            "left",
        )
        return shown


def measure_run(run: Run, root: Path, status: Callable[[str], None], tell: Callable[[str], None]) -> bool:
    """Run the commands of a run that have not been run on this code, and all commands after them.

    Returns whether all of them went well.
    """
    folder, record = root / run.folder, read_record(root / run.folder)
    kept = list(itertools.takewhile(lambda name: is_measured(run, name, root, record), run.group.commands))
    record = {name: record[name] for name in kept}
    if len(kept) < len(run.group.commands):
        tidy(folder, {MEASURED, *(path for measured in record.values() for path in measured["wrote"])})
    for name in run.group.commands:
        command = run.command(name)
        if name in kept:
            tell(f"{run.name} {name}: measured before, {record[name]['process_s']:.0f} s")
            continue
        status(f"{run.name} {name}")
        commit, before = commit_now(run.depends), {path.name for path in folder.iterdir()}
        measured, exit_code = timed(command, root, folder / "log.txt")
        if exit_code or not (root / run.output(name)).is_file():
            tell(
                f"{run.name} {name} failed, with exit code {exit_code}: python -m {shlex.join(command)}; see {run.folder / 'log.txt'}"
            )
            return False
        wrote = sorted(path.name for path in folder.iterdir() if path.name not in before)
        record[name] = {"command": command, "commit": commit, "provenance": here(), "wrote": wrote} | measured
        replace_file(folder / MEASURED, (json.dumps(record, indent=1) + "\n").encode())
        tell(f"{run.name} {name}: {record[name]['process_s']:.0f} s")
    return True


def tidy(folder: Path, kept: Collection[str]) -> None:
    """Make a folder, and remove everything in it that kept does not name.

    The rest comes from other code, or from a command that was interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def read_record(folder: Path) -> dict[str, Any]:
    """The contents of measured.json in a run's folder; empty if the file is absent or not whole."""
    try:
        return json.loads((folder / MEASURED).read_text())
    except (OSError, ValueError):
        return {}


def is_measured(run: Run, name: str, root: Path, record: Mapping[str, Any]) -> bool:
    """Whether the same command has written its output here, with the same versions, code and sources as now.

    A command whose written files are not recorded is measured again.
    """
    return (
        name in record
        and "wrote" in record[name]
        and record[name]["command"] == run.command(name)
        and (root / run.output(name)).is_file()
        and record[name]["provenance"] == here()
        and not changed_since(record[name]["commit"], run.depends)
        and not (run.source and any(is_newer(read, record[name]) for read in read_record(root / run.source).values()))
    )


def is_newer(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one measurement began after another."""
    return datetime.fromisoformat(one["began"]) > datetime.fromisoformat(other["began"])


@cache
def here() -> dict[str, Any]:
    """Versions and machine. The commit is noted separately, because only a part of the code matters."""
    return {key: value for key, value in provenance().items() if key not in ("commit", "features")}


def timed(command: Sequence[str], root: Path, log: Path) -> tuple[dict[str, Any], int]:
    """Run `python -m` with these words in root, with its output in log. Returns the times and the exit code.

    process_s is the time from the process's start to its exit. other_cores is the number of cores that were busy with
    other processes meanwhile, or None if the system does not say.
    """
    began, begin, busy, own = (
        datetime.now().astimezone().isoformat(timespec="seconds"),
        time.monotonic(),
        busy_s(),
        children_s(),
    )
    with open(log, "a") as file:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=root, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    seconds = time.monotonic() - begin
    others = None if busy is None else max(0.0, round((busy_s() - busy - (children_s() - own)) / seconds, 3))
    return {"began": began, "process_s": round(seconds, 2), "other_cores": others}, done.returncode


def busy_s() -> float | None:
    """CPU time of all processes of this machine, with the time that its host took from it; Linux's proc(5)."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split(None, 9)[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def children_s() -> float:
    """CPU time of this process and of the children that it waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def gathered(run: Run, root: Path) -> dict[str, Any]:
    """The outputs of a run's commands, by their names, with their times.

    The date, the commit and the machine are those of the first command.
    """
    record = read_record(root / run.folder)
    first = record[next(iter(run.group.commands))]
    values = {
        name: json.loads((root / run.output(name)).read_text().replace(f"{root}/", "")) for name in run.group.commands
    }
    return {key: first[key] for key in ("began", "commit", "provenance")} | {
        name: {key: value for key, value in values[name].items() if key not in LEFT_OUT}
        | {"command": shlex.join(record[name]["command"])}
        | {key: record[name][key] for key in ("process_s", "other_cores")}
        for name in values
    }


def read_arguments(arguments: Sequence[str], groups: Mapping[str, Group]) -> argparse.Namespace:
    """Read the command line. Raises InputError for an unknown group."""
    parser = argparse.ArgumentParser(
        prog="python -m measure.figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="measure this group; may be given again")
    parser.add_argument(
        "--list", action="store_true", help="tell the groups, how long each takes and what is stale, and run nothing"
    )
    parser.add_argument(
        "--render", action="store_true", help="fill in the tables from docs/figures.json, and run nothing"
    )
    given = parser.parse_args(arguments)
    for name in given.only or ():
        if name not in groups:
            raise InputError(f"--only {name}: there is no such group, {nearest(name, groups)}")
    return given


def main(
    root: Path = ROOT, config: Path = Path(__file__).with_name("figures.yaml"), console: Console | None = None
) -> None:
    """Run the command line."""
    with exit_on_error():
        with bad_input():
            groups = read_groups(config)
        given, console = read_arguments(sys.argv[1:], groups), console or Console()
        figures, names = (
            Figures(groups, root, console),
            given.only or [name for name, group in groups.items() if not group.apart],
        )
        figures.note_stale()
        if given.list:
            console.print(figures.table(), highlight=False)
            return
        figures.write()  # faults in the texts are reported before hours of work
        if not given.render:
            console.print(
                f"{', '.join(names)}: about {sum(map(figures.minutes, names)):.0f} minutes, less what is measured already",
                highlight=False,
            )
        went_well = given.render or figures.measure(names)
        console.print(figures.table(), highlight=False)
        if not went_well:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
