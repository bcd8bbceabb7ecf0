"""Searches for good values of keys with Optuna.

Optuna suggests values (ask), the runs of a sweep report their results (tell), and study.db stores both. Optuna is an
extra and slow to import, so it is imported on use.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.settings.terms import nearest
from train.sweeps.points import APART, seeds_of
from train.sweeps.study import NAME, choice_of, create_study, distribution
from train.sweeps.sweep import read_result
from train.task.errors import InputError

if TYPE_CHECKING:
    import optuna

DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The settings of a search: configs/hydra/sweeper/optuna.yaml, where each key is explained."""

    metric: str = "score"
    direction: str = "minimize"
    num_trials: int | None = 20
    minutes: float | None = None
    prune: bool = True
    full_trials: int = 5
    random_trials: int = 10
    parallel: int = 1

    def __post_init__(self) -> None:
        for name, least in (("num_trials", 1), ("full_trials", 0), ("random_trials", 0), ("parallel", 1)):
            value = getattr(self, name)
            if not (type(value) is int and value >= least or name == "num_trials" and value is None):
                raise InputError(f"hydra.sweeper.{name} is {value!r}: it must be a whole number of at least {least}")
        if self.minutes is not None and not (type(self.minutes) in (int, float) and self.minutes >= 0):
            raise InputError(
                f"hydra.sweeper.minutes is {self.minutes!r}: it must be a time in minutes, or null for no limit"
            )
        if self.num_trials is None and self.minutes is None:
            raise InputError(
                "hydra.sweeper.num_trials and minutes are both null, and the search would never end: give one of them"
            )
        if self.direction not in DIRECTIONS:
            raise InputError(
                f"hydra.sweeper.direction is {self.direction!r}: {nearest(str(self.direction), DIRECTIONS)}"
            )
        if type(self.prune) is not bool:
            raise InputError(f"hydra.sweeper.prune is {self.prune!r}: it must be true or false")


class Search:
    """The search whose study lies in a sweep's folder; a study that exists is continued.

    Trial n has the runs n * seeds, n * seeds + 1, ... of the sweep. space: the possible values of each key, in the form
    of hydra_plugins; fixed: the other overrides; default: the keys' values in the configuration, which are tried first
    if space has them. Raises InputError for a space that cannot be searched, and if the folder holds another search.
    """

    def __init__(
        self,
        sweep: Path,
        settings: SearchConfig,
        space: Mapping[str, Mapping[str, Any]],
        fixed: Sequence[str],
        default: Mapping[str, Any],
        *,
        seed: int,
        seeds: int,
        tell: Callable[[str], None] = print,
    ):
        self._sweep, self._settings, self._space, self._tell = sweep, settings, space, tell
        self._seeds, self._began = seeds_of(seed, seeds), time.monotonic()
        self._fixed = [override for override in fixed if override.partition("=")[0].lstrip("+") != "seed"]
        self._distributions = {key: distribution(key, values) for key, values in space.items()}
        if not space:
            raise InputError(
                "hydra/sweeper=optuna has nothing to search: give a key a range, such as 'ppo.gamma=interval(0.95,0.995)'"
            )
        self._study = create_study(sweep, settings.direction)
        self._claim(
            {
                "metric": settings.metric,
                "direction": settings.direction,
                "seed": seed,
                "seeds": seeds,
                "space": space,
                "overrides": [override for override in self._fixed if override.partition("=")[0] not in APART],
            }
        )
        self._study.set_user_attr("full_trials", settings.full_trials if settings.prune and seeds == 1 else None)
        if not self._study.get_trials(deepcopy=False):
            self._begin_with(default)

    def jobs(self) -> Iterator[tuple[int, list[str]]]:
        """Number and overrides of each run, chosen when the run is taken: interrupted trials first, then new ones."""
        interrupted = [trial for trial in self._study.get_trials() if trial.state.name == "RUNNING"]
        for trial in interrupted:
            yield from self._runs(trial)
        while trial := self._ask():
            yield from self._runs(trial)

    def batches(self) -> Iterator[tuple[int, list[list[str]]]]:
        """The runs of jobs in batches: (number of the first run, overrides of each run in the batch).

        A batch has as many trials as run at the same time.
        """
        first, batch = 0, []
        for num, overrides in self.jobs():
            if batch and num != first + len(batch):  # interrupted trials may have gaps between their numbers
                yield first, batch
                batch = []
            first = first if batch else num
            batch.append(overrides)
            if len(batch) == self._settings.parallel * len(self._seeds):
                yield first, batch
                batch = []
        if batch:
            yield first, batch

    def ended(self, num: int) -> None:
        """Report a run's result to the study; does nothing until the run's trial has ended.

        Raises InputError for a metric that the runs do not have.
        """
        from optuna.trial import TrialState

        trial = num // len(self._seeds)
        results = [read_result(self._sweep / str(run)) for run in self._runs_of(trial)]
        ends = {result.get("status") for result in results}
        if not ends <= {"finished", "pruned", "failed"}:
            return
        values = [self._value(result["evaluation"]) for result in results if result.get("evaluation")]
        if ends == {"finished"} and len(values) == len(results) and None not in values:
            self._study.tell(trial, statistics.fmean(values), skip_if_finished=True)
        else:
            self._study.tell(
                trial, state=TrialState.PRUNED if ends == {"pruned"} else TrialState.FAIL, skip_if_finished=True
            )

    def close(self) -> None:
        """Print what was found."""
        from optuna.trial import TrialState

        trials = [trial for trial in self._study.get_trials() if trial.state is not TrialState.WAITING]
        words = {
            TrialState.COMPLETE: "complete",
            TrialState.PRUNED: "given up",
            TrialState.FAIL: "failed",
            TrialState.RUNNING: "interrupted",
        }
        counts = {word: sum(trial.state is state for trial in trials) for state, word in words.items()}
        self._tell(
            f"\nSearch: {len(trials)} trials, {', '.join(f'{num} {word}' for word, num in counts.items() if num)}"
        )
        if counts["complete"]:
            best = self._study.best_trial
            self._tell(
                f"Best: {self._settings.metric} {best.value:.4g} in trial {best.number}, {' '.join(self._overrides(best))}"
            )

    def _claim(self, search: Mapping[str, Any]) -> None:
        """Record in the study what is searched, or compare with the record. Raises InputError if they differ."""
        now = json.loads(json.dumps(search))
        was = self._study.user_attrs.get(NAME)
        if was is None:
            self._study.set_user_attr(NAME, now)
        elif differing := [key for key in now if now[key] != was[key]]:
            told = "; ".join(
                f"{key} was {beyond(was[key], now[key])}, is {beyond(now[key], was[key])}" for key in differing
            )
            raise InputError(
                f"{self._sweep} holds another search: {told}. Give it as it was, or another hydra.sweep.dir"
            )

    def _begin_with(self, default: Mapping[str, Any]) -> None:
        """Make the values in the configuration the first trial, if the space has them."""
        import optuna

        values = {key: choice_of(self._space[key].get("choices", ()), value) for key, value in default.items()}
        try:
            optuna.trial.create_trial(params=values, distributions=self._distributions, value=0.0)  # checks the values
        except (ValueError, TypeError):
            self._tell(
                f"The configuration as it is ({' '.join(f'{key}={value}' for key, value in default.items())}) lies outside of the "
                "ranges, and is not tried."
            )
        else:
            self._study.enqueue_trial(
                {key: of.to_external_repr(of.to_internal_repr(values[key])) for key, of in self._distributions.items()}
            )

    def _ask(self) -> optuna.Trial | None:
        """A new trial, or None if there are enough.

        Its random numbers depend on the trial's number, so a continued search does not draw the same values again.
        """
        import optuna

        number = sum(trial.state.name != "WAITING" for trial in self._study.get_trials(deepcopy=False))
        budget, minutes = self._settings.num_trials, self._settings.minutes
        if (
            budget is not None
            and number >= budget
            or minutes is not None
            and time.monotonic() - self._began >= 60.0 * minutes
        ):
            return None
        draw = int(np.random.SeedSequence([self._seeds[0], number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(n_startup_trials=self._settings.random_trials, seed=draw)
        return self._study.ask(self._distributions)

    def _runs(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> Iterator[tuple[int, list[str]]]:
        for run, seed in zip(self._runs_of(trial.number), self._seeds):
            yield run, [*self._fixed, *self._overrides(trial), f"seed={seed}"]

    def _runs_of(self, trial: int) -> range:
        return range(trial * len(self._seeds), (trial + 1) * len(self._seeds))

    def _overrides(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> list[str]:
        return [f"{key}={trial.params[key]}" for key in self._space]

    def _value(self, evaluation: Mapping[str, Any]) -> float | None:
        """The metric's value, or None if it could not be measured."""
        metric = self._settings.metric
        if metric not in evaluation:
            raise InputError(f"hydra.sweeper.metric is {metric!r}: {nearest(metric, evaluation)}")
        value = evaluation[metric]
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def beyond(values: Any, others: Any) -> Any:
    """The elements of a list that others does not have, for a message about a difference.

    A list that differs only in its order, and any other value, is returned unchanged.
    """
    if not isinstance(values, list) or set(values) == set(others):
        return values
    return [value for value in values if value not in others]
