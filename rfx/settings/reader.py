"""The one reader of configurations: plain values, as YAML and JSON hold them, into dataclasses. msgspec converts; what
is wrong is said here.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rfx.settings.terms import nearest

T = TypeVar("T")
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
UNIONS, MAPPINGS, LISTS = (typing.Union, types.UnionType), (Mapping, dict), (tuple, list, Sequence)


def read(cls: type[T], values: Any, key: str = "") -> T:
    """The dataclass cls from plain values, nested ones too; key is where they stand.

    Whole floats pass as integers, integers as floats.

    Raises ValueError that names the key, the value and what is expected, for an unknown key the nearest; and what cls
    itself finds wrong.
    """
    _refuse_unknown(cls, values, key)
    try:
        return msgspec.convert(_with_whole_numbers(values), cls)
    except msgspec.ValidationError as error:
        raise ValueError(_explained(str(error), cls, values, key)) from None


def read_value(hint: Any, value: Any, key: str) -> Any:
    """One value as the type that hint describes. Raises ValueError as read does."""
    try:
        return msgspec.convert(_with_whole_numbers(value), hint)
    except msgspec.ValidationError as error:
        raise ValueError(_explained(str(error), hint, value, key)) from None


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says, as plain values.

    Raises OSError for a file that cannot be read, ValueError that names the file for one that is not YAML, or says a
    key twice.
    """
    import yaml

    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _loader())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    except KeyTwice as error:
        raise ValueError(f"{path}: {error}") from None


class KeyTwice(Exception):
    """A mapping of a YAML file has a key twice, of which YAML's readers take the last."""


@functools.cache
def _loader() -> type:
    """PyYAML's safe loader, which raises KeyTwice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node, lines = super().compose_mapping_node(anchor), dict[Any, int]()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    line, name = key.start_mark.line + 1, (key.tag, key.value)
                    if name in lines:
                        raise KeyTwice(
                            f"the key {key.value!r} stands twice, in lines {lines[name]} and {line}: leave one of them"
                        )
                    lines[name] = line
            return node

    return Loader


def join(key: str, name: Any) -> str:
    """A dotted key."""
    return f"{key}.{name}" if key else str(name)


def _refuse_unknown(hint: Any, values: Any, key: str) -> None:
    """Raise ValueError for a key that is no field, here or in what is nested: msgspec passes over it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in UNIONS:
        for option in inner:
            _refuse_unknown(option, values, key)
    elif origin in MAPPINGS and isinstance(values, Mapping):
        for name, value in values.items():
            _refuse_unknown(inner[1], value, join(key, name))
    elif origin in LISTS and isinstance(values, (list, tuple)):
        for index, entry in enumerate(values):
            _refuse_unknown(inner[0], entry, f"{key}[{index}]")
    elif dataclasses.is_dataclass(hint) and isinstance(values, Mapping):
        hints = typing.get_type_hints(hint)
        for name, value in values.items():
            if name not in hints:
                raise ValueError(f"unknown key {join(key, name)!r}: {nearest(str(name), hints)}")
            _refuse_unknown(hints[name], value, join(key, name))


def _with_whole_numbers(values: Any) -> Any:
    """The values with floats that are whole numbers as integers: 1e6 is a number of steps too."""
    if isinstance(values, Mapping):
        return {name: _with_whole_numbers(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(_with_whole_numbers(value) for value in values)
    return int(values) if isinstance(values, float) and values.is_integer() else values


def _explained(message: str, hint: Any, values: Any, key: str) -> str:
    """What msgspec says, with the key as it is written, the value, and what is expected in plain words."""
    message, _, path = message.partition(" - at `$")
    for name, index, entry in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])", path.rstrip("`")):
        if entry:  # some entry of a mapping: msgspec does not say which
            hint = _inner(hint)
            name = next((name for name, value in values.items() if not _fits(hint, value)), "")
            key, values = join(key, name), values.get(name)
        elif index:
            key, hint, values = f"{key}[{index}]", _inner(hint), values[int(index)]
        else:
            key, hint, values = join(key, name), typing.get_type_hints(_without_none(hint)).get(name), values.get(name)
    if missing := re.fullmatch(r"Object missing required field `(.*)`", message):
        return f"{join(key, missing[1])} is missing"
    if message.startswith("Expected `"):
        return f"{key or 'the configuration'} is {values!r}: it must be {_described(_without_none(hint))}"
    if message == "Number out of range":
        return f"{key} is {reprlib.repr(values)}: it must be a finite number"
    return message


def _fits(hint: Any, value: Any) -> bool:
    try:
        msgspec.convert(_with_whole_numbers(value), hint)
    except msgspec.ValidationError:
        return False
    return True


def _without_none(hint: Any) -> Any:
    """What hint asks for where it may be None too."""
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    return options[0] if typing.get_origin(hint) in UNIONS else hint


def _inner(hint: Any) -> Any:
    """The type of a list's or a mapping's entries."""
    hint = _without_none(hint)
    return typing.get_args(hint)[1 if typing.get_origin(hint) in MAPPINGS else 0]


def _described(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in LISTS:
        element = {int: "whole numbers", float: "numbers"}.get(arguments[0], "values")
        return (
            f"a list of {len(arguments)} {element}"
            if origin is tuple and arguments[-1] is not Ellipsis
            else f"a list of {element}"
        )
    return PLAIN.get(hint, "a group of keys")
