"""Velocity commands from the terminal's keyboard."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import Any

STEP = 0.1  # m/s and rad/s per key press
KEYS = {"w": (0, STEP), "s": (0, -STEP), "a": (1, STEP), "d": (1, -STEP), "q": (2, STEP), "e": (2, -STEP)}
HELP = "keys: w/s forward and back, a/d left and right, q/e turn, space stands still, Ctrl-C ends"


class Keyboard:
    """Reads single key presses while it is entered; the terminal is put back on the way out. Raises OSError when input is no terminal."""

    def __init__(self, descriptor: int | None = None):
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._velocity = [0.0, 0.0, 0.0]

    def __enter__(self) -> Keyboard:
        if not os.isatty(self._descriptor):
            raise OSError("the keyboard needs a terminal as standard input")
        self._settings = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(self, *exception: Any) -> None:
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._settings)

    def read(self) -> tuple[float, float, float]:
        """vx, vy (m/s) and yaw rate (rad/s) after the keys pressed since the last call. Never waits."""
        while select.select([self._descriptor], [], [], 0.0)[0]:
            for key in os.read(self._descriptor, 64).decode(errors="ignore"):
                if key in KEYS:
                    axis, step = KEYS[key]
                    self._velocity[axis] = round(self._velocity[axis] + step, 3)
                elif key == " ":
                    self._velocity = [0.0, 0.0, 0.0]
        return tuple(self._velocity)
