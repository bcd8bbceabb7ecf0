"""Terms are plain functions that a module defines and a config names; this file finds them and says what is wrong."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any


def available(module: ModuleType) -> dict[str, Callable]:
    """Public functions that the module itself defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def find(module: ModuleType, name: str) -> Callable:
    """The term called name. Raises ValueError that names the nearest match."""
    terms = available(module)
    if name not in terms:
        kind = module.__name__.rsplit(".", 1)[-1].replace("_", " ")
        raise ValueError(f"unknown term {name!r} among {kind}: {nearest(str(name), terms)}")
    return terms[name]


def term_of(module: ModuleType, name: str, parameters: Mapping[str, Any]) -> Callable:
    """The term that a config's entry means: the one that its key `term` names, or without that key the one called as
    the entry itself.

    So one term can stand under several names, with other parameters each. Raises ValueError that names the nearest
    match.
    """
    return find(module, parameters.get("term", name))


def bind(module: ModuleType, name: str, parameters: Mapping[str, Any], num_inputs: int = 1) -> Callable:
    """The term of the entry called name with its keyword parameters fixed; its first num_inputs arguments stay open.

    Raises ValueError for an unknown term, an unknown parameter, or a missing one.
    """
    term, parameters = (
        term_of(module, name, parameters),
        {key: value for key, value in parameters.items() if key != "term"},
    )
    accepted = list(inspect.signature(term).parameters.values())[num_inputs:]
    names = [parameter.name for parameter in accepted]
    for given in parameters:
        if given not in names:
            raise ValueError(f"term {name!r} has no parameter {given!r}: {nearest(given, names)}")
    missing = [p.name for p in accepted if p.default is inspect.Parameter.empty and p.name not in parameters]
    if missing:
        raise ValueError(f"term {name!r} needs a value for {', '.join(missing)}")
    return functools.partial(term, **parameters) if parameters else term


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for an error message: the nearest of names, or all of them."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"possible are {', '.join(names) or 'none'}"
