"""Writing while the disk may be full, the folder gone or not ours: told once, and training goes on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Writes:
    """Runs writes that a run can do without for now. The first failure of each kind is told; the next write of it is tried again."""

    def __init__(self, tell: Callable[[str], None]):
        self.tell = tell
        self._told: set[str] = set()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Around a write of what, such as "the checkpoint": an OSError ends it, is told once, and is not raised."""
        try:
            yield
        except OSError as error:
            if what not in self._told:
                self._told.add(what)
                where = f" in {error.filename}" if error.filename else ""
                self.tell(f"could not write {what}{where}: {(error.strerror or str(error)).lower()}; training goes on and tries again")


def replace_file(path: Path, data: bytes) -> None:
    """Make path a file of exactly this data; until that is done, what was there stays as it was. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
