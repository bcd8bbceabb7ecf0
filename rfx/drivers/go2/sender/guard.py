"""A process that does nothing but damp when the sender does not: killed, crashed, out of memory, or standing still.

The sender starts it, keeps one end of a socket to it, arms it before its own first command, and sends it a word every
few ticks. When that end closes without a farewell, or no word comes for a while, an armed guard joins in: at once,
because it has had its writer, silent, since it was armed, and the robot has met it. A sender that stands still it kills
first, so that it can never go on from where it was.
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
PRIORITY = 35  # above the sender, whom it watches
RATE_HZ = 500.0
BEAT_S = 0.01
ARM_S = 15.0  # for its start, and for the robot to meet its writer
AWAY_S = 0.005  # woken up so much later than it should be, the guard knows that the whole machine was away,
GRACE_S = 0.01  # and leaves the sender so much to wake up too


class GuardProcess(Protocol):
    """What the sender's end asks of the guard's process; subprocess.Popen has it."""

    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


class Guard:
    """The sender's end."""

    def __init__(self, channel: Channel, process: GuardProcess, timeout_s: float, clock: Clock):
        self._channel, self._process, self._clock = channel, process, clock
        self._timeout_s, self._heard_s, self._beat_s = timeout_s, 0.0, 0.0

    @classmethod
    def start(cls, domain: int, interface: str, damping_kd: float, damping_s: float, timeout_s: float) -> Guard:
        """A guard in a process of its own, in real time."""
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
        """Have the guard make its writer, wait until the robot has met it, and return the guard's key on the bus.

        From now on it damps when this process ends without a farewell, and from the first beat on also when no beat
        comes. check is called while waiting, and raises when waiting has become pointless. Raises ConnectionError when
        the guard is not there.
        """
        deadline_s = self._clock.now() + ARM_S
        word = self._read(1 + 16, deadline_s, check)
        is_there = self._channel.send(ARM)
        if word[:1] != READY or not is_there or self._read(1, deadline_s, check) != ARMED:
            raise ConnectionError("the guard process did not get ready: nobody would damp if the sender were killed")
        return UUID(bytes=word[1:])

    def beat(self) -> str:
        """Tell the guard that all is well here, every BEAT_S at most.

        Returns what is wrong with it, nothing if it has answered of late.
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
        """Say that all was well in the end: the guard leaves, and one that cannot is killed."""
        self._channel.send(FAREWELL)
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self, size: int, deadline_s: float, check: Callable[[], None]) -> bytes:
        """The next size bytes that the guard sends, fewer when it does not."""
        data = b""
        while len(data) < size and (now_s := self._clock.now()) < deadline_s:
            check()
            if (more := self._channel.receive(now_s + 0.01)) == b"":
                break
            data += more or b""
        return data


class Verdict(Enum):
    """What a guard makes of its sender."""

    WELL = "well"
    DISMISSED = "it said that it ends"
    GONE = "it ended, and had not said so"
    STOOD_STILL = "it said nothing for too long"


class Watchdog:
    """Judges a sender by what it says and when; from its first word on it must say something every timeout_s.

    Look again at due_s.
    """

    def __init__(self, timeout_s: float):
        self._timeout_s, self.heard_s, self.due_s, self._was_away = timeout_s, math.inf, math.inf, False

    def step(self, now_s: float, words: bytes | None) -> Verdict:
        """words: what the sender has said, nothing when its end was closed, None when it has said nothing yet."""
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
    """Be the guard of the sender at the other end of the channel. Returns why it damped, nothing when it did not."""
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
        signal.signal(number, signal.SIG_IGN)  # it leaves when the sender does
    from rfx.drivers.go2.wire.dds import DdsBus

    with realtime_priority(PRIORITY):
        try:
            bus = DdsBus(int(domain), interface)
        except ConnectionError:
            return  # the sender meets the same, and says so
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
    os._exit(0)  # DDS threads that still receive crash in an interpreter that is being taken down
