"""A process that does nothing but damp when the sender fails: killed, crashed, out of memory, stopped, blocked.

The sender starts it, arms it before its own first command, and sends it a sign of life at every tick. When these stay away for
sender_timeout_s, or the socket between them closes without a farewell, an armed guard kills the sender, which must not go on later, and
joins in: at once, because it has had its writer, silent, since it was armed, and the robot has met it. It answers every sign of life,
so that the sender knows when there is no guard.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any
from uuid import UUID

from rfx.robots.go2 import messages
from rfx.robots.go2.safety import SafetyLimits
from rfx.robots.realtime import realtime_priority

READY, ARM, ARMED, ALIVE, FAREWELL = b"r", b"a", b"A", b".", b"f"
PRIORITY = 30
RATE_HZ = 500.0
START_S = 20.0  # for the guard to get ready, on a busy machine
MEET_S = 5.0  # for the robot to meet its writer
UNARMED_TIMEOUT_S = 5.0  # without a sign of life before it is armed: the sender hangs while it connects


class Guard:
    """The sender's end. Make it with ordinary priority.

    A guard that inherits a real-time one loads its libraries with it, for most of a second, and the kernel, which grants such processes
    950 ms in a second of a core's time, then holds the sender up too: for 105 ms, every third time that the robot stood up.
    """

    def __init__(self, domain: int, interface: str, limits: SafetyLimits):
        self._limits, self._last_s = limits, float("inf")
        self._socket, theirs = socket.socketpair()
        with theirs:
            arguments = [str(value) for value in (theirs.fileno(), domain, interface, limits.damping_kd, limits.damping_s,
                                                  limits.sender_timeout_s, os.getpid())]
            self._process = subprocess.Popen([sys.executable, "-m", "rfx.robots.go2.guard", *arguments], pass_fds=(theirs.fileno(),),
                                             stdin=subprocess.DEVNULL, start_new_session=True)

    def arm(self, key: UUID) -> UUID:
        """From now on the guard damps when this process ends or falls silent. Returns the key that other DDS participants know it by.

        key is this process's own: it reads rt/lowcmd too, and is not the robot. Returns once somebody, who is the robot, listens to the guard. Raises ConnectionError when the guard is not there or nobody does.
        """
        self._socket.settimeout(START_S)
        try:
            word = self._socket.recv(1 + 16, socket.MSG_WAITALL)
            self._socket.sendall(ARM + key.bytes)
            armed = self._next_word()
        except OSError:
            word = armed = b""
        if word[:1] != READY or len(word) != 1 + 16 or armed != ARMED:
            raise ConnectionError("the guard process did not get ready, or nobody listens to it")
        self._socket.setblocking(False)
        self._last_s = time.monotonic()
        return UUID(bytes=word[1:])

    def tell_alive(self) -> None:
        """One sign of life. Never waits."""
        try:
            self._socket.send(ALIVE, socket.MSG_DONTWAIT)
        except OSError:
            pass  # it is gone, or does not listen: failure() says so

    def failure(self) -> str:
        """What is wrong with the armed guard, or nothing."""
        now_s = time.monotonic()
        try:
            if not self._socket.recv(4096):
                return "the guard process is gone"
            self._last_s = now_s
        except BlockingIOError:
            pass
        except OSError:
            return "the guard process is gone"
        age_s = now_s - self._last_s
        return f"no sign of life from the guard process for {age_s * 1e3:.0f} ms" if age_s > self._limits.guard_timeout_s else ""

    def dismiss(self) -> None:
        """Say that all was well in the end: the guard leaves. One that cannot hear it is killed."""
        try:
            self._socket.setblocking(False)
            self._socket.send(FAREWELL)
        except OSError:
            pass  # it is gone already, or does not listen
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _next_word(self) -> bytes:
        """The guard's next word that is no answer to a sign of life."""
        while (word := self._socket.recv(1)) == ALIVE:
            pass
        return word


class Watch:
    """The guard's end: what the sender says, and whether it has fallen silent."""

    def __init__(self, descriptor: int):
        self._socket, self._rest = socket.socket(fileno=descriptor), b""

    def key(self) -> UUID:
        """What follows ARM."""
        data = self._rest
        while len(data) < 16 and (more := self._socket.recv(16 - len(data))):
            data += more
        return UUID(bytes=data)

    def next_word(self, timeout_s: float) -> bytes | None:
        """ARM, FAREWELL or ALIVE; nothing when the sender has ended, None when it has been silent for timeout_s."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return None
        try:
            data = self._socket.recv(4096)
        except ConnectionResetError:  # it ended before it had read our own word
            return b""
        words = data.lstrip(ALIVE)
        self._rest = words[1:]
        return words[:1] or data[:1]

    def say(self, word: bytes) -> None:
        """Never waits: a sender that does not listen is about to be found silent."""
        try:
            self._socket.send(word, socket.MSG_DONTWAIT)
        except OSError:
            pass


def main() -> None:
    descriptor, domain, interface, damping_kd, damping_s, sender_timeout_s, sender = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it leaves when the sender does
    from rfx.robots.go2.bus import LOW_CMD, Bus
    from rfx.robots.go2.idl import LowCmd_

    with realtime_priority(PRIORITY):
        try:
            bus = Bus(int(domain), interface)
        except ConnectionError:  # the sender says so too
            return
        watch, sample = Watch(int(descriptor)), LowCmd_(messages.damping_cmd(float(damping_kd)))
        watch.say(READY + bus.key.bytes)
        writer, timeout_s = None, UNARMED_TIMEOUT_S
        while word := watch.next_word(timeout_s):
            if word == FAREWELL:
                return
            if word == ARM:
                writer, timeout_s = bus.writer(LOW_CMD, LowCmd_), float(sender_timeout_s)
                if not _meets(writer, watch.key()):
                    return
                watch.say(ARMED)
            else:
                watch.say(ALIVE)
        if word is None and os.getppid() == int(sender):
            os.kill(int(sender), signal.SIGKILL)
        if writer is None:  # nothing was ever commanded, and the robot's own controller may be at work
            return
        end_s = time.monotonic() + float(damping_s)
        while time.monotonic() < end_s:
            writer.write(sample)
            time.sleep(1.0 / RATE_HZ)
    what = "fell silent and was killed" if word is None else "is gone"
    print(f"go2: the sender {what}; the guard damped and stopped", file=sys.stderr, flush=True)


def _meets(writer: Any, sender: UUID) -> bool:
    """Whether somebody other than the sender listens to the writer, in time."""
    deadline_s = time.monotonic() + MEET_S
    while time.monotonic() < deadline_s:
        readers = [writer.get_matched_subscription_data(handle) for handle in writer.get_matched_subscriptions()]
        if any(reader is not None and reader.participant_key != sender for reader in readers):
            return True
        time.sleep(0.005)
    return False


if __name__ == "__main__":
    main()
