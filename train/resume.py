"""Going on with a run: which one, under which configuration, and what is written down about it in its run.json."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from train.checkpoint import checkpoints
from train.config import TrainConfig
from train.disk import replace_file
from train.errors import InputError

RECORD = "run.json"  # seed, provenance and configuration of the beginning, every resumption, at the end the weights' fingerprint
# Differences that change no result, and those that nothing after a run's beginning reads.
FREE = ("resume", "resume_overrides", "threads", "trainer.checkpoint_every", "trainer.keep_checkpoints")
FIXED = ("seed", "robot", "env.num_envs", "env.random_start_age", "policy.hidden", "policy.initial_std")


def find_run(resume: str, runs: Path) -> Path:
    """The run's folder that resume means: a path, or `latest`, the one under runs that wrote the newest checkpoint.

    Raises InputError where there is no checkpoint.
    """
    if resume == "latest":
        found = [path for folder in runs.glob("**/checkpoints") for path in checkpoints(folder)]
        if not found:
            raise InputError(f"resume=latest: no run under {runs} has a checkpoint; give the run's folder, resume=PATH")
        return max(found, key=lambda path: path.stat().st_mtime).parent.parent
    folder = Path(resume)
    if folder.parent.name == "checkpoints":
        raise InputError(f"resume={resume} is one checkpoint: give its run's folder, {folder.parent.parent}, which goes on from the newest; "
                         "to go back further, move newer ones elsewhere")
    if not checkpoints(folder / "checkpoints"):
        what = "has no checkpoint" if folder.is_dir() else "is no folder"
        raise InputError(f"resume={resume}: it {what}; expected the folder of a run, such as runs/DATE_TIME, or latest")
    return folder


def values_of(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON types, one entry for each dotted key."""
    return _flatten(json.loads(json.dumps(dataclasses.asdict(config))))


def changes(was: Mapping[str, Any], config: TrainConfig) -> dict[str, list[Any]]:
    """[was, is] of the keys that differ between a checkpoint's values_of and config, those left out that change no result.

    Raises InputError where config does not allow differences (resume_overrides), or for one that cannot be made any more.
    """
    now = values_of(config)
    differing = {key: [was.get(key), now.get(key)] for key in sorted(was.keys() | now.keys())
                 if was.get(key) != now.get(key) and key not in FREE}
    if differing and not config.resume_overrides:
        told = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in differing.items())
        raise InputError(f"the configuration differs from the checkpoint's: {told}. Give it as it was "
                         f"({' '.join(f'{key}={_as_override(old)}' for key, (old, _) in differing.items())}), or add resume_overrides=true")
    if fixed := [key for key in differing if key.startswith(FIXED)]:
        raise InputError(f"{', '.join(fixed)} cannot change any more, even with resume_overrides=true: what is begun with it is in the "
                         "checkpoint; train anew")
    return differing


def moved(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """[was, is] of the entries of provenance that differ: where there are any, going on is not to the bit."""
    return {key: [was.get(key), value] for key, value in now.items() if was.get(key) != value}


def read_record(folder: Path) -> dict[str, Any]:
    """What run.json in folder says; empty where it is not there or not whole, because checkpoints have all that a run needs."""
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}


def update_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Add values to run.json in folder. Raises OSError."""
    replace_file(folder / RECORD, (json.dumps(read_record(folder) | values, indent=2) + "\n").encode())


@contextmanager
def sole_process(folder: Path) -> Iterator[None]:
    """While inside, no other process can train into folder. Raises InputError where one does already. Its end, by SIGKILL too, frees it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise InputError(f"another process is training in {folder}: wait for it, or stop it first") from None
        yield  # also on a file system without locks
    finally:
        os.close(descriptor)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _as_override(value: Any) -> str:
    """The value as it is written on the command line."""
    return "null" if value is None else json.dumps(value, separators=(",", ":")).strip('"')
