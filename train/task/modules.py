"""Copies of the user's own modules in a run's folder, so that a run always uses the code it was trained with.

A run copies them when it begins. It uses its copies when it is resumed, verified, evaluated and played. With
resume_overrides=true it resumes with the modules on Python's path. One line reports each copy that differs from the
module on the path. A run's folder contains code. A policy folder does not, and rfx never imports anything from one.
"""

from __future__ import annotations

import atexit
import dataclasses
import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rfx.robot.modules import digest, digests, is_installed, source_files
from rfx.settings.terms import foreign_names, top_module
from rfx.system.folders import replace_file
from train.task.config import TrainConfig
from train.task.task import Task

MODULES = "modules"  # the folder of the copies in a run's folder, and the entry of their digests in its record
Sources = Mapping[str, bytes]  # contents of files, by their paths in the folder that they are imported from


def foreign_names_of(config: TrainConfig, task: Task) -> list[str]:
    """Every MODULE:NAME in a run's configuration or in the observation terms of its robot."""
    return [*foreign_names([dataclasses.asdict(config), task.meaning()])]


def sources_of(names: Iterable[str]) -> dict[str, bytes]:
    """The files of the modules in these MODULE:NAME. Installed packages are left out: Python finds them everywhere."""
    files: dict[str, Path] = {}
    for top in {top_module(name) for name in names}:
        if not is_installed(found := source_files(top)):
            files |= found
    return {name: path.read_bytes() for name, path in files.items()}


def write_sources(folder: Path, sources: Sources) -> None:
    """Write the files below folder. Raises OSError."""
    for name, data in sources.items():
        replace_file(folder / name, data)


def keep_modules(run: Path, names: Iterable[str]) -> dict[str, str]:
    """Copy the modules in these MODULE:NAME into a run's folder. Returns their digests by name. Raises OSError."""
    names = [*names]
    write_sources(run / MODULES, sources_of(names))
    return digests(names)


def use_modules(run: Path, recorded: Mapping[str, str], tell: Callable[[str], None], *, own: bool = True) -> None:
    """Let Python find the modules that a run's record names.

    The run's copies come before Python's path, or after it without own. recorded has the digests by the modules' names.
    tell gets a line for each module that differs.
    """
    copies = (run / MODULES).absolute()
    if not recorded:
        return
    importlib.invalidate_caches()
    for top, was in recorded.items():
        here = digest(top)
        if here in (was, None):
            continue
        is_kept = (copies / f"{top}.py").is_file() or (copies / top).is_dir()
        if own and is_kept and top not in sys.modules:
            tell(
                f"{top} on Python's path is not what {run} was trained with: the run's own copy is used, "
                f"{copies / top}; resume_overrides=true goes on with the one on the path"
            )
        else:
            used = next(iter(source_files(top).values()))
            tell(f"{top} is not what {run} was trained with: this one is used, {used}")
    if copies.is_dir() and str(copies) not in sys.path:
        sys.path.insert(0 if own else len(sys.path), str(copies))


def install_sources(sources: Sources) -> None:
    """Let this process import these files, before others of the same names; it may run on another machine."""
    if sources:
        folder = Path(tempfile.mkdtemp(prefix="rfx_modules_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        write_sources(folder, sources)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
