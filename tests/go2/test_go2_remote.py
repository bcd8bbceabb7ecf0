"""The remote control's 40 bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfx.drivers.go2.wire import remote

LIMITS = (1.0, 0.4, 0.8)


def raw(buttons=0, lx=0.0, rx=0.0, ry=0.0, ly=0.0) -> bytes:
    """Byte by byte as GO2 documents it, independently of remote.pack."""
    data = bytearray(40)
    data[2], data[3] = buttons & 0xFF, buttons >> 8
    for offset, value in ((4, lx), (8, rx), (12, ry), (20, ly)):
        data[offset : offset + 4] = struct.pack("<f", value)
    return bytes(data)


@pytest.mark.parametrize(
    "name, byte, bit",
    [
        ("R1", 2, 0),
        ("L1", 2, 1),
        ("Start", 2, 2),
        ("L2", 2, 5),
        ("F3", 2, 7),
        ("A", 3, 0),
        ("B", 3, 1),
        ("Up", 3, 4),
        ("Left", 3, 7),
    ],
)
def test_buttons_are_where_they_should_be(name, byte, bit):
    data = bytearray(40)
    data[byte] = 1 << bit
    assert remote.buttons(bytes(data)) == remote.BUTTONS[name]


def test_pack_is_the_documented_layout():
    pressed = remote.BUTTONS["L2"] | remote.BUTTONS["B"]
    assert remote.pack(pressed, lx=0.25, rx=-0.5, ry=0.75, ly=1.0) == raw(0x0220, 0.25, -0.5, 0.75, 1.0)


def test_full_sticks():
    """Forward, left, and a turn to the left are positive; sticks to the right are positive on the wire."""
    assert remote.velocity_command(raw(ly=1.0), LIMITS) == pytest.approx((1.0, 0.0, 0.0))
    assert remote.velocity_command(raw(lx=-1.0), LIMITS) == pytest.approx((0.0, 0.4, 0.0))
    assert remote.velocity_command(raw(rx=-1.0), LIMITS) == pytest.approx((0.0, 0.0, 0.8))
    assert remote.velocity_command(raw(ry=1.0), LIMITS) == (0.0, 0.0, 0.0)
    assert remote.velocity_command(raw(ly=-3.0), LIMITS) == pytest.approx((-1.0, 0.0, 0.0))


@given(*[st.floats(width=32)] * 3)
def test_commands_stay_within_limits_whatever_arrives(lx, rx, ly):
    command = remote.velocity_command(raw(lx=lx, rx=rx, ly=ly), LIMITS)
    assert all(abs(value) <= limit for value, limit in zip(command, LIMITS))


@given(st.floats(-0.999 * remote.DEAD_ZONE, 0.999 * remote.DEAD_ZONE))
def test_dead_zone(value):
    assert remote.sticks(raw(lx=value, rx=value, ly=value)) == (0.0, 0.0, 0.0)


def test_no_jump_at_the_edge_of_the_dead_zone():
    assert remote.sticks(raw(ly=remote.DEAD_ZONE + 1e-3))[0] == pytest.approx(1e-3 / 0.92, rel=0.01)
