"""The modules of a user's own terms, in a run's folder: copied when the run begins, and found there when it goes on.

A run goes on, and is verified, evaluated and played, with its own copies: it was trained with these. With
resume_overrides=true it goes on with the modules on Python's path. A copy that differs from the module on the path is
told of in one line. A run's folder is code. A policy folder is not, and nothing is ever imported from one.
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

MODULES = "modules"  # the folder of the copies in a run's, and the entry of their digests in its record
Sources = Mapping[str, bytes]  # by the paths of the files in the folder that they are imported from


def foreign_names_of(config: TrainConfig, task: Task) -> list[str]:
    """Every MODULE:NAME that a run's configuration names, or what its robot observes."""
    return [*foreign_names([dataclasses.asdict(config), task.meaning()])]


def sources_of(names: Iterable[str]) -> dict[str, bytes]:
    """The files of the modules of these MODULE:NAME. Not of installed packages: Python finds them everywhere."""
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
    """Copy the modules of these MODULE:NAME into a run's folder. Returns their digests by name. Raises OSError."""
    names = [*names]
    write_sources(run / MODULES, sources_of(names))
    return digests(names)


def use_modules(run: Path, recorded: Mapping[str, str], tell: Callable[[str], None], *, own: bool = True) -> None:
    """Let Python find the modules that a run's record names: the run's copies first, or without own last.

    recorded are the digests by the modules' names. tell is given a line for each module that differs.
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
    """Let this process, which may be on another machine, import these files, before others of the same names."""
    if sources:
        folder = Path(tempfile.mkdtemp(prefix="rfx_modules_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        write_sources(folder, sources)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
