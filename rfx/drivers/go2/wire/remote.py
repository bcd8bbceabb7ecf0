"""Reads the Go2's remote control from LowState: buttons, and sticks as a velocity command."""

from __future__ import annotations

import struct

# Bits of bytes 2 and 3, taken as one little-endian 16-bit word.
BUTTONS = {
    name: 1 << bit
    for bit, name in enumerate(
        ("R1", "L1", "Start", "Select", "R2", "L2", "F1", "F3", "A", "B", "X", "Y", "Up", "Right", "Down", "Left")
    )
}
EMERGENCY = BUTTONS["L2"] | BUTTONS["B"]  # damps, like on Unitree's own controllers
DEAD_ZONE = 0.08
SIZE = 40


def buttons(remote: bytes) -> int:
    """Return the pressed buttons as a sum of BUTTONS. remote: the 40 bytes of LowState.wireless_remote."""
    return struct.unpack_from("<H", remote, 2)[0]


def sticks(remote: bytes) -> tuple[float, float, float]:
    """Return left stick forward, left stick to the left and right stick to the left, each in [-1, 1].

    Values are zero inside the dead zone. They start from zero at its edge, so that no command jumps. Values that are
    not finite count as zero.
    """
    left_x, right_x = struct.unpack_from("<2f", remote, 4)
    (left_y,) = struct.unpack_from("<f", remote, 20)
    return _shaped(left_y), -_shaped(left_x), -_shaped(right_x)


def velocity_command(remote: bytes, limits: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the sticks' vx, vy (m/s) and yaw rate (rad/s); limits are the values at full deflection."""
    return tuple(stick * limit for stick, limit in zip(sticks(remote), limits))


def pack(pressed: int = 0, *, lx: float = 0.0, rx: float = 0.0, ry: float = 0.0, ly: float = 0.0) -> bytes:
    """Make the 40 bytes that a remote in this position sends."""
    data = bytearray(SIZE)
    struct.pack_into("<H3f4xf", data, 2, pressed, lx, rx, ry, ly)
    return bytes(data)


def _shaped(value: float) -> float:
    if not abs(value) > DEAD_ZONE:  # also for nan
        return 0.0
    value = max(-1.0, min(1.0, value))
    return (value - DEAD_ZONE if value > 0.0 else value + DEAD_ZONE) / (1.0 - DEAD_ZONE)
