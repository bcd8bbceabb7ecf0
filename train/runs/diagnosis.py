"""Detects updates from which the policy cannot learn: ends the run, explains why, and saves the batch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from rfx.system.folders import replace_folder
from train.ppo.errors import TrainingBroken
from train.runs.trainer import Trainer

MAX_SKIPPING = 3  # number of successive updates that had to skip minibatches
BATCH = "offending_batch"


def check_updates(trainer: Trainer, metrics: Mapping[str, float], folder: Path) -> None:
    """Raises TrainingBroken after MAX_SKIPPING successive updates with a non-finite loss or gradient.

    It saves the last batch in folder. Minibatches with such values are skipped, so the weights are still sound, and a
    single such update may be chance.
    """
    if trainer.skipping < MAX_SKIPPING:
        return
    rollout = trainer.rollout
    arrays = {f.name: getattr(rollout, f.name) for f in dataclasses.fields(rollout)}
    largest = {
        name: float(np.abs(arrays[name]).max()) for name in ("reward", "returns", "value", "observation", "log_prob")
    }
    terms = {name: value for name, value in metrics.items() if name.startswith("reward/")}
    term = max(terms, key=lambda name: abs(terms[name]), default="no reward")
    try:
        replace_folder(
            folder / BATCH,
            {
                "rollout.safetensors": safetensors.numpy.save(arrays),
                "learner.safetensors": safetensors.numpy.save(trainer.learner.state_dict()),
                "metrics.json": json.dumps(dict(metrics), indent=2).encode(),
            },
        )
        where = f"the last batch and the weights it met are in {folder / BATCH}"
    except OSError as error:
        where = f"the last batch could not be written ({error.strerror})"
    raise TrainingBroken(
        f"loss or gradient was not finite in {metrics['ppo/skipped_minibatches']:.0f} minibatches of this update and in some of each of the "
        f"{MAX_SKIPPING - 1} before; learning rate {metrics['ppo/learning_rate']:.2g}; largest magnitudes: "
        f"{', '.join(f'{name} {value:.3g}' for name, value in largest.items())}; largest reward term: {term} {terms.get(term, 0.0):.3g} per "
        f"second. {where}; checkpoints are from before it began"
    )
