"""Reads configurations: plain values, as YAML and JSON hold them, into dataclasses.

msgspec converts the values; this module writes the error messages.
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
    """Make the dataclass cls from plain values, with nested dataclasses too. key is the dotted key of values.

    Floats that are whole numbers are accepted as integers, and integers as floats.

    Raises ValueError that names the key, the value and the expected type. For an unknown key, the error names the
    nearest key. Errors that cls itself raises are reported too.
    """
    _refuse_unknown(cls, values, key)
    try:
        return msgspec.convert(_with_whole_numbers(values), cls)
    except msgspec.ValidationError as error:
        raise ValueError(_explained(str(error), cls, values, key)) from None


def read_value(hint: Any, value: Any, key: str) -> Any:
    """Convert one value to the type that hint describes. Raises ValueError as read does."""
    try:
        return msgspec.convert(_with_whole_numbers(value), hint)
    except msgspec.ValidationError as error:
        raise ValueError(_explained(str(error), hint, value, key)) from None


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file as plain values.

    Raises OSError for a file that cannot be read. Raises ValueError that names the file if it is not YAML, or if it has
    the same key twice.
    """
    import yaml

    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _loader())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    except KeyTwice as error:
        raise ValueError(f"{path}: {error}") from None


class KeyTwice(Exception):
    """A mapping in a YAML file has the same key twice. Other YAML readers silently take the last one."""


@functools.cache
def _loader() -> type:
    """PyYAML's safe loader, extended to raise KeyTwice."""
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
    """Join key and name to a dotted key."""
    return f"{key}.{name}" if key else str(name)


def _refuse_unknown(hint: Any, values: Any, key: str) -> None:
    """Raise ValueError for a key that is not a field, also in nested values. msgspec ignores such keys."""
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
    """Convert floats that are whole numbers to integers, so that 1e6 can be a number of steps."""
    if isinstance(values, Mapping):
        return {name: _with_whole_numbers(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(_with_whole_numbers(value) for value in values)
    return int(values) if isinstance(values, float) and values.is_integer() else values


def _explained(message: str, hint: Any, values: Any, key: str) -> str:
    """Rewrite msgspec's message in plain words, with the key as the user wrote it, the value and the expected type."""
    message, _, path = message.partition(" - at `$")
    for name, index, entry in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])", path.rstrip("`")):
        if entry:  # msgspec does not say which entry of a mapping is wrong, so look for it
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
    """The type that hint allows besides None."""
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    return options[0] if typing.get_origin(hint) in UNIONS else hint


def _inner(hint: Any) -> Any:
    """The type of the entries of a list or mapping."""
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
