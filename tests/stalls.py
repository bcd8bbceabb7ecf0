"""Whether this machine stood still: a process that sleeps on every core, ahead of all others, and notes when it woke up
late.

The tests of the wire keep time to a few milliseconds. A virtual machine whose host takes its cores away for longer
fails them, whatever they test, and in whatever words: conftest.py runs such a test again, twice at most, and only where
this process saw a core stand still meanwhile.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from rfx.drivers.realtime import realtime_priority

PRIORITY = 45  # above the emulator's, which is above the guard's and the sender's
PERIOD_S = 0.004
LATE_S = 0.005  # the narrowest times of the tests, such as "no LowState for 5[0-9] ms", leave a sender about so much


class StallWatch:
    """Watches from now on, until this process ends. Raises RuntimeError where it cannot."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile("r")
        with open(self._file.name, "w") as out:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                cwd=Path(__file__).parents[1],
            )
        atexit.register(self._process.kill)
        while not self._file.read():  # on a busy machine it may take seconds to begin
            if self._process.poll() is not None:
                raise RuntimeError(f"tests/stalls.py ended with status {self._process.returncode}")
            time.sleep(0.01)

    def longest_s(self, since_s: float) -> float:
        """For how long a core stood still at a time, since since_s of time.monotonic(). 0 when none did for longer than
        LATE_S.
        """
        time.sleep(5.0 * PERIOD_S)  # what has just ended is noted too
        self._file.seek(0)
        stalls = [[float(number) for number in line.split()] for line in self._file.read().splitlines()]
        return max((late_s for woke_s, late_s in stalls if woke_s > since_s), default=0.0)


def _watch(core: int, parent: int) -> None:
    os.sched_setaffinity(0, {core})  # of this thread
    with realtime_priority(PRIORITY):
        while os.getppid() == parent:
            due_s = time.monotonic() + PERIOD_S
            time.sleep(PERIOD_S)
            if (late_s := time.monotonic() - due_s) > LATE_S:
                os.write(1, f"{due_s + late_s:.4f} {late_s:.4f}\n".encode())  # whole, whatever the other threads say


if __name__ == "__main__":
    for core in os.sched_getaffinity(0):
        threading.Thread(target=_watch, args=(core, int(sys.argv[1]))).start()
    os.write(1, b"0 0\n")  # it has begun
