"""A process that does nothing but damp when the sender is gone: killed, crashed, out of memory.

The sender starts it, and keeps one end of a socket to it. Only when that end closes without a farewell does the guard join in.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

from rfx.robots.go2 import messages
from rfx.robots.realtime import realtime_priority

READY, FAREWELL = b"r", b"f"
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

    def wait_until_ready(self) -> None:
        """Return once the guard is on the bus. Raises ConnectionError when it does not get there."""
        self._socket.settimeout(10.0)
        try:
            ready = self._socket.recv(1) == READY
        except OSError:
            ready = False
        if not ready:
            raise ConnectionError("the guard process did not get ready")

    def dismiss(self) -> None:
        """Say that all is well: the guard leaves."""
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
        os.write(int(descriptor), READY)
        if os.read(int(descriptor), 1) == FAREWELL:
            return
        writer = bus.writer(LOW_CMD, LowCmd_)
        end_s = time.monotonic() + float(damping_s)
        while time.monotonic() < end_s:
            writer.write(sample)
            time.sleep(1.0 / RATE_HZ)
    print("go2: the sender is gone; the guard damped and stopped", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
