"""PPO: rollout, GAE, losses, update, trainer loop, checkpoints, metrics, evaluation, benchmark.

From Python: `from train import train`, see docs/loop.md. Names load on first use, so that `import train` stays quick.
"""

import importlib
import os
from pathlib import Path

# OpenBLAS threads keep spinning after a matrix product, on the cores that mujoco.batch needs. An evaluation of 256
# robots takes 35 s with two OpenBLAS threads and 10 s with one. NumPy reads this variable when it is first imported.
# Matrix products that gain from threads run in rfx.nn.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Device of tinygrad. Without this setting tinygrad tries one GPU driver after the other (0.3 s) and takes a GPU if it
# finds one. The CPU is faster for networks as small as a policy. tinygrad reads this variable when it is first
# imported.
os.environ.setdefault("DEV", "CPU")

# `python -m train.evaluate` runs train/commands/evaluate.py. This keeps the old module names working.
__path__.append(str(Path(__file__).with_name("commands")))
_MODULE_OF = {
    "train": "train.commands.from_python",
    "TrainedRun": "train.commands.from_python",
    "Callback": "train.runs.callbacks",
    "Logger": "train.runs.loggers",
    "InputError": "train.task.errors",
    "TrainingBroken": "train.ppo.errors",
}
__all__ = [*_MODULE_OF]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    except ModuleNotFoundError as error:
        from rfx.system.extras import mend

        if (sentence := mend(error, f"train.{name}")) is None:
            raise
        raise ModuleNotFoundError(sentence, name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
