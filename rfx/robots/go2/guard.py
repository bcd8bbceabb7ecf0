"""A process that does nothing but damp when the sender is gone: killed, crashed, out of memory.

The sender starts it, keeps one end of a socket to it, and arms it before its own first command. When that end closes without a
farewell, an armed guard joins in: at once, because it has had its writer, silent, since it was armed, and the robot has met it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from uuid import UUID

from rfx.robots.go2 import messages
from rfx.robots.realtime import realtime_priority

READY, ARM, FAREWELL = b"r", b"a", b"f"
PRIORITY = 30
RATE_HZ = 500.0


class Guard:
    """The sender's end."""

    def __init__(self, domain: int, interface: str, damping_kd: float, damping_s: float):
        self._socket, theirs = socket.socketpair()
        with theirs:
            arguments = [str(value) for value in (theirs.fileno(), domain, interface, damping_kd, damping_s)]
            self._process = subprocess.Popen([sys.executable, "-m", "rfx.robots.go2.guard", *arguments], pass_fds=(theirs.fileno(),),
                                             stdin=subprocess.DEVNULL, start_new_session=True)

    def arm(self) -> UUID:
        """From now on the guard damps when this process ends without a farewell. Returns the key that other DDS participants know it by.

        Raises ConnectionError when it is not there to.
        """
        self._socket.settimeout(10.0)
        try:
            word = self._socket.recv(1 + 16, socket.MSG_WAITALL)
            self._socket.sendall(ARM)
        except OSError:
            word = b""
        if word[:1] != READY or len(word) != 1 + 16:
            raise ConnectionError("the guard process did not get ready")
        return UUID(bytes=word[1:])

    def dismiss(self) -> None:
        """Say that all was well in the end: the guard leaves."""
        try:
            self._socket.sendall(FAREWELL)
        except OSError:
            pass  # it is gone already


def main() -> None:
    descriptor, domain, interface, damping_kd, damping_s = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it leaves when the sender does
    from rfx.robots.go2.bus import LOW_CMD, Bus
    from rfx.robots.go2.idl import LowCmd_

    with realtime_priority(PRIORITY):
        bus, sample = Bus(int(domain), interface), LowCmd_(messages.damping_cmd(float(damping_kd)))
        os.write(int(descriptor), READY + bus.key.bytes)
        writer = None
        while word := _next_word(int(descriptor)):
            if word == FAREWELL:
                return
            writer = bus.writer(LOW_CMD, LowCmd_)
        if writer is None:  # nothing was ever commanded, and the robot's own controller may be at work
            return
        end_s = time.monotonic() + float(damping_s)
        while time.monotonic() < end_s:
            writer.write(sample)
            time.sleep(1.0 / RATE_HZ)
    print("go2: the sender is gone; the guard damped and stopped", file=sys.stderr, flush=True)


def _next_word(descriptor: int) -> bytes:
    """What the sender says next; nothing when it has ended."""
    try:
        return os.read(descriptor, 1)
    except ConnectionResetError:  # it ended before it had read our own word
        return b""


if __name__ == "__main__":
    main()
