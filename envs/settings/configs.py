"""The YAML files in configs/, laid over each other as Hydra does it on the command line, for those who use them from
Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfx.settings.reader import read_yaml
from rfx.settings.terms import nearest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def compose(group: str, name: str) -> dict[str, Any]:
    """What configs/{group}/{name}.yaml says, with the files that its defaults list names: later entries of the list lie
    over earlier ones.

    An entry is the name of a file beside it, {/GROUP: NAME}, or _self_, where the file's own values lie; without _self_
    they lie on top.
    Raises ValueError for a name that no file has, or a file that says a key twice.
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
    """The file of configs/gym/ for a Gymnasium environment's id, such as rfx/HalfCheetah-v5."""
    name = re.sub(r"-v\d+$", "", id.rpartition(":")[2].rpartition("/")[2])
    families = read_yaml(CONFIGS / "gym_families.yaml")
    return next((family for family, names in families.items() if name in names), "other")


def options(group: str) -> list[str]:
    """Names of the files in configs/{group}."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of mappings over another: what stands in both is taken from above, mappings key by key."""
    shared = [key for key, value in above.items() if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)]
    return {**below, **above, **{key: merged(below[key], above[key]) for key in shared}}
