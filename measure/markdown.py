"""Measured figures as Markdown: tables of groups, put between their markers in README and docs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from measure.claims import Group, cell, runs_of

END = "<!-- end -->"
SUMMARY = "summary"  # a marker of this name gets one line of each group that has a summary
BLOCK = re.compile(rf"<!-- figures: (\w+) -->\n(.*?){END}", re.DOTALL)


def blocks(text: str) -> dict[str, str]:
    """The text between markers, by the group's name."""
    return {match[1]: match[2] for match in BLOCK.finditer(text)}


def rendered(text: str, groups: Mapping[str, Group], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The text with the table of every measured group between its markers; the other tables stay as they are.

    Raises ValueError for a marker that names no group, or has no end.
    """
    if text.count("<!-- figures:") != len(BLOCK.findall(text)):
        raise ValueError(f"a marker <!-- figures: NAME --> has no {END} before the next one: add it")
    if unknown := blocks(text).keys() - groups.keys() - {SUMMARY}:
        raise ValueError(
            f"a marker names {', '.join(sorted(unknown))}: no group of measure/figures.yaml, which has {', '.join(groups)}"
        )

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        if name == SUMMARY:
            return f"<!-- figures: {SUMMARY} -->\n{summary(groups, figures)}{END}"
        return (
            f"<!-- figures: {name} -->\n{section(name, groups[name], figures[name])}{END}"
            if figures.get(name)
            else match[0]
        )

    return BLOCK.sub(filled, text)


def summary(groups: Mapping[str, Group], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """A table with one line for each measured group that has a summary; stale groups are marked."""
    lines = [["what", "measured"], ["---", "---"]]
    for name, group in groups.items():
        runs = [figures[name][run.name] for run in runs_of(name, group) if run.name in figures.get(name, {})]
        if group.summary and runs:
            what, measured = (cell(text, median_of(runs)) for text in group.summary)
            lines.append([what, measured + " (**stale**)" * any(run["changed_since"] for run in runs)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def section(name: str, group: Group, runs: Mapping[str, Mapping[str, Any]]) -> str:
    """A group's table, and below it how and when it was measured. runs: the measured values, by the run's name."""
    lines = [group.head, ["---"] * len(group.head)]
    shown = [runs[run.name] | run.fields for run in runs_of(name, group) if run.name in runs]
    lines += [[cell(text, run) for text in group.each] for run in shown if group.each]
    medians = median_of(shown)
    below = ([("median", *group.each[1:])] if group.median else []) + list(group.lines)
    lines += [[cell(text, medians) for text in line] for line in below]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{how(name, group, shown)}\n"


def how(name: str, group: Group, runs: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the command, time, date, commit and machine of a measurement, and whether it is stale."""
    seconds = sum(run[command]["process_s"] for run in runs for command in group.commands)
    others = [run[command]["other_cores"] for run in runs for command in group.commands]
    dates, machines = (
        sorted({run["began"][:10] for run in runs}),
        dict.fromkeys(_machine(run["provenance"]) for run in runs),
    )
    commits = dict.fromkeys(run["commit"][:7] if run["commit"] else "none" for run in runs)
    missing = len(group.rows) * len(group.seeds) - len(runs)
    stale = {path for run in runs for path in run["changed_since"]}
    busy = (
        ""
        if None in others
        else f" Other work took {statistics.median(others):.2f} cores beside it, at most {max(others):.2f}."
    )
    return (
        f"`python -m measure.figures --only {name}`, {_minutes(seconds)}, {' and '.join(dict.fromkeys((dates[0], dates[-1])))}, "
        f"commit {', '.join(commits)}; {'; '.join(machines)}.{busy}"
        + (f" {missing} of {missing + len(runs)} runs are missing." if missing else "")
        + (
            f" **Stale**: what it depends on has changed since, in {len(stale)} file{'s' * (len(stale) > 1)}."
            if stale
            else ""
        )
    )


def median_of(values: Sequence[Any]) -> Any:
    """Merge trees of the same shape into one.

    Numbers become their median, or None if one of them could not be measured. Equal texts stay; others become None.
    """
    first = values[0]
    if all(isinstance(value, Mapping) for value in values):
        return {
            key: median_of([value[key] for value in values]) for key in first if all(key in value for value in values)
        }
    if all(isinstance(value, list) for value in values):
        return [median_of(group) for group in zip(*values)]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return statistics.median(values)
    return first if all(value == first for value in values) else None


def _machine(provenance: Mapping[str, Any]) -> str:
    return (
        f"{provenance['cores']} cores of {provenance['processor']}, Python {provenance['python']}, MuJoCo {provenance['mujoco']}, "
        f"tinygrad {provenance['tinygrad']}"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
