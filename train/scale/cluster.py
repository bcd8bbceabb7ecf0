"""The Ray cluster of the workers: connects to it and counts how many workers its machines have room for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

from rfx.system.signals import hangup_ignored
from train.task.errors import InputError, one_line

LIBRARY = Path(__file__).resolve().parents[2]  # directory from which our packages are imported
TRIES = 3  # Ray gives up after 15 to 30 s, too short on a busy machine or while another Ray shuts down
ANSWER_S = 10.0  # a machine that is up answers within this time


def join(address: str | None, num_cpus: int, key: str = "scale.address") -> bool:
    """Connect to the Ray cluster at address, or start Ray on this machine if address is None.

    address auto means the cluster that this machine is part of. A Ray started here has at least num_cpus CPUs. key is
    the setting that gave address, for messages. Returns whether this call connected, so that the caller must
    disconnect; False if this process was already connected. Raises InputError if no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False

    def begin() -> None:
        ray.shutdown()  # removes what a failed attempt has left
        # Ray's workers search for imports first in the directory in which Ray was started.
        with chdir(LIBRARY), hangup_ignored():
            ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **own)

    own = {"num_cpus": max(num_cpus, os.cpu_count() or 1), "include_dashboard": False} if address is None else {}
    try:
        if address and address.count(":") == 1 and "/" not in address:  # Ray itself would try for minutes
            host, port = address.split(":")
            socket.create_connection((host, int(port)), ANSWER_S).close()
        _tried(1 if address else TRIES, begin)
    except Exception as error:  # Ray has no error class for this
        failed = f"{key}={address}: no Ray cluster answers there" if address else "no Ray could begin on this machine"
        advice = (
            f"begin one with ray start --head, or leave {key} out" if address else "is it very busy, or full? Try again"
        )
        raise InputError(f"{failed} ({one_line(error)}); {advice}") from error
    return True


def enter(directory: str) -> None:
    """Change this Ray process to the directory in which the command was given, if its machine has it."""
    if os.path.isdir(directory):
        os.chdir(directory)


def cpus() -> list[int]:
    """Number of CPUs of every machine that is up."""
    import ray

    return [int(node["Resources"].get("CPU", 0)) for node in _tried(TRIES, ray.nodes) if node["Alive"]]


def _tried(times: int, call: Callable[[], Any]) -> Any:
    """The result of call, which is called again if it fails, at most `times` times in all."""
    for left in reversed(range(times)):
        try:
            return call()
        except Exception:  # many classes of errors are possible
            if not left:
                raise


def num_that_fit(threads: int) -> int:
    """How many workers with this number of threads the machines have CPUs for."""
    return sum(num // threads for num in cpus())


def threads_that_fit(num_workers: int) -> int:
    """The most threads per worker that num_workers workers can have; 1 if there are too many workers."""
    return next(
        (threads for threads in range(max(cpus(), default=1), 1, -1) if num_that_fit(threads) >= num_workers), 1
    )


def check_fits(num_workers: int, threads: int) -> None:
    """Raises InputError if the machines have too few CPUs."""
    if num_that_fit(threads) < num_workers:
        there = " + ".join(map(str, cpus()))
        raise InputError(
            f"scale.workers={num_workers} of {threads} threads need {num_workers * threads} CPUs, and the Ray cluster has {there}: "
            "add machines, or lower scale.workers or scale.threads"
        )
