"""Hydra plugins of rfx: seeds=N, hydra/launcher=ray and hydra/sweeper=optuna.

Hydra finds plugins only in the package hydra_plugins.

Hydra imports this file at every start, so slow modules are imported on use. The work is done in train/sweeps/search.py
and train/sweeps/jobs.py, which do not depend on Hydra.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper: it runs every combination of the given values, and with seeds=N runs each N times."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep, as Sweeper.sweep does."""
        from train.sweeps.points import every_seed

        every = every_seed(arguments, self.config.seed, self.config.seeds)
        return super().sweep(
            [argument for argument in every if argument.partition("=")[0] != "seeds"]
        )  # a run's result does not depend on the number of seeds


class RayLauncher(Launcher):
    """Runs are jobs of a Ray cluster, see train/sweeps/jobs.py. The keyword arguments are the fields of JobsConfig."""

    def __init__(self, **settings: Any):
        self._given = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Set up the launcher, as Launcher.setup does."""
        from train.sweeps.jobs import JobsConfig

        self._settings = JobsConfig(**self._given)  # not in __init__: Hydra would replace the message of its errors
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch the jobs, as Launcher.launch does."""
        return [done for _, done in self.stream(enumerate(job_overrides, initial_job_idx))]

    def stream(self, jobs: Iterable[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, JobReturn]]:
        """Run jobs, (number, overrides), and yield the result of each job when it ends.

        A job is taken from jobs only when the cluster has room for it.
        """
        from train.sweeps.jobs import run_jobs

        setup_globals()
        sweep = Path(self.config.hydra.sweep.dir).resolve()
        sweep.mkdir(parents=True, exist_ok=True)
        for num in run_jobs((self._job(num, overrides) for num, overrides in jobs), sweep, self._settings):
            yield num, JobReturn(status=JobStatus.COMPLETED)

    def _job(self, num: int, overrides: Sequence[str]) -> Any:
        from rfx.settings.terms import foreign_names
        from train.sweeps.jobs import Job
        from train.task.errors import InputError
        from train.task.modules import sources_of

        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        if config.get("scale"):
            raise InputError(
                "hydra/launcher=ray gives whole runs to the cluster, +scale=ray the environments of one run: choose one of them"
            )
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(num), num
            config.threads = config.threads or self._settings.cpus_per_job
        named = foreign_names(OmegaConf.to_container(config, resolve=False))
        run = functools.partial(_run, self.hydra_context, self.task_function, config)
        return Job(num=num, overrides=tuple(overrides), run=run, sources=sources_of(named))


def _run(context: HydraContext, task_function: TaskFunction, config: DictConfig, sweep: Path) -> None:
    """Do one run, in its numbered folder inside sweep; the process must not have started Hydra before."""
    version.setbase("1.3")  # as train/commands/train.py: an older version would change into the run's folder
    setup_globals()
    with open_dict(config):
        config.hydra.sweep.dir = str(sweep)
    run_job(
        hydra_context=context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        configure_logging=False,
    )


class OptunaSweeper(Sweeper):
    """A search over ranges of keys, see train/sweeps/search.py. The keyword arguments are those of SearchConfig."""

    def __init__(self, **settings: Any):
        self._given = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Set up the sweeper, as Sweeper.setup does."""
        from hydra.core.plugins import Plugins

        from train.sweeps.search import SearchConfig

        self._settings = SearchConfig(**self._given)
        self.config, self._loader = config, hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the search, as Sweeper.sweep does."""
        from train.sweeps.search import Search

        overrides = OverridesParser.create(config_loader=self._loader).parse_overrides(arguments)
        space = {
            override.get_key_element(): _values(override) for override in overrides if override.is_sweep_override()
        }
        fixed = [override.input_line for override in overrides if not override.is_sweep_override()]
        nominal = self._loader.load_sweep_config(self.config, fixed)
        sweep = Path(self.config.hydra.sweep.dir)
        sweep.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, sweep / "multirun.yaml")
        default = {
            key: OmegaConf.to_container(
                OmegaConf.create({"": OmegaConf.select(nominal, key.lstrip("+"))}), resolve=True
            )[""]
            for key in space
        }
        search = Search(sweep, self._settings, space, fixed, default, seed=nominal.seed, seeds=nominal.seeds)
        if hasattr(self._launcher, "stream"):
            for num, _ in self._launcher.stream(search.jobs()):
                search.ended(num)
        else:
            for first, batch in search.batches():
                self._launcher.launch(batch, initial_job_idx=first)
                for num in range(first, first + len(batch)):
                    search.ended(num)
        search.close()


def _values(override: Override) -> dict[str, Any]:
    """Values of a key as JSON types: {"choices": [...]}, or {"low": ..., "high": ..., "step": ..., "log": ...}."""
    swept = override.value()
    if isinstance(swept, IntervalSweep):
        return {"low": swept.start, "high": swept.end, "step": None, "log": "log" in swept.tags}
    if override.is_range_sweep():
        numbers = list(override.sweep_iterator())
        return {"low": numbers[0], "high": numbers[-1], "step": swept.step, "log": "log" in swept.tags}
    return {"choices": list(override.sweep_string_iterator())}
