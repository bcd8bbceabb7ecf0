"""A configuration as one entry for each dotted key, as checkpoints, records and workers have it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from train.task.config import TrainConfig


def values_of(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON types, one entry for each dotted key."""
    return flattened(as_json(dataclasses.asdict(config)))


def config_of(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that values_of told. Raises ValueError for one that cannot be made any more."""
    return TrainConfig.from_dict(tree_of(values))


def tree_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested as a configuration's YAML is, what values_of has with dotted keys."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, name = key.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[name] = value
    return tree


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As a file of JSON gives it back: with lists for tuples."""
    return json.loads(json.dumps(values))


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One entry for each dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
