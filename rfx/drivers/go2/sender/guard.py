"""A process that damps the robot when the sender cannot: killed, crashed, out of memory, or standing still.

The sender starts the guard, keeps one end of a socket to it, arms it before its own first command, and sends it a word
every few ticks. If that end closes without a farewell, or no word comes for a while, an armed guard damps. It can do so
at once: it has had a silent writer since it was armed, and the robot has met this writer. If the sender stands still,
the guard kills it first, so that the sender can never go on from where it was.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from typing import Protocol
from uuid import UUID

from rfx.drivers.go2.rules.channel import Channel, SocketChannel
from rfx.drivers.go2.wire import messages
from rfx.drivers.go2.wire.bus import LOW_CMD, Bus
from rfx.drivers.go2.wire.idl import LowCmd_
from rfx.drivers.realtime import WALL_CLOCK, Clock, ProcessWatch, Watch, lock_memory, realtime_priority

READY, ARM, ARMED, BEAT, FAREWELL = b"r", b"a", b"A", b"b", b"f"
PRIORITY = 35  # above the sender's
RATE_HZ = 500.0
BEAT_S = 0.01
ARM_S = 15.0  # longest time for the guard to start, and for the robot to meet its writer
AWAY_S = 0.005  # if the guard wakes up this much too late, the whole machine was stopped,
GRACE_S = 0.01  # and the guard gives the sender this long to wake up too


class GuardProcess(Protocol):
    """The guard's process, for the sender; subprocess.Popen is one."""

    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


class Guard:
    """The sender's end of the connection to its guard."""

    def __init__(self, channel: Channel, process: GuardProcess, timeout_s: float, clock: Clock):
        self._channel, self._process, self._clock = channel, process, clock
        self._timeout_s, self._heard_s, self._beat_s = timeout_s, 0.0, 0.0

    @classmethod
    def start(cls, domain: int, interface: str, damping_kd: float, damping_s: float, timeout_s: float) -> Guard:
        """Start a guard in its own process, in real time."""
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [
                str(value)
                for value in (theirs.fileno(), os.getpid(), domain, interface, damping_kd, damping_s, timeout_s)
            ]
            process = subprocess.Popen(
                [sys.executable, "-m", "rfx.drivers.go2.sender.guard", *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return cls(SocketChannel(ours), process, timeout_s, WALL_CLOCK)

    def arm(self, check: Callable[[], None] = lambda: None) -> UUID:
        """Let the guard make its writer, wait until the robot has met it, and return the guard's key on the bus.

        From now on the guard damps when this process ends without a farewell. After the first beat it also damps when
        no beat comes. check is called during the wait, and raises if waiting has become pointless. Raises
        ConnectionError if there is no guard.
        """
        deadline_s = self._clock.now() + ARM_S
        word = self._read(1 + 16, deadline_s, check)
        is_there = self._channel.send(ARM)
        if word[:1] != READY or not is_there or self._read(1, deadline_s, check) != ARMED:
            raise ConnectionError("the guard process did not get ready: nobody would damp if the sender were killed")
        return UUID(bytes=word[1:])

    def beat(self) -> str:
        """Tell the guard that all is well here, at most once every BEAT_S.

        Returns what is wrong with the guard, or "" if it has answered recently.
        """
        now_s = self._clock.now()
        if now_s - self._beat_s < BEAT_S:
            return ""
        self._beat_s = now_s
        if not self._channel.send(BEAT) or (answer := self._channel.receive(now_s)) == b"":
            return "the guard process is gone"
        self._heard_s = now_s if answer else self._heard_s or now_s
        silent_s = now_s - self._heard_s
        return f"the guard process did not answer for {silent_s * 1e3:.0f} ms" if silent_s > self._timeout_s else ""

    def dismiss(self) -> None:
        """Say farewell, so that the guard ends; kill it if it does not end."""
        self._channel.send(FAREWELL)
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self, size: int, deadline_s: float, check: Callable[[], None]) -> bytes:
        """Read the next size bytes from the guard, or fewer if it does not send them."""
        data = b""
        while len(data) < size and (now_s := self._clock.now()) < deadline_s:
            check()
            if (more := self._channel.receive(now_s + 0.01)) == b"":
                break
            data += more or b""
        return data


class Verdict(Enum):
    """A guard's judgement of its sender."""

    WELL = "well"
    DISMISSED = "it said that it ends"
    GONE = "it ended, and had not said so"
    STOOD_STILL = "it said nothing for too long"


class Watchdog:
    """Judges a sender by its words and their times; after its first word it must send one every timeout_s.

    The next judgement is due at due_s.
    """

    def __init__(self, timeout_s: float):
        self._timeout_s, self.heard_s, self.due_s, self._was_away = timeout_s, math.inf, math.inf, False

    def step(self, now_s: float, words: bytes | None) -> Verdict:
        """Judge the sender by its words: b"" if it closed its end, None if it has said nothing new."""
        if words == b"":
            return Verdict.GONE
        if words is not None:
            self.heard_s, self.due_s, self._was_away = now_s, now_s + self._timeout_s, False
            return Verdict.DISMISSED if FAREWELL in words else Verdict.WELL
        if now_s - self.due_s > AWAY_S and not self._was_away:
            self.due_s, self._was_away = now_s + GRACE_S, True
            return Verdict.WELL
        return Verdict.WELL if now_s < self.due_s else Verdict.STOOD_STILL


def keep_watch(
    channel: Channel, sender: Watch, bus: Bus, damping_kd: float, damping_s: float, timeout_s: float, clock: Clock
) -> str:
    """Guard the sender at the other end of the channel. Returns why the guard damped, or "" if it did not."""
    sample = LowCmd_(messages.damping_cmd(damping_kd))
    channel.send(READY + bus.key.bytes)
    if channel.receive(math.inf) != ARM:  # nothing was ever commanded, and the robot's own controller may be at work
        return ""
    writer = bus.writer(LOW_CMD, LowCmd_)
    until_s = clock.now() + ARM_S
    while not writer.get_matched_subscriptions():
        if clock.now() > until_s or not sender.is_alive():
            return ""
        clock.sleep(0.005)
    channel.send(ARMED)
    watchdog = Watchdog(timeout_s)
    while True:
        words = channel.receive(watchdog.due_s)
        if (verdict := watchdog.step(clock.now(), words)) != Verdict.WELL:
            break
        if words:
            channel.send(BEAT)
    if verdict == Verdict.DISMISSED:
        return ""
    why = "the sender is gone"
    if verdict == Verdict.STOOD_STILL:
        why = f"the sender stood still for {(clock.now() - watchdog.heard_s) * 1e3:.0f} ms and was killed"
        sender.kill()
    end_s = clock.now() + damping_s
    while clock.now() < end_s:
        writer.write(sample)
        clock.sleep(1.0 / RATE_HZ)
    return why


def main() -> None:
    descriptor, sender, domain, interface, damping_kd, damping_s, timeout_s = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the guard ends when the sender ends
    from rfx.drivers.go2.wire.dds import DdsBus

    with realtime_priority(PRIORITY):
        try:
            bus = DdsBus(int(domain), interface)
        except ConnectionError:
            return  # the sender meets the same error and reports it
        lock_memory()
        why = keep_watch(
            SocketChannel(socket.socket(fileno=int(descriptor))),
            ProcessWatch(int(sender)),
            bus,
            float(damping_kd),
            float(damping_s),
            float(timeout_s),
            WALL_CLOCK,
        )
    if why:
        print(f"go2: {why}; the guard damped and stopped", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # DDS threads that still receive would crash while the interpreter shuts down
