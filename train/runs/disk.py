"""Lets training go on while files cannot be written: the disk is full, or the folder is gone or not writable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Writes:
    """Runs writes that may fail without ending the run.

    The first failure of each kind is reported. The next write of that kind is attempted again.
    """

    def __init__(self, tell: Callable[[str], None]):
        self.tell = tell
        self._told: set[str] = set()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Context around a write; an OSError inside it is reported once and not raised. what: e.g. "the checkpoint"."""
        try:
            yield
        except OSError as error:
            if what not in self._told:
                self._told.add(what)
                where = f" in {error.filename}" if error.filename else ""
                self.tell(
                    f"could not write {what}{where}: {(error.strerror or str(error)).lower()}; training goes on and tries again"
                )
