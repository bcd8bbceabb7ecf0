"""Copies a run's folder from another machine to the machine of the command, while the run writes it.

There is one Outbox for each run on the other machine, and one Inbox on this machine.
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
    "checkpoints/"  # files read after a checkpoint are at least as new: the metrics have all rows that it counts
)
HIDDEN = ".hydra"  # an exception: other names that begin with a dot are unfinished
Files = Mapping[str, bytes]  # content by path in a run's folder


class Inbox:
    """Writes the files that runs on other machines send into those runs' folders in a sweep's folder.

    For each run it accepts only files from the newest attempt.
    """

    def __init__(self, sweep: Path):
        self._sweep, self._attempts = Path(sweep), {}
        self._pruners: dict[int, Callback | None] = {}

    def begin(self, num: int, attempt: int) -> dict[str, bytes]:
        """All files of run num, for a new attempt on any machine; from now on earlier attempts cannot change them."""
        self._attempts[num] = attempt
        folder = self._sweep / str(num)
        return {name: (folder / name).read_bytes() for name in list_files(folder)}

    def take(self, num: int, attempt: int, new: Files, names: Collection[str]) -> bool:
        """Write the new files of run num, then remove the files that are not in names.

        In this order an old checkpoint stays until the next one is there. Returns False, and does nothing, for an
        attempt that was declared dead. Raises OSError.
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
        """Whether to give up on run num after an evaluation, as the search's pruner decides; the study must lie here.

        False if there is no pruner.
        """
        if num not in self._pruners:
            self._pruners[num] = pruner_of(self._sweep / str(num))
        pruner = self._pruners[num]
        return pruner is not None and bool(pruner.on_evaluation(steps, judgement))


class Outbox:
    """Sends new files in folder every every_s seconds while inside, and once more at the end.

    send is called with the new files and the names of all files.
    """

    def __init__(self, folder: Path, every_s: float, send: Callable[[Files, list[str]], Any]):
        self._folder, self._every_s, self._send = folder, every_s, send
        self._sent: dict[str, tuple[int, ...]] = {}  # state that tells whether a file has changed
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
        """Send the new files and the removals since the last call, if there are any. Raises what send raises."""
        found, new = self._look()
        if new or found.keys() != self._sent.keys():
            self._send(new, [*found])
            self._sent = found

    def _look(self) -> tuple[dict[str, tuple[int, ...]], dict[str, bytes]]:
        """The state of each file, and the content of the new files."""
        while True:
            found, new = {}, {}
            try:
                for name in list_files(self._folder):
                    path = self._folder / name
                    status = path.stat()  # before the read, so that later writes are sent the next time
                    found[name] = status.st_ino, status.st_size, status.st_mtime_ns
                    if self._sent.get(name) != found[name]:
                        new[name] = path.read_bytes()
            except FileNotFoundError:  # a checkpoint was replaced by a newer one, which will be sent
                continue
            return found, new

    def _send_repeatedly(self) -> None:
        told = False
        while not self._end.wait(self._every_s):
            try:
                self.send()
            except (
                Exception
            ) as error:  # e.g. a full disk there or a slow network; only the files at the end of the run must arrive
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
    """A folder on this machine that stands for the sweep's folder while run num trains here.

    The run's folder in it begins with files and is sent as Outbox does. pruner gets the run's evaluations.
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
    """Paths in folder of its finished files, checkpoints first; empty if the folder does not exist."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    finished = [str(name) for name in names if not any(part.startswith(".") and part != HIDDEN for part in name.parts)]
    return sorted(finished, key=lambda name: (not name.startswith(CHECKPOINTS_FIRST), name))


def write_files(folder: Path, files: Files) -> None:
    """Write files into folder, each completely or not at all. Raises OSError."""
    for name, data in files.items():
        replace_file(folder / name, data)
