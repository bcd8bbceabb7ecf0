"""Writing while the disk may be full, the folder gone or not ours: told once, and training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Writes:
    """Runs writes that a run can do without for now.

    The first failure of each kind is told; the next write of it is tried again.
    """

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
                self.tell(
                    f"could not write {what}{where}: {(error.strerror or str(error)).lower()}; training goes on and tries again"
                )
