"""What the command line said of a run: kept in its record, and said again where the run goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfx.settings.reader import read_yaml

HYDRA = ".hydra"  # what Hydra writes as it makes a run's folder
FOLDER = "folder_"  # begins the name under which Hydra is told of a robot in a user's folder
WHOLE_RUN = "whole_run"  # chosen like a robot: the whole configuration of a run that no command line began
NOT_KEPT = ("resume", "resume_overrides")
CHOSEN_ONCE = "robot"


def own_overrides(run: Path) -> list[str] | None:
    """What the run's command lines said, in the end; None where no command line began it.

    Raises ValueError for files that are not YAML.
    """
    from train.runs.resume import OVERRIDES, read_record  # here, as it imports all that trains, and --help is quick

    if OVERRIDES in (record := read_record(run)):
        return record[OVERRIDES]
    if not (run / HYDRA / "overrides.yaml").is_file():
        return None
    # Stopped before it had a record.
    return kept(read_yaml(run / HYDRA / "overrides.yaml") or [], read_yaml(run / HYDRA / "config.yaml"))


def kept(overrides: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The overrides that a run goes on with: without resume; a robot's folder by its path, as values have it."""
    in_folder = f"robot={FOLDER}"
    return [
        f"+robot={values['robot']}" if override.lstrip("+").startswith(in_folder) else override
        for override in overrides
        if key_of(override) not in NOT_KEPT
    ]


def laid_over(own: Sequence[str], given: Sequence[str]) -> list[str]:
    """A run's own overrides, and after them those given now, which count above them.

    `~KEY` takes back the run's own `+KEY`, and what the run says of keys below it.
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
    """The key that an override is of."""
    return override.lstrip("+~").partition("=")[0]


def is_override(argument: str) -> bool:
    """Whether an argument of the command line is a setting, and no option or its value."""
    return re.match(r"~\w|\+{0,2}\w[^=\s]*=", argument) is not None


def _mark(override: str) -> str:
    """What stands before the key."""
    return override[: len(override) - len(override.lstrip("+~"))]
