"""Text for a terminal: what came from elsewhere made safe to print, and lines that fit its width."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

SEPARATOR, CUT = " | ", "..."


def printable(value: Any) -> str:
    """value as one line of text that a terminal shows and does not obey: what is not printable is written as Python
    would, ESC as \\x1b.

    That takes in line ends, and the marks that turn the direction of writing around.
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(value))


def fit(parts: Sequence[str], width: int | None = None) -> str:
    """As many of the parts, the first first, as fit into one line of a terminal; of the first part alone as much as
    fits.

    width: columns of the line, by default those of the terminal. The last stays free: a line that fills it would begin
    another.
    """
    room = (width or shutil.get_terminal_size().columns) - 1
    line = parts[0]
    for part in parts[1:]:
        if len(line) + len(SEPARATOR) + len(part) <= room:
            line += SEPARATOR + part
    return line if len(line) <= room else line[: max(0, room - len(CUT))] + CUT[:room]


def folded(line: str, width: int | None = None) -> str:
    """A line as several, broken between words, where it is longer than a terminal is wide; width as for fit."""
    return textwrap.fill(line, (width or shutil.get_terminal_size().columns) - 1, break_on_hyphens=False) or line
