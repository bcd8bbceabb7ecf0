"""A lock on a run's folder: only one process may train into it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.task.errors import InputError


class FolderInUse(InputError):
    """Another process trains into this folder."""


@contextmanager
def sole_process(folder: Path) -> Iterator[None]:
    """While inside, no other process can train into folder; makes the folder if it does not exist.

    The lock ends with the process, also after SIGKILL. Raises FolderInUse if another process has it, OSError if the
    folder cannot be made.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process has removed the folder
            continue
        try:
            _lock(descriptor, folder)
            if not _is_at(descriptor, folder):  # a process that gave the folder up removed it before we locked it
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
        # otherwise the file system has no locks


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False
