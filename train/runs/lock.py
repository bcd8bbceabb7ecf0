"""One process a folder: who trains into it holds its lock."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.task.errors import InputError


class FolderInUse(InputError):
    """Another process trains into the folder."""


@contextmanager
def sole_process(folder: Path) -> Iterator[None]:
    """While inside, no other process can train into folder, which is made where it is not there.

    Its end, by SIGKILL too, frees it. Raises FolderInUse where one does already, OSError for a folder that cannot be
    made.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # removed since
            continue
        try:
            _lock(descriptor, folder)
            if not _is_at(descriptor, folder):  # removed before it was locked, by a process that gave it up
                continue
            yield
            return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise FolderInUse(f"another process is training in {folder}: wait for it, or stop it first") from None
        # else a file system without locks


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False
