"""Writes folders and files atomically: write to a temporary name, force to disk, then rename in one step."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def replace_folder(path: str | Path, files: Mapping[str, bytes], *, obsolete: Collection[str] = ()) -> Path:
    """Make path a folder of exactly these files. The old folder stays unchanged until that is done. Returns path.

    An existing folder may hold files with the same names, and files named in obsolete, which are deleted. Raises
    FileExistsError if path is not a folder, or if it holds any other file, because that file would be lost.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    if target.exists():
        if not target.is_dir():
            raise FileExistsError(f"{path} is a file; expected a folder, or nothing there")
        if others := sorted(set(os.listdir(target)) - {*files, *obsolete}):
            raise FileExistsError(
                f"{path} holds {', '.join(others[:5])}, which would be lost; give a folder of its own"
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    beside.mkdir()
    try:
        for name, data in files.items():
            _write(beside / name, data)
        _sync_folder(beside)
        _put_in_place(beside, target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # the old folder, or an unfinished new one
    return path


def replace_file(path: str | Path, data: bytes) -> None:
    """Make path a file of exactly this data. The old file stays unchanged until that is done. Raises OSError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _write(beside, data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Write a new file and force it to disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(beside: Path, target: Path) -> None:
    """Rename the folder beside to target. If target existed, the old folder is called beside afterwards."""
    if not target.exists():
        beside.rename(target)
        return
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if (
        exchange is not None
        and exchange(AT_FDCWD, os.fsencode(beside), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE) == 0
    ):
        return
    # EINVAL and ENOSYS mean that the file system cannot exchange two folders
    if exchange is not None and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), f"could not replace {target}: {os.strerror(ctypes.get_errno())}")
    old = beside.with_name(f"{beside.name}-old")
    target.rename(old)
    try:
        beside.rename(target)
    except OSError:
        old.rename(target)
        raise
    old.rename(beside)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
