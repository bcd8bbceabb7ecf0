"""Packages that rfx can do without: imported where they are used, asked for by the name of their extra."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtra(ImportError):
    """A package of an extra that is not installed; the message says how to install it."""


def import_extra(module: str, extra: str) -> Any:
    """The module. Raises MissingExtra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"this needs {module}, which is not installed: pip install -e '.[{extra}]'") from error
