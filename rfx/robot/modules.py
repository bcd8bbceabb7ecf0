"""Finds the files of a user's modules and computes their digests, without importing them."""

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

INSTALLED = ("site-packages", "dist-packages")  # folders of installed packages, which Python finds from every directory
OURS = ("rfx", "envs", "train")


def source_files(top: str) -> dict[str, Path]:
    """The Python files of the module or package called top, by their paths relative to the folder it is in.

    For an installed package, these are its own files. For a module in a user's folder, they also include the modules in
    the same folder that it imports, directly or through each other. Empty if Python finds no such module, or if the
    module is not a file.
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
    """Whether these files belong to an installed package."""
    return any(part in INSTALLED for path in files.values() for part in path.parts)


def digest(top: str) -> str | None:
    """SHA-256 of the names and bytes of all source_files of top; None if there are no files."""
    return digest_of({name: path.read_bytes() for name, path in source_files(top).items()})


def digest_of(contents: dict[str, bytes]) -> str | None:
    """The same digest as `digest`, for files that are already read: contents by name."""
    whole = hashlib.sha256()
    for name, data in sorted(contents.items()):
        whole.update(f"{name}\0{len(data)}\0".encode() + data)
    return whole.hexdigest() if contents else None


def digests(names: Iterable[str]) -> dict[str, str]:
    """Digests by module name, for the modules in these MODULE:NAME names. Modules without files are left out."""
    found = {top: digest(top) for top in sorted({top_module(name) for name in names})}
    return {top: value for top, value in found.items() if value}


def check_observable(robot: RobotConfig | None, training_info: Mapping[str, Any], folder: Path | None = None) -> None:
    """Check that Python finds the modules of all terms that a policy of this robot observes. Imports nothing.

    Warns if a module differs from the module that the policy was trained with. Raises ValueError for a missing module.
    folder is the policy's own folder. Raises ValueError too if the policy names modules and folder is on Python's path,
    because files in folder could then run.
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
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return {}
    if spec is None or top in OURS or top in sys.stdlib_module_names:
        return {}
    if spec.submodule_search_locations is not None:
        folder = Path(next(iter(spec.submodule_search_locations))).resolve()
        return {f"{top}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*.py"))}
    path = Path(spec.origin or "")
    return {path.name: path.resolve()} if spec.has_location and path.suffix == ".py" and path.is_file() else {}


def _folder(files: dict[str, Path]) -> Path:
    """The folder that these files are imported from."""
    name, path = next(iter(files.items()))
    return path.parents[name.count("/")]


def _imports(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports; empty for a file that is not Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return set()
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]
    return {name.partition(".")[0] for name in names}
