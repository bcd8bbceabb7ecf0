"""A configuration as a flat mapping of dotted keys, the form for checkpoints, records and workers."""

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
    """The configuration that values_of flattened. Raises ValueError for one that this version does not accept."""
    return TrainConfig.from_dict(tree_of(values))


def tree_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nest the dotted keys of values_of, as in a configuration's YAML."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, name = key.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[name] = value
    return tree


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as a JSON file returns them: tuples become lists."""
    return json.loads(json.dumps(values))


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one entry for each dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
