"""Finds what has changed in the state of environments since it was last sent.

Most of the state, such as the randomization of each robot, stays the same during an episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rfx.robot.state import Array

Changes = Mapping[str, tuple[Array | None, Any]]  # by name: rows (n,) and their values; or None and the whole value


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Rows of after whose bits differ from those of before, by name, for arrays (N, ...).

    Lists, and entries that before does not have, are returned whole.
    """
    found = {}
    for name, values in after.items():
        if name in before and isinstance(values, np.ndarray):
            rows = np.flatnonzero((_bits(before[name]) != _bits(values)).any(axis=1))
            found[name] = rows, values[rows]
        else:
            found[name] = None, values
    return found


def merged(before: Mapping[str, Any], changed: Changes) -> dict[str, Any]:
    """The state before with the changes applied; before itself is not changed."""
    after = {}
    for name, (rows, values) in changed.items():
        # Copies, so that no memory of the object store stays in use.
        after[name] = values.copy() if rows is None else before[name]
        if rows is not None and len(rows):
            after[name] = before[name].copy()
            after[name][rows] = values
    return after


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(len(array), -1).view(f"u{array.itemsize}")
