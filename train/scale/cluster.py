"""The Ray cluster that workers run on: joining it, and how many workers its machines have room for."""

from __future__ import annotations

import os
import socket

from train.errors import InputError, one_line

CONNECT_S = 5.0


def join(address: str | None, num_cpus: int) -> bool:
    """Connect to the cluster at address (auto: the one that this machine is part of), or begin a Ray on this machine, of num_cpus at least.

    Returns whether that was done here, and is to be undone: False where this process is connected already. Raises InputError where no
    cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    _knock(address)
    own = {"num_cpus": max(num_cpus, os.cpu_count() or 1), "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **own)
    except Exception as error:  # Ray has no class of its own for it
        raise InputError(_nobody(address, error) if address else
                         f"no Ray could begin on this machine ({one_line(error)}); is it very busy, or full? Try again") from error
    return True


def _knock(address: str | None) -> None:
    """Raises InputError where nobody listens at address, HOST:PORT: Ray itself would try for three minutes."""
    host, separator, port = (address or "").rpartition(":")
    if not separator or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise InputError(_nobody(address, error)) from error


def _nobody(address: str, error: Exception) -> str:
    return f"scale.address={address}: no Ray cluster answers there ({one_line(error)}); begin one with ray start --head, or leave scale.address out"


def cpus() -> list[int]:
    """Of every machine that is there."""
    import ray

    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def num_that_fit(threads: int) -> int:
    """How many workers of so many threads the machines have CPUs for."""
    return sum(num // threads for num in cpus())


def threads_that_fit(num_workers: int) -> int:
    """The most threads that as many workers can have each: 1 where there are too many."""
    return next((threads for threads in range(max(cpus(), default=1), 1, -1) if num_that_fit(threads) >= num_workers), 1)


def check_fits(num_workers: int, threads: int) -> None:
    """Raises InputError where the machines have too few CPUs."""
    if num_that_fit(threads) < num_workers:
        there = " + ".join(map(str, cpus()))
        raise InputError(f"scale.workers={num_workers} of {threads} threads need {num_workers * threads} CPUs, and the Ray cluster has {there}: "
                         "add machines, or lower scale.workers or scale.threads")
