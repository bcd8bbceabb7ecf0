"""Velocity commands from the terminal's keyboard, and Enter."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from typing import Any

from rfx.robots.robot import MAX_VELOCITY_COMMAND

STEP = 0.1  # m/s and rad/s per key press
HOLD_S = 1.0  # without a key press the command stays for so long, longer than a held key takes to repeat,
DECAY = 0.5  # and then goes to zero, by so much in a second (m/s or rad/s)
KEYS = {"w": (0, STEP), "s": (0, -STEP), "a": (1, STEP), "d": (1, -STEP), "q": (2, STEP), "e": (2, -STEP)}
HELP = "keys: w/s forward and back, a/d left and right, q/e turn, space stands still; let go, and it comes to a stop; Ctrl-C ends"


class Keyboard:
    """Reads single key presses while it is entered; the terminal is put back on the way out. Raises OSError when input is no terminal.

    limits are the greatest vx, vy (m/s) and yaw rate (rad/s): further presses count for nothing, so that the first one back is felt.
    """

    def __init__(self, descriptor: int | None = None, limits: tuple[float, float, float] = MAX_VELOCITY_COMMAND):
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._limits = limits
        self._velocity = [0.0, 0.0, 0.0]
        self._pressed_s = self._read_s = time.monotonic()
        self._entered = False

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
        self._take()
        now_s = time.monotonic()
        decay = DECAY * max(0.0, now_s - max(self._read_s, self._pressed_s + HOLD_S))
        self._velocity = [max(0.0, abs(value) - decay) * (1.0 if value > 0.0 else -1.0) if value else 0.0 for value in self._velocity]
        self._read_s = now_s
        return tuple(self._velocity)

    def entered(self) -> bool:
        """Whether Enter was pressed since the last call. Never waits."""
        self._take()
        entered, self._entered = self._entered, False
        return entered

    def _take(self) -> None:
        while select.select([self._descriptor], [], [], 0.0)[0]:
            keys = os.read(self._descriptor, 64).decode(errors="ignore")
            if not keys:  # the terminal is gone
                return
            for key in keys:
                self._press(key)

    def _press(self, key: str) -> None:
        if key in KEYS:
            axis, step = KEYS[key]
            limit = self._limits[axis]
            self._velocity[axis] = round(max(-limit, min(limit, self._velocity[axis] + step)), 3)
            self._pressed_s = time.monotonic()
        elif key == " ":
            self._velocity = [0.0, 0.0, 0.0]
        elif key in "\r\n":
            self._entered = True
