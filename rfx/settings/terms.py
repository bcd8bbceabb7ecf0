"""Terms are plain functions that a config names. This file finds them and reports errors.

A config names one of rfx's terms by its name, and a user's own term as MODULE:FUNCTION.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.machinery
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

# MODULE:NAME. NAME may be a Gymnasium id, which can contain - and /.
FOREIGN = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d][\w./-]*)")


def available(module: ModuleType) -> dict[str, Callable]:
    """Public functions that the module itself defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def find(module: ModuleType, name: str) -> Callable:
    """The term called name in module, or the user's own term if name is MODULE:FUNCTION.

    Raises ValueError for an unknown term; the error names the nearest match.
    """
    if is_foreign(name):
        term = find_foreign(name)
        if not inspect.isfunction(term):
            raise ValueError(f"{name} is a {type(term).__name__}: a term must be a function")
        return term
    terms = available(module)
    if name not in terms:
        kind = module.__name__.rsplit(".", 1)[-1].replace("_", " ")
        raise ValueError(
            f"unknown term {name!r} among {kind}: {nearest(str(name), terms)}; one of your own is MODULE:FUNCTION"
        )
    return terms[name]


def term_of(module: ModuleType, name: str, parameters: Mapping[str, Any]) -> Callable:
    """The term that a config's entry means.

    The entry's key `term` names the term. Without that key, the term has the same name as the entry. So several entries
    can use one term with different parameters. Raises ValueError for an unknown term; the error names the nearest
    match.
    """
    return find(module, parameters.get("term", name))


def parameters_of(module: ModuleType, name: str) -> list[str]:
    """Names of the parameters of the term called name whose values are numbers or lists of numbers.

    Raises ValueError for an unknown term.
    """
    numbers = ("float", "int", "Sequence[float]")
    return [
        parameter.name
        for parameter in inspect.signature(find(module, name)).parameters.values()
        if parameter.annotation in numbers and parameter.name != "num"
    ]


def bind(module: ModuleType, name: str, parameters: Mapping[str, Any], num_inputs: int = 1) -> Callable:
    """Bind an entry's parameters to its term. The term's first num_inputs arguments stay open.

    name is the name of the entry. Raises ValueError for an unknown term, a term that takes fewer than num_inputs
    arguments, an unknown parameter, or a missing parameter.
    """
    term, parameters = (
        term_of(module, name, parameters),
        {key: value for key, value in parameters.items() if key != "term"},
    )
    signature = list(inspect.signature(term).parameters.values())
    if len(signature) < num_inputs:
        raise ValueError(f"term {name!r} takes {len(signature)} arguments: such a term must take {num_inputs}")
    accepted = signature[num_inputs:]
    names = [parameter.name for parameter in accepted]
    for given in parameters:
        if given not in names:
            raise ValueError(f"term {name!r} has no parameter {given!r}: {nearest(given, names)}")
    missing = [p.name for p in accepted if p.default is inspect.Parameter.empty and p.name not in parameters]
    if missing:
        raise ValueError(f"term {name!r} needs a value for {', '.join(missing)}")
    return functools.partial(term, **parameters) if parameters else term


def is_foreign(name: Any) -> bool:
    """Whether name has the form MODULE:NAME, which names something in a user's module."""
    return isinstance(name, str) and FOREIGN.fullmatch(name) is not None


def find_foreign(name: str) -> Any:
    """Import the object that MODULE:NAME names.

    Raises ValueError that names the nearest match, or says what error the module itself raises.
    """
    if not is_foreign(name):
        raise ValueError(f"got {name!r}; expected MODULE:NAME, such as my_module:my_name")
    path, attribute = FOREIGN.fullmatch(name).groups()
    module = import_foreign(path, name)
    if attribute not in vars(module):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        file = getattr(module, "__file__", None)
        raise ValueError(f"{name}: {module.__name__} ({file}) has no {attribute!r}: {nearest(attribute, own)}")
    return vars(module)[attribute]


def import_foreign(path: str, name: str) -> ModuleType:
    """Import the user's module at this dotted path. name is the setting that asks for it.

    Modules of Python itself are refused: a policy from elsewhere may name terms, but must not be able to call any
    function of Python. Raises ValueError with a one-line message, also for an error that the module raises during
    import.
    """
    if path.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"{name}: {path} is a module of Python itself; expected one of yours")
    importlib.invalidate_caches()  # Python's cached listing of the folder may be older than the file
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not error.name or not f"{path}.".startswith(f"{error.name}."):
            raise ValueError(f"{name}: {path} imports {error.name}, which is not there") from error
        parent, _, last = error.name.rpartition(".")
        where = getattr(sys.modules.get(parent), "__path__", []) if parent else None
        found = [module.name for module in pkgutil.iter_modules(where)]
        close = difflib.get_close_matches(last, found, n=1)
        hint = "put it into the working directory, or on PYTHONPATH"
        if close:
            hint = f"did you mean {'.'.join(filter(None, (parent, close[0])))!r}?"
        raise ValueError(f"{name}: there is no module {error.name!r}: {hint}") from error
    except Exception as error:  # a user's module may raise anything
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{name}: {path} cannot be imported: {said}") from error


def top_module(name: str) -> str:
    """The module or package at the top of MODULE:NAME."""
    return name.partition(":")[0].partition(".")[0]


def search_working_directory() -> None:
    """Add the working directory to the end of Python's path, so that no folder there shadows a module of rfx."""
    try:
        here = os.getcwd()
    except FileNotFoundError:  # the working directory was removed
        return
    if not {"", here} & {*sys.path}:
        sys.path.append(here)


def foreign_names(values: Any) -> Iterator[str]:
    """Every MODULE:NAME in a tree of mappings and lists, keys included."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from foreign_names(key)
            yield from foreign_names(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from foreign_names(value)
    elif is_foreign(values):
        yield values


def places_of(module_name: str) -> list[Path]:
    """Files and folders that an import of a module and its parent packages would read. Imports nothing."""
    places: list[Path] = []
    search: list[str] | None = [*sys.path, os.getcwd()]
    for count, _ in enumerate(parts := module_name.split("."), 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:count]), search)
        if spec is None:
            break
        search = list(spec.submodule_search_locations or [])
        places += [Path(place) for place in [*search, *([spec.origin] if spec.has_location and spec.origin else [])]]
    return places


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint for an error message: the nearest of names, or all of them."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"possible are {', '.join(names) or 'none'}"
