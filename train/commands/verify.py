"""`python -m train.verify RUN`: trains a run's first iterations again and compares the weights bit for bit.

RUN is a run's folder. Its run.json has the configuration and the weights' fingerprints after the first iterations.
Exit code 0: the weights are the same; 1: they differ, and the output says what else differs; 2: RUN cannot be verified.
"""

from __future__ import annotations

if __name__ == "__main__":
    from rfx.system.extras import exit_without

    exit_without("train", "python -m train.verify")

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rfx.settings.terms import search_working_directory
from train.runs.fingerprint import provenance
from train.runs.resume import RECORD, find_run, read_record, start_from, use_modules_of, weights_fingerprint
from train.runs.trainer import Trainer
from train.task.errors import InputError, bad_input, exit_on_error
from train.task.flat import config_of


def verify(folder: Path, console: Console, *, threads: int | None = None) -> bool:
    """Train the first iterations of the run in folder again; returns whether every bit of the weights is the same.

    threads: number of threads if it shall differ from the run's; the weights do not depend on it. Raises InputError for
    a run whose record is incomplete.
    """
    record = read_record(folder)
    if not record.get("beginning"):
        raise InputError(
            f"{folder / RECORD} has no fingerprints of the first iterations: it is of an earlier rfx, or was stopped before them"
        )
    use_modules_of(folder, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    with bad_input(f"{folder / RECORD}: "):
        config = dataclasses.replace(config_of(record["config"]), resume=None)
        config = config if threads is None else dataclasses.replace(config, threads=threads)
        trainer = Trainer(config)
    if config.start_from:
        start_from(trainer, find_run(config.start_from, folder.parent, "start_from"), console.print)
    for iteration, expected in sorted((int(number), digest) for number, digest in record["beginning"].items()):
        with console.status(f"iteration {iteration}"):
            while trainer.iteration < iteration:
                trainer.iterate()
        if (found := weights_fingerprint(trainer)) != expected:
            console.print(
                f"iteration {iteration}: the weights differ: {found[:16]} here, {expected[:16]} in the run",
                highlight=False,
            )
            for line in differences(record):
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            return False
        console.print(f"iteration {iteration}: the same bits, {found[:16]}", highlight=False)
    return True


def differences(record: dict) -> list[str]:
    """What differs between this machine and run.json, in words."""
    here = provenance()
    return [
        f"{name}: {record[name]} then, {value} now"
        for name, value in here.items()
        if name in record and record[name] != value
    ] or ["versions, commit and processor are the same: what differs is not known"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(
        prog="rfx verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="the run's folder, such as runs/DATE_TIME, or latest")
    parser.add_argument("--threads", type=int, help="another number of threads than the run's")
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    search_working_directory()
    with exit_on_error():
        if not verify(find_run(given.run, Path("runs"), "RUN"), Console(), threads=given.threads):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
