"""Composes the YAML files in configs/ for Python code, in the way that Hydra composes them on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfx.settings.reader import read_yaml
from rfx.settings.terms import nearest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def compose(group: str, name: str) -> dict[str, Any]:
    """Compose configs/{group}/{name}.yaml with the files in its defaults list; later entries override earlier ones.

    An entry is the name of a file beside it, {/GROUP: NAME}, or _self_. _self_ is the place of the file's own values;
    without it they override all entries.
    Raises ValueError for an unknown name, or a file with the same key twice.
    """
    path = CONFIGS / group / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"unknown {group} {name!r}: {nearest(name, options(group))}")
    own = read_yaml(path) or {}
    entries, values = own.pop("defaults", []), dict[str, Any]()
    for entry in entries if "_self_" in entries else [*entries, "_self_"]:
        if entry == "_self_":
            layer = own
        elif isinstance(entry, str):
            layer = compose(group, entry)
        else:
            ((other, chosen),) = entry.items()
            layer = compose(other.removeprefix("/"), chosen)
        values = merged(values, layer)
    return values


def gym_family(id: str) -> str:
    """The name of the file in configs/gym/ for a Gymnasium environment's id, such as rfx/HalfCheetah-v5."""
    name = re.sub(r"-v\d+$", "", id.rpartition(":")[2].rpartition("/")[2])
    families = read_yaml(CONFIGS / "gym_families.yaml")
    return next((family for family, names in families.items() if name in names), "other")


def options(group: str) -> list[str]:
    """Names of the files in configs/{group}."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees of mappings, key by key; where both have a value, the value in above wins."""
    shared = [key for key, value in above.items() if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)]
    return {**below, **above, **{key: merged(below[key], above[key]) for key in shared}}
