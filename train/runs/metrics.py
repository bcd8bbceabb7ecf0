"""A run's metrics as a table: metrics.csv in its folder. Reports read it, and a continued run appends to it."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rfx.system.folders import replace_file

METRICS = "metrics.csv"
FIRST_COLUMNS = ("steps", "time")  # environment steps, seconds since the Epoch; one column per tag follows


class MetricsTable:
    """Appends rows to metrics.csv in folder. A new tag adds a column at the end; earlier rows stay shorter.

    num_rows is the number of rows at the checkpoint that a run goes on from; later rows are removed. Raises OSError.
    """

    def __init__(self, folder: Path, num_rows: int = 0):
        self._path = folder / METRICS
        columns, rows = _read(self._path)
        self.num_rows = min(len(rows), num_rows)
        self._rewrite(columns or [*FIRST_COLUMNS], rows[:num_rows])

    def log(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Add a row: metrics by tag, after that many environment steps. Raises OSError; the row may then be missing."""
        if not self._path.exists():  # removed during the run
            self._rewrite(self._columns, [])
        if new := [tag for tag in metrics if tag not in self._columns]:
            self._rewrite([*self._columns, *new], _read(self._path)[1])
        values = {"steps": steps, "time": time.time(), **metrics}
        row = _line([values.get(column, "") for column in self._columns])
        with open(self._path, "r+b") as file:
            file.truncate(self._size)  # removes a row that a full disk cut short
            file.seek(self._size)
            file.write(row)
        self._size += len(row)
        self.num_rows += 1

    def close(self) -> None:
        """Does nothing: no file stays open."""

    def _rewrite(self, columns: list[str], rows: list[list[str]]) -> None:
        data = b"".join(map(_line, (columns, *rows)))
        replace_file(self._path, data)
        self._columns, self._size = columns, len(data)


def read_metrics(folder: Path, tag: str) -> np.ndarray:
    """Steps and values (n, 2) of one tag in a run's metrics, in the order of steps; n is 0 if there are none."""
    return read_curves(folder).get(tag, np.zeros((0, 3)))[:, (0, 2)]


def read_curves(folder: Path) -> dict[str, np.ndarray]:
    """Steps, seconds since the Epoch and values (n, 3) of every tag in a run's metrics, in the order of steps."""
    columns, rows = _read(folder / METRICS)
    points: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        steps, seconds, *values = row
        for tag, value in zip(columns[len(FIRST_COLUMNS) :], values):
            if value:
                points.setdefault(tag, []).append((float(steps), float(seconds), float(value)))
    return {tag: np.array(sorted(values), float) for tag, values in points.items()}


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table; both empty if there is no file. A last row that was cut short is left out."""
    if not path.exists():
        return [], []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    columns, *rows = csv.reader(io.StringIO(whole)) if whole else [[]]
    return columns, rows


def _line(values: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()
