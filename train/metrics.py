"""Metrics as TensorBoard scalars, under the tags that the code and the configs use."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


class MetricsWriter:
    """Writes scalars into a folder: `tensorboard --logdir runs` shows them. Use as a context manager."""

    def __init__(self, folder: Path):
        self._writer = _summary_writer()(str(folder), flush_secs=10)

    def write(self, metrics: Mapping[str, float], steps: int) -> None:
        """Write the metrics of one iteration; steps is the number of environment steps so far."""
        for tag, value in metrics.items():
            self._writer.add_scalar(tag, value, steps)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def _summary_writer() -> type:
    """tensorboardX's SummaryWriter, imported without torch: where torch is installed that import alone takes 1.5 s, and is not used."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # an import of torch now raises ImportError, which tensorboardX expects
    try:
        from tensorboardX import SummaryWriter
    finally:
        if absent:
            del sys.modules["torch"]
    return SummaryWriter
