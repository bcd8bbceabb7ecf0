"""Checkpoints: the whole state of a run on disk. A checkpoint is complete or absent; only the newest few are kept.

A checkpoint is the folder {steps} with state.safetensors (arrays), state.json (everything else) and SHA256SUMS, which
the command `sha256sum -c` can check. A folder whose name begins with a dot is unfinished or is being removed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from rfx.system.folders import replace_folder

ARRAYS, VALUES, SUMS = "state.safetensors", "state.json", "SHA256SUMS"


def write_checkpoint(folder: Path, steps: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write state as the checkpoint of steps, then remove the oldest checkpoints, so that keep remain.

    state has NumPy arrays and JSON types by name. Returns the checkpoint's path. Raises OSError if the disk fails; all
    earlier checkpoints are then unchanged.
    """
    arrays = {name: np.ascontiguousarray(value) for name, value in state.items() if isinstance(value, np.ndarray)}
    values = {name: value for name, value in state.items() if name not in arrays}
    files = {ARRAYS: safetensors.numpy.save(arrays), VALUES: json.dumps(values).encode()}
    files[SUMS] = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):  # left by a process that was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)
    path = replace_folder(folder / f"{steps:012d}", files)
    older = [other for other in checkpoints(folder) if other.name < path.name]
    for other in older[: max(0, len(older) - keep + 1)]:
        _remove(other)
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state that write_checkpoint wrote.

    Raises ValueError for a checkpoint that was changed or damaged, OSError for an unreadable one.
    """
    if missing := [name for name in (SUMS, ARRAYS, VALUES) if not (path / name).is_file()]:
        raise ValueError(f"{', '.join(missing)} missing")
    expected = dict(
        line.split("  ", 1)[::-1] for line in (path / SUMS).read_text(errors="replace").splitlines() if "  " in line
    )
    files = {name: (path / name).read_bytes() for name in (ARRAYS, VALUES)}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != expected.get(name):
            raise ValueError(f"{name} does not have the checksum that {SUMS} says")
    return json.loads(files[VALUES]) | safetensors.numpy.load(files[ARRAYS])


def newest_checkpoint(folder: Path, tell: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """Path and state of the newest undamaged checkpoint in folder; tell is called for each damaged one it passes over.

    Raises ValueError if there is none.
    """
    for path in reversed(checkpoints(folder)):
        try:
            return path, read_checkpoint(path)
        except (OSError, ValueError) as error:
            tell(f"checkpoint {path} is damaged ({error}); going back to the one before")
    raise ValueError(f"{folder} holds no checkpoint that is whole")


def set_aside_after(path: Path) -> None:
    """Rename the checkpoints that are newer than the one at path.

    A run that goes on from path must not find them later.
    """
    for other in checkpoints(path.parent):
        if other.name > path.name:
            aside = other.with_name(f"{other.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            other.rename(aside)


def checkpoints(folder: Path) -> list[Path]:
    """Paths of the checkpoints in folder, oldest first; empty if the folder does not exist."""
    return sorted(path for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def _remove(path: Path) -> None:
    """Remove a checkpoint so that its name never points to a part of it."""
    beside = path.with_name(f".{path.name}-old")
    path.rename(beside)
    shutil.rmtree(beside, ignore_errors=True)
