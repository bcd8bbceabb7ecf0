"""Trains runs as jobs of a Ray cluster; all their folders are on this machine.

Each job has a process of its own. A job is started again if its process or machine dies.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfx.system.extras import install_command
from rfx.system.folders import replace_file
from rfx.system.output import Lasting
from rfx.system.signals import stopping_signals
from train.runs.callbacks import Callback
from train.scale import cluster
from train.sweeps.gather import Files, Inbox, elsewhere
from train.sweeps.sweep import read_result
from train.task.errors import InputError, one_line
from train.task.modules import Sources, install_sources
from train.task.task import Judgement

OUTPUT = "output.log"
LOOK_EVERY_S = 0.5  # interval at which to look for signals and new machines


@dataclass(frozen=True, kw_only=True)
class JobsConfig:
    """The group ray of configs/hydra/launcher/ray.yaml, where each key is explained. Raises InputError."""

    address: str | None = None
    cpus_per_job: int = 2
    retries: int = 3
    gather_s: float = 10.0

    def __post_init__(self):
        if importlib.util.find_spec("ray") is None:
            raise InputError(f"hydra/launcher=ray needs ray: {install_command('ray')}")
        for name, least, types in (("cpus_per_job", 1, int), ("retries", 0, int), ("gather_s", 0.1, (int, float))):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, types) or not value >= least:
                raise InputError(
                    f"ray.{name} is {value!r}: it must be a number of at least {least}{', and whole' if types is int else ''}"
                )


@dataclass(frozen=True, kw_only=True)
class Job:
    """Run num of a sweep. run is called with the sweep's folder, and trains into its subfolder num.

    sources are the files of the user's own modules that the run names.
    """

    num: int
    overrides: tuple[str, ...]
    run: Callable[[Path], Any]
    sources: Sources = field(default_factory=dict)


def connect(address: str | None, cpus_per_job: int) -> bool:
    """Call cluster.join with these settings."""
    return cluster.join(address, cpus_per_job, key="ray.address")


def run_jobs(
    jobs: Iterable[Job], sweep: Path, settings: JobsConfig, tell: Callable[[str], None] = print
) -> Iterator[int]:
    """Run jobs and yield the number of each one that ended, successfully or not, as its result.json says.

    A job is taken from jobs when there is room for it. The first SIGINT, SIGTERM or SIGHUP stops the runs, which save
    their state, and raises SystemExit; a second one ends this process at once. Raises InputError if there is no
    cluster, or no machine that is large enough.
    """
    import ray

    joined_here = connect(settings.address, settings.cpus_per_job)
    try:
        if not cluster.num_that_fit(settings.cpus_per_job):
            raise InputError(
                f"ray.cpus_per_job is {settings.cpus_per_job}, and the machines of the Ray cluster have "
                f"{' + '.join(map(str, cluster.cpus()))} CPUs: lower it, or add a larger machine"
            )
        yield from Jobs(sweep, settings, tell).run(iter(jobs))
    finally:
        if joined_here:
            ray.shutdown()


class Jobs:
    """The running jobs of one sweep."""

    def __init__(self, sweep: Path, settings: JobsConfig, tell: Callable[[str], None]):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._sweep, self._settings, self._tell = sweep, settings, tell
        self._home = ray.get_runtime_context().get_node_id()
        here = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(self._home, soft=False)}
        self._inbox = ray.remote(Inbox).options(**here, max_restarts=-1, max_task_retries=-1).remote(sweep)
        self._task = ray.remote(max_calls=1, max_retries=0, num_cpus=settings.cpus_per_job)(
            attempt
        )  # max_calls=1 gives each job its own process
        self._at_work: dict[Any, tuple[Job, int]] = {}  # each job with its number of attempts that died

    def run(self, jobs: Iterator[Job]) -> Iterator[int]:
        """Run jobs as run_jobs does."""
        import ray

        with stop_signal() as received:
            try:
                while not received:
                    self._fill(jobs)
                    if not self._at_work:
                        return
                    for reference in ray.wait([*self._at_work], timeout=LOOK_EVERY_S)[0]:
                        if not received and self._has_ended(reference):
                            yield self._at_work.pop(reference)[0].num
                self._tell("stopping the runs, which save what they have (Ctrl-C again: at once)")
            finally:
                for reference in self._at_work:
                    ray.cancel(reference, recursive=False)  # acts like SIGINT; the job still sends its files
                for reference in self._at_work:
                    ray.wait([reference])
                ray.kill(self._inbox)
        raise SystemExit(128 + received[0])

    def _fill(self, jobs: Iterator[Job]) -> None:
        """Start jobs while there is room."""
        while len(self._at_work) < max(1, cluster.num_that_fit(self._settings.cpus_per_job)) and (
            job := next(jobs, None)
        ):
            self._tell(f"Run {job.num}: {' '.join(job.overrides)}")
            self._begin(job, 0)

    def _begin(self, job: Job, deaths: int) -> None:
        # The files go directly from the inbox to the machine of the attempt.
        files = self._inbox.begin.remote(job.num, deaths)
        here = job.sources, os.getcwd()
        arguments = job.run, here, job.num, deaths, self._sweep, self._home, self._inbox, self._settings.gather_s, files
        self._at_work[self._task.remote(*arguments)] = job, deaths

    def _has_ended(self, reference: Any) -> bool:
        """Whether the job is done; reports how it ended. False: it starts again."""
        import ray

        job, deaths = self._at_work[reference]
        try:
            exit_code = ray.get(reference)
            if exit_code < 128:
                if status := read_result(self._sweep / str(job.num)).get("status"):
                    self._tell(f"Run {job.num}: {status}")
                    return True
                return self._failed(
                    job, f"it ended with exit code {exit_code} and no result: {OUTPUT} in its folder may tell why"
                )
            died = f"signal {exit_code - 128}"  # the signal was not ours: the machine is shutting down
        except ray.exceptions.RayTaskError as error:
            return self._failed(job, f"{type(error.cause).__name__}: {one_line(error.cause)}")
        except ray.exceptions.RayError as error:
            died = type(error).__name__
        deaths, died = deaths + 1, f"its machine or process died ({died})"
        if deaths > self._settings.retries:
            ray.get(
                self._inbox.begin.remote(job.num, deaths)
            )  # files that the last attempt still sends would remove the result
            return self._failed(job, f"{died}, {deaths} times")
        self._tell(
            f"Run {job.num}: {died}; it begins again from its last checkpoint, {deaths} of at most {self._settings.retries} times"
        )
        del self._at_work[reference]
        self._begin(job, deaths)
        return False

    def _failed(self, job: Job, error: str) -> bool:
        """Report the error and write the result that the job could not write; returns True: the job is done."""
        self._tell(f"Run {job.num}: failed: {error}")
        result = {"status": "failed", "error": error, "overrides": list(job.overrides)}
        replace_file(self._sweep / str(job.num) / "result.json", (json.dumps(result, indent=2) + "\n").encode())
        return True


@contextmanager
def stop_signal() -> Iterator[list[int]]:
    """While inside, the first SIGINT, SIGTERM or SIGHUP is only added to the yielded list.

    A second one ends the process, except SIGHUP.
    """
    received: list[int] = []

    def receive(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        received.append(number)

    previous = {number: signal.signal(number, receive) for number in stopping_signals()}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def attempt(
    run: Callable[[Path], Any],
    given: tuple[Sources, str],
    num: int,
    number: int,
    sweep: Path,
    home: str,
    inbox: Any,
    gather_s: float,
    files: Files,
) -> int:
    """One attempt of a job, in its own process on any machine; returns its exit code. files are in the run's folder.

    given has the files of the user's own modules, and the directory in which the sweep began.
    """
    import ray

    sources, directory = given
    cluster.enter(directory)
    install_sources(sources)

    if ray.get_runtime_context().get_node_id() == home:
        return run_in(sweep, run, num)

    def send(new: Files, names: list[str]) -> bool:
        return ray.get(inbox.take.remote(num, number, new, names))

    with elsewhere(num, files, gather_s, send, PrunerAfar(inbox, num)) as there:
        return run_in(there, run, num)


class PrunerAfar(Callback):
    """Asks the inbox, an actor on the machine of the study, whether to give up on run num."""

    gives_up = True

    def __init__(self, inbox: Any, num: int):
        self._inbox, self._num = inbox, num

    def on_evaluation(self, steps: int, judgement: Judgement) -> bool:
        """Return the decision of the study's pruner."""
        import ray

        return ray.get(self._inbox.prune.remote(self._num, steps, judgement))


def run_in(sweep: Path, run: Callable[[Path], Any], num: int) -> int:
    """Run into folder num of sweep and write its output to output.log there; returns its exit code."""
    (folder := sweep / str(num)).mkdir(parents=True, exist_ok=True)
    output = open(folder / OUTPUT, "a", buffering=1)
    sys.stdout = sys.stderr = Lasting(output)  # the disk may be full
    for descriptor in (1, 2):  # for output of libraries and child processes, which do not use sys.stdout
        os.dup2(output.fileno(), descriptor)
    try:
        run(sweep)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
    return 0
