"""A process that does nothing but damp when the sender does not: killed, crashed, out of memory, or standing still.

The sender starts it, keeps one end of a socket to it, arms it before its own first command, and sends it a word every
few ticks. When that end closes without a farewell, or no word comes for a while, an armed guard joins in: at once,
because it has had its writer, silent, since it was armed, and the robot has met it. A sender that stands still it kills
first, so that it can never go on from where it was.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from uuid import UUID

from rfx.drivers.go2.wire import messages
from rfx.drivers.realtime import lock_memory, realtime_priority

READY, ARM, ARMED, BEAT, FAREWELL = b"r", b"a", b"A", b"b", b"f"
PRIORITY = 35  # above the sender, whom it watches
RATE_HZ = 500.0
BEAT_S = 0.01
ARM_S = 15.0  # for its start, and for the robot to meet its writer
AWAY_S = 0.005  # woken up so much later than it should be, the guard knows that the whole machine was away,
GRACE_S = 0.01  # and leaves the sender so much to wake up too


class Guard:
    """The sender's end."""

    def __init__(self, domain: int, interface: str, damping_kd: float, damping_s: float, timeout_s: float):
        self._socket, theirs = socket.socketpair()
        self._timeout_s, self._heard_s, self._beat_s = timeout_s, 0.0, 0.0
        with theirs:
            arguments = [
                str(value)
                for value in (theirs.fileno(), os.getpid(), domain, interface, damping_kd, damping_s, timeout_s)
            ]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rfx.drivers.go2.sender.guard", *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._socket.setblocking(False)

    def arm(self, check: Callable[[], None] = lambda: None) -> UUID:
        """Have the guard make its writer, and wait until the robot has met it: from now on it damps when this process
        ends without a farewell, and from the first beat on also when no beat comes. Returns the key that other DDS
        participants know it by.

        check is called while waiting, and raises when waiting has become pointless. Raises ConnectionError when the
        guard is not there.
        """
        deadline_s = time.monotonic() + ARM_S
        word = self._read(1 + 16, deadline_s, check)
        try:
            self._socket.sendall(ARM)
        except OSError:
            word = b""
        if word[:1] != READY or self._read(1, deadline_s, check) != ARMED:
            raise ConnectionError("the guard process did not get ready: nobody would damp if the sender were killed")
        return UUID(bytes=word[1:])

    def beat(self) -> str:
        """Tell the guard that all is well here, every BEAT_S at most.

        Returns what is wrong with it, nothing if it has answered of late.
        """
        now_s = time.monotonic()
        if now_s - self._beat_s < BEAT_S:
            return ""
        self._beat_s = now_s
        try:
            self._socket.send(BEAT)
        except BlockingIOError:
            pass  # it has not read for long: its answers are missing too
        except OSError:
            return "the guard process is gone"
        try:
            if self._socket.recv(4096):
                self._heard_s = now_s
            else:
                return "the guard process is gone"
        except BlockingIOError:
            self._heard_s = self._heard_s or now_s
        except OSError:
            return "the guard process is gone"
        silent_s = now_s - self._heard_s
        return f"the guard process did not answer for {silent_s * 1e3:.0f} ms" if silent_s > self._timeout_s else ""

    def dismiss(self) -> None:
        """Say that all was well in the end: the guard leaves, and one that cannot is killed."""
        try:
            self._socket.sendall(FAREWELL)
        except OSError:
            pass  # it is gone already, or reads no more
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self, size: int, deadline_s: float, check: Callable[[], None]) -> bytes:
        """The next size bytes that the guard sends, fewer when it does not."""
        data = b""
        while len(data) < size and time.monotonic() < deadline_s:
            check()
            if select.select([self._socket], [], [], 0.01)[0]:
                try:
                    more = self._socket.recv(size - len(data))
                except OSError:
                    more = b""
                if not more:
                    break
                data += more
        return data


def main() -> None:
    descriptor, sender, domain, interface, damping_kd, damping_s, timeout_s = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it leaves when the sender does
    from rfx.drivers.go2.wire.bus import LOW_CMD, Bus
    from rfx.drivers.go2.wire.idl import LowCmd_

    channel = int(descriptor)
    with realtime_priority(PRIORITY):
        try:
            bus = Bus(int(domain), interface)
        except ConnectionError:
            return  # the sender meets the same, and says so
        sample = LowCmd_(messages.damping_cmd(float(damping_kd)))
        lock_memory()
        os.write(channel, READY + bus.key.bytes)
        if _next_words(channel) != ARM:  # nothing was ever commanded, and the robot's own controller may be at work
            return
        writer = bus.writer(LOW_CMD, LowCmd_)
        until_s = time.monotonic() + ARM_S
        while not writer.get_matched_subscriptions():
            if time.monotonic() > until_s or os.getppid() != int(sender):
                return
            time.sleep(0.005)
        os.write(channel, ARMED)
        if not (why := _watch(channel, int(sender), float(timeout_s))):
            return
        end_s = time.monotonic() + float(damping_s)
        while time.monotonic() < end_s:
            writer.write(sample)
            time.sleep(1.0 / RATE_HZ)
    print(f"go2: {why}; the guard damped and stopped", file=sys.stderr, flush=True)


def _watch(channel: int, sender: int, timeout_s: float) -> str:
    """Wait until the sender is no more, or stands still and was killed; returns which.

    Returns nothing for a farewell.
    """
    words, was_away = _next_words(channel), False  # without a limit: the first beat may take its time
    heard_s = time.monotonic()
    while True:
        if not words:
            return "the sender is gone"
        if FAREWELL in words:
            return ""
        try:
            os.write(channel, BEAT)
        except OSError:
            pass  # found out when reading
        due_s = heard_s + timeout_s
        while not select.select([channel], [], [], max(0.0, due_s - time.monotonic()))[0]:
            now_s = time.monotonic()
            if now_s - due_s > AWAY_S and not was_away:
                due_s, was_away = now_s + GRACE_S, True
            elif now_s >= due_s:
                if os.getppid() == sender:
                    os.kill(sender, signal.SIGKILL)
                return f"the sender stood still for {(now_s - heard_s) * 1e3:.0f} ms and was killed"
        words, heard_s, was_away = _next_words(channel), time.monotonic(), False


def _next_words(channel: int) -> bytes:
    """What the sender says next; nothing when it has ended."""
    try:
        return os.read(channel, 4096)
    except ConnectionResetError:  # it ended before it had read our own word
        return b""


if __name__ == "__main__":
    main()
    os._exit(0)  # DDS threads that still receive crash in an interpreter that is being taken down
