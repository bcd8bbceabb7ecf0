"""Measures which keys a sweep's results depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from train.sweeps.points import APART
from train.sweeps.study import load_study


def explained(rows: Sequence[Mapping[str, object]], keys: Sequence[str], metric: str) -> dict[str, float]:
    """For each key the share of the metric's variance over the runs that the key explains, the largest first.

    The share is the variance between the means of the key's values, divided by the whole variance: correlation ratio
    (Fisher, Statistical Methods for Research Workers, 1925, section 45). Empty if the metric does not vary. A key with
    a different value in every run would explain everything, and is left out.
    """
    rows = [row for row in rows if isinstance(row.get(metric), (int, float)) and math.isfinite(row[metric])]
    values = np.array([row[metric] for row in rows], float)
    total = float(np.square(values - values.mean()).sum()) if len(values) > 1 else 0.0
    if total == 0.0:
        return {}
    shares = {}
    for key in keys:
        groups = [
            np.array([row[metric] for row in rows if row[key] == value], float)
            for value in dict.fromkeys(row[key] for row in rows)
        ]
        if 1 < len(groups) < len(rows):
            shares[key] = float(sum(len(group) * (group.mean() - values.mean()) ** 2 for group in groups)) / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def of_search(folder: Path) -> tuple[dict[str, float], str]:
    """Optuna's importance of each key for the search in folder, and a description; the importances sum to 1.

    Both are empty without enough trials. PED-ANOVA (Watanabe, Bansal and Hutter, 2023) measures how much a key's values
    in the better trials differ from those in all trials. It is optuna's default since 5.0, and unlike fANOVA it does
    not need scikit-learn.
    """
    import optuna

    study = load_study(folder)
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if len(complete) < 4:
        return {}, ""
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    except (ValueError, RuntimeError):  # all trials are equally good
        return {}, ""
    return {
        key: float(value) for key, value in found.items() if key not in APART
    }, "PED-ANOVA, by Optuna, over the trials that ran to their end"
