"""Checks whether there is a screen to open a window on."""

from __future__ import annotations

import os
import sys
from ctypes.util import find_library


def has_screen() -> bool:
    """Whether a window can be opened here, as far as the environment says."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def require_screen(what: str, instead: str) -> None:
    """Raise ValueError if there is no screen. what names the setting that needs one; instead says what to do."""
    if not has_screen():
        raise ValueError(
            f"got {what}, and there is no screen here to open a window on (DISPLAY and WAYLAND_DISPLAY "
            f"are not set): {instead}"
        )


def draw_without_screen() -> None:
    """Make mujoco draw through EGL if there is no screen. Call this before mujoco is imported."""
    if not has_screen() and find_library("EGL"):
        os.environ.setdefault("MUJOCO_GL", "egl")
