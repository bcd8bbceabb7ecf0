"""The keyboard as a remote control, at the end of a pseudo terminal."""

import os
import pty
import select

import pytest

from rfx.drivers.keyboard import BACK, FORWARD, Keyboard


class Terminal:
    """A keyboard, somebody who types on it, and a clock that only the test moves."""

    def __init__(self):
        self.now_s = 100.0
        self.ours, self.theirs = pty.openpty()

    def now(self):
        return self.now_s

    def keyboard(self, *limits):
        return Keyboard(self.theirs, *limits, clock=self)

    def type(self, keyboard, keys):
        for start in range(0, len(keys), 32):
            os.write(self.ours, keys[start : start + 32])
            select.select([self.theirs], [], [], 5.0)
            keyboard.read()
        return keyboard.read()

    def close(self):
        os.close(self.ours), os.close(self.theirs)


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_keys_are_a_velocity(terminal):
    with terminal.keyboard() as keyboard:
        assert keyboard.read() == (0.0, 0.0, 0.0)
        assert terminal.type(keyboard, b"wwwdqx") == (0.3, -0.1, 0.1)
        assert terminal.type(keyboard, b" s") == (-0.1, 0.0, 0.0)


def test_it_does_not_wind_up(terminal):
    """Forty presses are 1 m/s, not 4; five presses of the brake leave half of that, twenty go as far back."""
    with terminal.keyboard((1.0, 0.4, 0.8)) as keyboard:
        assert terminal.type(keyboard, b"w" * 40) == (1.0, 0.0, 0.0)
        assert terminal.type(keyboard, b"s" * 5) == (0.5, 0.0, 0.0)
        assert terminal.type(keyboard, b"s" * 20 + b"a" * 9 + b"e" * 9) == (-1.0, 0.4, -0.8)


def test_a_command_fades_without_keys(terminal):
    """It stays for 3 s, is half as fast 3.5 s after the last key, and none after 4 s."""
    with terminal.keyboard() as keyboard:
        terminal.type(keyboard, b"wwww")
        for after_s, velocity in ((3.0, 0.4), (0.5, 0.2), (0.5, 0.0), (10.0, 0.0)):
            terminal.now_s += after_s
            assert keyboard.read() == pytest.approx((velocity, 0.0, 0.0))
        assert terminal.type(keyboard, b"w") == (0.1, 0.0, 0.0), "it begins anew"


def test_enter_and_backspace(terminal):
    with terminal.keyboard() as keyboard:
        terminal.type(keyboard, b"\nw\x7f")
        assert keyboard.moves() == [FORWARD, BACK] and keyboard.moves() == []


def test_it_needs_a_terminal():
    with open(os.devnull) as nothing, pytest.raises(OSError, match="needs a terminal"):
        Keyboard(nothing.fileno()).__enter__()
