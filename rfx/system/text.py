"""Text for a terminal: makes foreign text safe to print, and fits lines to the terminal's width."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

SEPARATOR, CUT = " | ", "..."


def printable(value: Any) -> str:
    """Convert value to one line of text that a terminal only shows and does not obey.

    Characters that are not printable are escaped as in Python: ESC becomes \\x1b. This includes line ends, and the
    marks that change the direction of writing.
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(value))


def fit(parts: Sequence[str], width: int | None = None) -> str:
    """Join the parts that fit into one line of a terminal, in order. The first part is cut if it alone is too long.

    width: columns of the line, by default those of the terminal. The last column stays free, because a line that fills
    it would begin another line.
    """
    room = (width or shutil.get_terminal_size().columns) - 1
    line = parts[0]
    for part in parts[1:]:
        if len(line) + len(SEPARATOR) + len(part) <= room:
            line += SEPARATOR + part
    return line if len(line) <= room else line[: max(0, room - len(CUT))] + CUT[:room]


def folded(line: str, width: int | None = None) -> str:
    """Break a line between words if it is longer than the terminal is wide; width as for `fit`."""
    return textwrap.fill(line, (width or shutil.get_terminal_size().columns) - 1, break_on_hyphens=False) or line
