"""The Ray cluster that workers run on: joining it, and how many workers its machines have room for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

from rfx.system.signals import hangup_ignored
from train.task.errors import InputError, one_line

LIBRARY = Path(__file__).resolve().parents[2]  # where our packages are imported from
TRIES = (
    3  # of Ray, which gives up after 15 to 30 s: on a busy machine, or while another one leaves, that may be too short
)
ANSWER_S = 10.0  # a machine that is there answers within


def join(address: str | None, num_cpus: int, key: str = "scale.address") -> bool:
    """Connect to the cluster at address (auto: the one that this machine is part of), or begin a Ray on this machine,
    of num_cpus at least.

    key is the setting that gave address. Returns whether that was done here, and is to be undone: False where this
    process is connected already. Raises InputError where no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False

    def begin() -> None:
        ray.shutdown()  # of what an attempt that failed has left
        # Ray's workers import from the directory that it is begun in, before all others.
        with chdir(LIBRARY), hangup_ignored():
            ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **own)

    own = {"num_cpus": max(num_cpus, os.cpu_count() or 1), "include_dashboard": False} if address is None else {}
    try:
        if address and address.count(":") == 1 and "/" not in address:  # Ray itself would try for minutes
            host, port = address.split(":")
            socket.create_connection((host, int(port)), ANSWER_S).close()
        _tried(1 if address else TRIES, begin)
    except Exception as error:  # Ray has no class of its own for it
        failed = f"{key}={address}: no Ray cluster answers there" if address else "no Ray could begin on this machine"
        advice = (
            f"begin one with ray start --head, or leave {key} out" if address else "is it very busy, or full? Try again"
        )
        raise InputError(f"{failed} ({one_line(error)}); {advice}") from error
    return True


def enter(directory: str) -> None:
    """Let this process of Ray's go to the directory that the command was given in, if its machine has it."""
    if os.path.isdir(directory):
        os.chdir(directory)


def cpus() -> list[int]:
    """Of every machine that is there."""
    import ray

    return [int(node["Resources"].get("CPU", 0)) for node in _tried(TRIES, ray.nodes) if node["Alive"]]


def _tried(times: int, call: Callable[[], Any]) -> Any:
    """What call returns, called so many times at most while it fails."""
    for left in reversed(range(times)):
        try:
            return call()
        except Exception:  # of many classes
            if not left:
                raise


def num_that_fit(threads: int) -> int:
    """How many workers of so many threads the machines have CPUs for."""
    return sum(num // threads for num in cpus())


def threads_that_fit(num_workers: int) -> int:
    """The most threads that as many workers can have each: 1 where there are too many."""
    return next(
        (threads for threads in range(max(cpus(), default=1), 1, -1) if num_that_fit(threads) >= num_workers), 1
    )


def check_fits(num_workers: int, threads: int) -> None:
    """Raises InputError where the machines have too few CPUs."""
    if num_that_fit(threads) < num_workers:
        there = " + ".join(map(str, cpus()))
        raise InputError(
            f"scale.workers={num_workers} of {threads} threads need {num_workers * threads} CPUs, and the Ray cluster has {there}: "
            "add machines, or lower scale.workers or scale.threads"
        )
