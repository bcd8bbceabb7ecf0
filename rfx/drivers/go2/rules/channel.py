"""A stream of bytes between the sender and its guard, either of which may be gone or stand still."""

from __future__ import annotations

import math
import select
import socket
import time
from typing import Protocol

MAX_BYTES = 4096


class Channel(Protocol):
    """One end of it."""

    def send(self, data: bytes) -> bool:
        """Never waits: what the other end does not take for long is lost.

        Returns whether there still is another end.
        """

    def receive(self, deadline_s: float) -> bytes | None:
        """What has come, as soon as it has.

        None when nothing has by deadline_s; nothing, b"", when the other end is closed.
        """


class SocketChannel:
    """An end that is a socket; its deadlines are time.monotonic()."""

    def __init__(self, end: socket.socket):
        self._socket = end
        end.setblocking(False)

    def send(self, data: bytes) -> bool:
        """Raises nothing."""
        try:
            self._socket.send(data)
        except BlockingIOError:  # it has not read for long
            return True
        except OSError:
            return False
        return True

    def receive(self, deadline_s: float) -> bytes | None:
        """Raises nothing."""
        remaining_s = None if deadline_s == math.inf else max(0.0, deadline_s - time.monotonic())
        if not select.select([self._socket], [], [], remaining_s)[0]:
            return None
        try:
            return self._socket.recv(MAX_BYTES)
        except OSError:  # it ended before it had read our own word
            return b""
