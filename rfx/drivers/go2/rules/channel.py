"""A stream of bytes between the sender and its guard; either end may be gone or stand still."""

from __future__ import annotations

import math
import select
import socket
import time
from typing import Protocol

MAX_BYTES = 4096


class Channel(Protocol):
    """One end of the stream."""

    def send(self, data: bytes) -> bool:
        """Send data without waiting, and return whether the other end still exists.

        Data is lost if the other end does not read for long.
        """

    def receive(self, deadline_s: float) -> bytes | None:
        """Return data as soon as some has arrived.

        Returns None if none arrives by deadline_s, and b"" if the other end is closed.
        """


class SocketChannel:
    """A channel on a socket; its deadlines are time.monotonic()."""

    def __init__(self, end: socket.socket):
        self._socket = end
        end.setblocking(False)

    def send(self, data: bytes) -> bool:
        """Send data without waiting, as in Channel. Raises nothing."""
        try:
            self._socket.send(data)
        except BlockingIOError:  # the other end has not read for long
            return True
        except OSError:
            return False
        return True

    def receive(self, deadline_s: float) -> bytes | None:
        """Receive data, as in Channel. Raises nothing."""
        remaining_s = None if deadline_s == math.inf else max(0.0, deadline_s - time.monotonic())
        if not select.select([self._socket], [], [], remaining_s)[0]:
            return None
        try:
            return self._socket.recv(MAX_BYTES)
        except OSError:  # the other end closed before it read our last message
            return b""
