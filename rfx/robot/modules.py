"""A user's modules as files: where Python finds them, which belong together, their digests. It imports none."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rfx.robot.config import RobotConfig
from rfx.settings.terms import foreign_names, is_foreign, top_module

INSTALLED = ("site-packages", "dist-packages")  # folders of packages that this Python finds from every directory
OURS = ("rfx", "envs", "train")


def source_files(top: str) -> dict[str, Path]:
    """The Python files of the module or package called top, by their paths in the folder that it is imported from.

    An installed package comes alone, a module in a user's folder with the modules beside it that it imports, and that
    these import. Empty where Python finds no such module, or one that is no file.
    """
    files = _own_files(top)
    if not files or is_installed(files):
        return files
    folder, waiting = _folder(files), [*files.values()]
    while waiting:
        for name in _imports(waiting.pop()):
            if f"{name}.py" not in files and f"{name}/__init__.py" not in files:
                beside = _own_files(name)
                if beside and _folder(beside) == folder:
                    files |= beside
                    waiting += beside.values()
    return files


def is_installed(files: dict[str, Path]) -> bool:
    """Whether these files are of an installed package."""
    return any(part in INSTALLED for path in files.values() for part in path.parts)


def digest(top: str) -> str | None:
    """SHA-256 of all of source_files, names and bytes; None where there are none."""
    return digest_of({name: path.read_bytes() for name, path in source_files(top).items()})


def digest_of(contents: dict[str, bytes]) -> str | None:
    """The same of files that are read already."""
    whole = hashlib.sha256()
    for name, data in sorted(contents.items()):
        whole.update(f"{name}\0{len(data)}\0".encode() + data)
    return whole.hexdigest() if contents else None


def digests(names: Iterable[str]) -> dict[str, str]:
    """Of the modules that these MODULE:NAME are of, by the modules' names: of those that there are."""
    found = {top: digest(top) for top in sorted({top_module(name) for name in names})}
    return {top: value for top, value in found.items() if value}


def check_observable(robot: RobotConfig | None, training_info: Mapping[str, Any], folder: Path | None = None) -> None:
    """Check that Python finds the modules of all that a policy of this robot observes. Nothing is imported.

    Warns of a module that is not the one the policy was trained with. Raises ValueError for a module that is not there,
    and where folder, the policy's own, is on Python's path: then its files could run.
    """
    needed = [name for name in robot.observation_terms if is_foreign(name)] if robot else []
    if folder is not None and (named := [*needed, *foreign_names(training_info)]):
        if any(Path(entry or ".").resolve().is_relative_to(folder.resolve()) for entry in sys.path):
            raise ValueError(
                f"this policy names {named[0]}, and its own folder is on Python's path: what lies there "
                "could run. Go to another directory, or take it off the path"
            )
    trained_with = training_info.get("modules")
    for name in needed:
        top = top_module(name)
        if not source_files(top) and top not in sys.modules:
            raise ValueError(
                f"this policy needs {name} to observe, and Python finds no module {top!r}: put {top}.py, "
                "with which it was trained, into the working directory or on PYTHONPATH"
            )
        was = trained_with.get(top) if isinstance(trained_with, Mapping) else None
        if was is not None and was != digest(top):
            warnings.warn(
                f"this policy was trained with another {top} than the one that Python finds, and may observe "
                "something else",
                stacklevel=3,
            )


def _own_files(top: str) -> dict[str, Path]:
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: a module that says not where it is from, such as __main__
        return {}
    if spec is None or top in OURS or top in sys.stdlib_module_names:
        return {}
    if spec.submodule_search_locations is not None:
        folder = Path(next(iter(spec.submodule_search_locations))).resolve()
        return {f"{top}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*.py"))}
    path = Path(spec.origin or "")
    return {path.name: path.resolve()} if spec.has_location and path.suffix == ".py" and path.is_file() else {}


def _folder(files: dict[str, Path]) -> Path:
    """The one that they are imported from."""
    name, path = next(iter(files.items()))
    return path.parents[name.count("/")]


def _imports(path: Path) -> set[str]:
    """The first parts of the names of all modules that a file imports; none of a file that is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return set()
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]
    return {name.partition(".")[0] for name in names}
