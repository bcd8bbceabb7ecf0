"""Text that came from elsewhere, made safe to print."""

from __future__ import annotations

from typing import Any


def printable(value: Any) -> str:
    """value as one line of text that a terminal shows and does not obey: what is not printable is written as Python
    would, ESC as \\x1b.

    That takes in line ends, and the marks that turn the direction of writing around.
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(value))
