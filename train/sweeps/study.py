"""The study of a search: its file, the distributions of its keys, and the pruner that gives up on runs.

Optuna is an extra and slow to import, so it is imported on use.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rfx.system.extras import install_command
from train.runs.callbacks import Callback
from train.sweeps.points import APART
from train.task.errors import InputError, bad_input, one_line
from train.task.task import Judgement

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"  # file in the sweep's folder
NAME = "search"  # name of the study in the file, and of the attribute that describes the search

pruners_afar: dict[Path, Callback] = {}  # by folder, for runs in this process whose study is on another machine


def load_study(sweep: Path) -> optuna.Study:
    """The study of the search in a sweep's folder. Raises InputError if it cannot be read."""
    with bad_study(sweep):
        import optuna

        return optuna.load_study(study_name=NAME, storage=storage_of(sweep))


def create_study(sweep: Path, direction: str) -> optuna.Study:
    """The study of the search in a sweep's folder; makes a new one if there is none."""
    with bad_study(sweep):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(study_name=NAME, storage=storage_of(sweep), direction=direction, load_if_exists=True)


def storage_of(sweep: Path) -> optuna.storages.RDBStorage:
    """The storage of a sweep's study."""
    from optuna.storages import RDBStorage

    return RDBStorage(f"sqlite:///{(sweep / STUDY).resolve()}")


@contextmanager
def bad_study(sweep: Path) -> Iterator[None]:
    """Context in which errors while the study is opened become an InputError."""
    if importlib.util.find_spec("optuna") is None:
        raise InputError(f"a search needs optuna: {install_command('search')}")
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, KeyError, RuntimeError) as error:
        raise InputError(
            f"cannot use {sweep / STUDY} as a search's study: {one_line(getattr(error, 'orig', None) or error)}"
        ) from error


def distribution(key: str, values: Mapping[str, Any]) -> optuna.distributions.BaseDistribution:
    """The distribution of a key's values. Raises InputError for values that cannot be searched."""
    if key.lstrip("+") in APART:
        raise InputError(
            f"{key} cannot be searched, a good one would be luck: give seeds=N for trials of several seeds"
        )
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "choices" in values:
        return CategoricalDistribution(values["choices"])
    low, high, step, log = (values[name] for name in ("low", "high", "step", "log"))
    with bad_input(f"cannot search {key} in {low} to {high}: "):
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log, step=1 if log or step is None else step)
        return FloatDistribution(low, high, log=log, step=None if log else step)


def choice_of(choices: Sequence[str], value: Any) -> Any:
    """The choice that stands for a value, or the value itself if there is none."""

    def read(text: str) -> Any:
        try:
            return float(text)  # also 1e-3, which YAML reads as a string
        except ValueError:
            return yaml.safe_load(text)

    return next((text for text in choices if text == value or read(text) == value), value)


class Pruner(Callback):
    """Gives up on a trial whose evaluations are worse than the median of the complete trials before it.

    metric is a key of Judgement.to_dict.
    """

    gives_up = True

    def __init__(
        self, study: optuna.Study, storage: optuna.storages.RDBStorage, trial: int, metric: str, full_trials: int
    ):
        import optuna

        self._study, self._storage, self._trial, self._metric = study, storage, trial, metric
        self._pruner = optuna.pruners.MedianPruner(n_startup_trials=full_trials)

    def on_evaluation(self, steps: int, judgement: Judgement) -> bool:
        """Write the metric into the study, and return whether to give up on the trial."""
        value = judgement.to_dict().get(self._metric)
        if value is None:
            return False
        self._storage.set_trial_intermediate_value(self._trial, steps, float(value))
        return bool(self._pruner.prune(self._study, self._storage.get_trial(self._trial)))


def pruner_of(folder: Path) -> Callback | None:
    """The pruner of the run in folder, if the run belongs to a search that prunes and is running; else None."""
    if folder in pruners_afar:
        return pruners_afar[folder]
    sweep = folder.parent
    if not folder.name.isdecimal() or not (sweep / STUDY).is_file():
        return None
    study, number = load_study(sweep), int(folder.name)
    full_trials, metric = study.user_attrs["full_trials"], study.user_attrs[NAME]["metric"]
    trials = study.get_trials(deepcopy=False)
    if full_trials is None or number >= len(trials) or trials[number].state.name != "RUNNING":
        return None
    storage = storage_of(sweep)
    trial = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(NAME), number)
    return Pruner(study, storage, trial, metric, full_trials)
