"""The keyboard of a terminal as a remote control, for the velocity command and the robot's states.

The velocity command fades without key presses.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import Any

from rfx.drivers.realtime import WALL_CLOCK, Clock
from rfx.drivers.robot import MAX_VELOCITY_COMMAND

STEP = 0.1  # m/s and rad/s per key press
KEYS = {"w": (0, STEP), "s": (0, -STEP), "a": (1, STEP), "d": (1, -STEP), "q": (2, STEP), "e": (2, -STEP)}
HOLD_S, FADE_S = 3.0, 1.0  # after the last key a command holds for HOLD_S, then fades to zero over FADE_S
FORWARD, BACK = "\n", "\x7f"  # Enter, Backspace
HELP = "keys: w/s forward and back, a/d left and right, q/e turn, space stands still; without a key the command fades; Ctrl-C ends"


class Keyboard:
    """Context manager that reads single key presses, and restores the terminal on exit.

    limits bound the velocity command. Key presses beyond them do not count, so the first press back takes effect at
    once. Raises OSError when input is no terminal.
    """

    def __init__(
        self,
        descriptor: int | None = None,
        limits: tuple[float, float, float] = MAX_VELOCITY_COMMAND,
        clock: Clock = WALL_CLOCK,
    ):
        self._clock = clock
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._limits, self._velocity, self._pressed_s = limits, [0.0, 0.0, 0.0], 0.0
        self._moves: list[str] = []

    def __enter__(self) -> Keyboard:
        if not os.isatty(self._descriptor):
            raise OSError("the keyboard needs a terminal as standard input")
        self._settings = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(self, *exception: Any) -> None:
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._settings)

    def read(self) -> tuple[float, float, float]:
        """Read the keys pressed since the last call, and return vx, vy (m/s) and yaw rate (rad/s). Never waits."""
        now_s = self._clock.now()
        while select.select([self._descriptor], [], [], 0.0)[0] and (data := os.read(self._descriptor, 64)):
            for key in data.decode(errors="ignore"):
                self._press(key, now_s)
        left = 1.0 - max(0.0, now_s - self._pressed_s - HOLD_S) / FADE_S
        if left <= 0.0:
            self._velocity = [0.0, 0.0, 0.0]
        vx, vy, yaw_rate = (value * min(1.0, left) for value in self._velocity)
        return vx, vy, yaw_rate

    def moves(self) -> list[str]:
        """Return the FORWARD and BACK keys that read has seen since the last call, in order."""
        moves, self._moves = self._moves, []
        return moves

    def _press(self, key: str, now_s: float) -> None:
        if key in KEYS:
            axis, step = KEYS[key]
            limit = self._limits[axis]
            self._velocity[axis] = max(-limit, min(limit, round(self._velocity[axis] + step, 3)))
            self._pressed_s = now_s
        elif key == " ":
            self._velocity = [0.0, 0.0, 0.0]
        elif key in (FORWARD, BACK, "\r"):
            self._moves.append(FORWARD if key == "\r" else key)
