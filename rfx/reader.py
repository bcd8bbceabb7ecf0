"""The one reader of configurations: plain values, as YAML and JSON hold them, into dataclasses. msgspec converts; what is wrong is said here."""

from __future__ import annotations

import dataclasses
import re
import reprlib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rfx.terms import nearest

T = TypeVar("T")
EXPECTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "array": "a list", "object": "a group of keys"}


def read(cls: type[T], values: Any, key: str = "") -> T:
    """The dataclass cls from plain values, nested ones too; key is where they stand. Whole floats pass as integers, integers as floats.

    Raises ValueError that names the key, the value and what is expected, for an unknown key the nearest; and what cls itself finds wrong.
    """
    _refuse_unknown(cls, values, key)
    try:
        return msgspec.convert(_with_whole_numbers(values), cls)
    except msgspec.ValidationError as error:
        raise ValueError(_explained(str(error), values, key)) from None


def read_value(hint: Any, value: Any, key: str) -> Any:
    """One value as the type that hint describes. Raises ValueError as read does."""
    try:
        return msgspec.convert(_with_whole_numbers(value), hint)
    except msgspec.ValidationError as error:
        raise ValueError(_explained(str(error), value, key)) from None


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says, as plain values. Raises OSError for a file that cannot be read, ValueError for one that is not YAML."""
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a YAML file: {error}") from error


def join(key: str, name: Any) -> str:
    """A dotted key."""
    return f"{key}.{name}" if key else str(name)


def _refuse_unknown(hint: Any, values: Any, key: str) -> None:
    """Raise ValueError for a key that is no field, here or in what is nested: msgspec passes over it."""
    if not dataclasses.is_dataclass(hint):
        for inner in typing.get_args(hint):
            if isinstance(values, Mapping) and dataclasses.is_dataclass(inner):
                _refuse_unknown(inner, values, key)
            elif isinstance(values, Sequence) and not isinstance(values, str) and inner is not Ellipsis:
                for index, entry in enumerate(values):
                    _refuse_unknown(inner, entry, f"{key}[{index}]")
        return
    if not isinstance(values, Mapping):
        return
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
        return [_with_whole_numbers(value) for value in values]
    return int(values) if isinstance(values, float) and values.is_integer() else values


def _explained(message: str, values: Any, key: str) -> str:
    """What msgspec says, with the key as it is written, the value, and what is expected in plain words."""
    message, _, path = message.partition(" - at `$")
    steps = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path.rstrip("`"))
    for name, index in steps:
        key = f"{key}[{index}]" if index else join(key, name)
        values = _inside(values, int(index) if index else name)
    if missing := re.fullmatch(r"Object missing required field `(.*)`", message):
        return f"{join(key, missing[1])} is missing"
    if expected := re.match(r"Expected `(.*)`( of length \d+)?, got", message):
        options = [EXPECTED.get(option, option) for option in expected[1].split(" | ") if option != "null"]
        got = f" is {values!r}" if "[...]" not in path else " has a wrong entry"
        return f"{key or 'the configuration'}{got}: it must be {' or '.join(options)}{expected[2] or ''}"
    if message == "Number out of range":
        return f"{key} is {reprlib.repr(values)}: it must be a finite number"
    return message


def _inside(values: Any, name: Any) -> Any:
    try:
        return values[name]
    except (KeyError, IndexError, TypeError):
        return None
