"""The command line's overrides of a run: saved in its record, and used again when the run goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfx.settings.reader import read_yaml

HYDRA = ".hydra"  # subfolder that Hydra writes into a new run's folder
FOLDER = "folder_"  # prefix of the name that Hydra gets for a robot in a user's folder
WHOLE_RUN = "whole_run"  # chosen like a robot: the whole configuration of a run that did not begin on the command line
NOT_KEPT = ("resume", "resume_overrides")
CHOSEN_ONCE = "robot"


def own_overrides(run: Path) -> list[str] | None:
    """All overrides that the run's command lines gave; None if the run did not begin on a command line.

    Raises ValueError for files that are not YAML.
    """
    from train.runs.resume import OVERRIDES, read_record  # imports all training code; --help must be quick

    if OVERRIDES in (record := read_record(run)):
        return record[OVERRIDES]
    if not (run / HYDRA / "overrides.yaml").is_file():
        return None
    # The run was stopped before it had a record.
    return kept(read_yaml(run / HYDRA / "overrides.yaml") or [], read_yaml(run / HYDRA / "config.yaml"))


def kept(overrides: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Overrides to go on with: those given, without resume, and with a robot's folder by its path as in values."""
    in_folder = f"robot={FOLDER}"
    return [
        f"+robot={values['robot']}" if override.lstrip("+").startswith(in_folder) else override
        for override in overrides
        if key_of(override) not in NOT_KEPT
    ]


def laid_over(own: Sequence[str], given: Sequence[str]) -> list[str]:
    """A run's own overrides, followed by the ones given now, which win.

    `~KEY` removes the run's own `+KEY`, and the run's overrides of keys below it.
    """
    marks = {key_of(override): _mark(override) for override in given}
    added = {key_of(override) for override in own if _mark(override).startswith("+")}
    taken_back = {key for key, mark in marks.items() if mark == "~" and key in added}

    def counts(override: str) -> bool:
        key = key_of(override)
        replaced = key in marks and (marks[key] == _mark(override) or key == CHOSEN_ONCE)
        return not replaced and not any(key == above or key.startswith(f"{above}.") for above in taken_back)

    return [*filter(counts, own), *(override for override in given if key_of(override) not in taken_back)]


def key_of(override: str) -> str:
    """The key of an override."""
    return override.lstrip("+~").partition("=")[0]


def is_override(argument: str) -> bool:
    """Whether a command-line argument is an override, and not an option or its value."""
    return re.match(r"~\w|\+{0,2}\w[^=\s]*=", argument) is not None


def _mark(override: str) -> str:
    """The characters before the key of an override, such as + or ~."""
    return override[: len(override) - len(override.lstrip("+~"))]
