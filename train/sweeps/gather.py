"""A run's folder on another machine, copied to the one of the command while it is written: one Outbox for each run
there, one Inbox here.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rfx.system.folders import replace_file
from train.runs.callbacks import Callback
from train.sweeps.study import pruner_of, pruners_afar
from train.task.task import Judgement

CHECKPOINTS_FIRST = (
    "checkpoints/"  # what is read after a checkpoint is at least as new: the metrics have all rows that it counts
)
HIDDEN = ".hydra"  # other names that begin with a dot are unfinished
Files = Mapping[str, bytes]  # by their path in a run's folder


class Inbox:
    """Writes what runs elsewhere send into their folders in a sweep's; of each run only what its newest attempt
    sends.
    """

    def __init__(self, sweep: Path):
        self._sweep, self._attempts = Path(sweep), {}
        self._pruners: dict[int, Callback | None] = {}

    def begin(self, num: int, attempt: int) -> dict[str, bytes]:
        """All files of run num, for an attempt that may be elsewhere; from now on no earlier attempt changes them."""
        self._attempts[num] = attempt
        folder = self._sweep / str(num)
        return {name: (folder / name).read_bytes() for name in list_files(folder)}

    def take(self, num: int, attempt: int, new: Files, names: Collection[str]) -> bool:
        """Write new files of run num and remove those not in names, last: a checkpoint goes when the next is there.

        Returns whether that was done: not for an attempt that was taken for dead. Raises OSError.
        """
        if attempt < self._attempts.get(num, 0):
            return False
        folder = self._sweep / str(num)
        write_files(folder, new)
        for name in {*list_files(folder)} - {*names}:
            (folder / name).unlink(missing_ok=True)
            if not any((folder / name).parent.iterdir()):
                (folder / name).parent.rmdir()
        return True

    def prune(self, num: int, steps: int, judgement: Judgement) -> bool:
        """What a search whose study lies here says of an evaluation of run num: whether to give it up.

        False where there is none.
        """
        if num not in self._pruners:
            self._pruners[num] = pruner_of(self._sweep / str(num))
        pruner = self._pruners[num]
        return pruner is not None and bool(pruner.on_evaluation(steps, judgement))


class Outbox:
    """Sends what is new in folder every_s seconds while inside, and once more at the end. send is given new files and
    the names of all.
    """

    def __init__(self, folder: Path, every_s: float, send: Callable[[Files, list[str]], Any]):
        self._folder, self._every_s, self._send = folder, every_s, send
        self._sent: dict[str, tuple[int, ...]] = {}  # what tells one content of a file from another
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send_repeatedly, daemon=True)

    def __enter__(self) -> Outbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.send()

    def send(self) -> None:
        """Send what is new, and what was removed since; nothing where nothing is. Raises what send does."""
        found, new = self._look()
        if new or found.keys() != self._sent.keys():
            self._send(new, [*found])
            self._sent = found

    def _look(self) -> tuple[dict[str, tuple[int, ...]], dict[str, bytes]]:
        """What tells the content of each file, and the content of those that are new."""
        while True:
            found, new = {}, {}
            try:
                for name in list_files(self._folder):
                    path = self._folder / name
                    status = path.stat()  # before it is read: what is written meanwhile is new the next time
                    found[name] = status.st_ino, status.st_size, status.st_mtime_ns
                    if self._sent.get(name) != found[name]:
                        new[name] = path.read_bytes()
            except FileNotFoundError:  # a checkpoint made room for another, which is to be sent in its place
                continue
            return found, new

    def _send_repeatedly(self) -> None:
        told = False
        while not self._end.wait(self._every_s):
            try:
                self.send()
            except (
                Exception
            ) as error:  # a full disk there, a network that is slow: the end of the run is where it must arrive
                if not told:
                    print(
                        f"could not send what is new ({type(error).__name__}: {error}); training goes on and tries again",
                        flush=True,
                    )
                told = True


@contextmanager
def elsewhere(
    num: int, files: Files, every_s: float, send: Callable[[Files, list[str]], Any], pruner: Callback
) -> Iterator[Path]:
    """A sweep's folder on this machine while run num is on it, of which that run's folder, which begins with files, is
    sent as Outbox does.

    pruner is shown the run's evaluations.
    """
    with tempfile.TemporaryDirectory(prefix="rfx-sweep-") as there:
        folder = Path(there) / str(num)
        write_files(folder, files)
        pruners_afar[folder] = pruner
        try:
            with Outbox(folder, every_s, send):
                yield Path(there)
        finally:
            del pruners_afar[folder]


def list_files(folder: Path) -> list[str]:
    """Paths in folder of its finished files, checkpoints first; none where there is no folder."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    finished = [str(name) for name in names if not any(part.startswith(".") and part != HIDDEN for part in name.parts)]
    return sorted(finished, key=lambda name: (not name.startswith(CHECKPOINTS_FIRST), name))


def write_files(folder: Path, files: Files) -> None:
    """Write files into folder, each whole or not at all. Raises OSError."""
    for name, data in files.items():
        replace_file(folder / name, data)
