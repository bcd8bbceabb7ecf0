"""A clock that tests turn: time stands still while anybody works, and jumps to when somebody has something to do next.

As trio's autojump clock and PX4's lockstep do it. Each participant is a thread; only one runs at a time, the one with
the earliest wake-up, and computing takes no time. So a test of minutes takes milliseconds, and every run of it is the
same. Threads belong to processes, as a system's do: one that is stopped is never scheduled, one that is killed is
removed, and what it held is closed.
"""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any

POLL_S = 1e-5  # what sleeping for no time takes: a loop that polls comes to its end
START_S = 1000.0


class Ended(BaseException):
    """Raised in a thread that must run no more, from wherever it waits, so that it ends."""


class VirtualThread:
    """A participant; the interface is threading.Thread's."""

    def __init__(self, clock: VirtualClock, process: VirtualProcess, target: Callable[[], Any] | None, name: str):
        self.clock, self.process, self.name = clock, process, name
        self.target = target
        self.wake_s, self.condition, self.order = math.inf, None, 0
        self.turn = threading.Lock()
        self.turn.acquire()
        self.is_over = self.is_unwinding = False
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.ident: int | None = None

    def start(self) -> None:
        """It runs as soon as somebody waits."""
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.wake_s, self.order = self.clock.time_s, next(self.clock.orders)
        self.clock.threads.append(self)
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        self.clock.wait(lambda: self.is_over, math.inf if timeout is None else self.clock.time_s + timeout)

    def is_alive(self) -> bool:
        return self._thread is not None and not self.is_over

    def end(self) -> None:
        """Unwind it, when all is over."""
        self.is_unwinding = True
        self.turn.release()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        self.turn.acquire()
        self.ident = threading.get_ident()
        self.clock.local.thread = self
        try:
            if not self.is_unwinding:
                self.target()
        except Ended:
            pass
        except BaseException as error:  # the test is told
            self.clock.report(error)
        self.is_over = True
        if not self.is_unwinding:
            if self is self.process.main:
                self.process.finish(0)
            self.clock.threads.remove(self)
            self.clock.hand_over()


class VirtualProcess:
    """Threads that live, stand still and die together; the interface is subprocess.Popen's."""

    def __init__(self, clock: VirtualClock, name: str):
        self.clock, self.name, self.returncode = clock, name, None
        self.main: VirtualThread | None = None
        # what the system does for it: its sockets close, its DDS participants leave
        self.on_end: list[Callable[[], None]] = []
        self.on_terminate: Callable[[], None] | None = None  # its handler of SIGTERM
        self.is_stopped = False

    def poll(self) -> int | None:
        return self.returncode

    def is_alive(self) -> bool:
        return self.returncode is None

    def wait(self, timeout: float | None = None) -> int:
        deadline_s = math.inf if timeout is None else self.clock.time_s + timeout
        if not self.clock.wait(lambda: self.returncode is not None, deadline_s):
            raise subprocess.TimeoutExpired(self.name, timeout)
        return self.returncode

    def stop(self) -> None:
        """SIGSTOP."""
        self.is_stopped = True

    def resume(self) -> None:
        """SIGCONT."""
        self.is_stopped = False

    def kill(self) -> None:
        """SIGKILL."""
        self.finish(-signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.finish(-signal.SIGTERM) if self.on_terminate is None else self.on_terminate()

    def strike(self, number: int) -> None:
        """Any of these, by its number."""
        {signal.SIGSTOP: self.stop, signal.SIGKILL: self.kill, signal.SIGTERM: self.terminate}[number]()

    def finish(self, status: int) -> None:
        """It is over with this status."""
        if self.returncode is None:
            self.returncode = status
            for end in self.on_end:
                end()


class VirtualClock:
    """now, sleep, sleep_until, thread: a rfx.drivers.realtime.Clock.

    Whoever enters it is the first participant, of a process "test".
    """

    def __init__(self) -> None:
        self.time_s, self.threads, self.local, self.orders = START_S, [], threading.local(), itertools.count()
        self.error: BaseException | None = None
        self.test = VirtualProcess(self, "test")

    def __enter__(self) -> VirtualClock:
        self._entrant = VirtualThread(self, self.test, None, "test")
        self._entrant.ident, self.local.thread = threading.get_ident(), self._entrant
        self.threads.append(self._entrant)
        return self

    def __exit__(self, kind: type | None, *exception: Any) -> None:
        for thread in self.threads:
            if thread is not self._entrant:
                thread.end()
        self._entrant.error = RuntimeError("this clock's test is over")
        if self.error is not None and kind is None:
            raise self.error

    def now(self) -> float:
        self.check()
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.sleep_until(self.now() + seconds)

    def sleep_until(self, deadline_s: float) -> None:
        self.wait(lambda: False, max(deadline_s, self.now() + POLL_S))

    def thread(self, target: Callable[[], Any], name: str) -> VirtualThread:
        """A thread of the calling thread's process."""
        return VirtualThread(self, self.local.thread.process, target, name)

    def process(self, target: Callable[[VirtualProcess], Any], name: str) -> VirtualProcess:
        """Start a process that runs target."""
        process = VirtualProcess(self, name)
        process.main = VirtualThread(self, process, lambda: target(process), name)
        process.main.start()
        return process

    def wait(self, condition: Callable[[], Any], deadline_s: float) -> bool:
        """Return True when the condition holds, or False at deadline_s.

        The condition only looks: it waits for nothing itself.
        """
        self.check()
        me = self.local.thread
        if not (holds := bool(condition())):
            me.condition, me.wake_s, me.order = condition, deadline_s, next(self.orders)
            self.hand_over(me)
            me.condition, me.wake_s = None, self.time_s
            holds = bool(condition())
        self.check()
        return holds

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        """Let time pass until the condition holds. Raises AssertionError when it does not."""
        assert self.wait(condition, self.time_s + timeout_s), f"it did not come about within {timeout_s:g} s"

    def interrupt(self, thread: VirtualThread, error: BaseException) -> None:
        """Have a thread find an exception, such as a KeyboardInterrupt, where it waits now."""
        thread.error, thread.wake_s = error, self.time_s

    def check(self) -> None:
        """End a thread that must run no more, and raise what it was sent."""
        me = self.local.thread
        if me.is_unwinding:
            raise Ended
        if me.error is not None:
            error, me.error = me.error, None
            raise error

    def report(self, error: BaseException) -> None:
        """A participant failed: the test does too."""
        self.error = self.error or error
        self.interrupt(self._entrant, error)

    def hand_over(self, me: VirtualThread | None = None) -> None:
        """Let the earliest of all go on; me, which waits, until it is the earliest itself."""
        chosen, chosen_s = None, (math.inf, 0)
        for thread in self.threads:
            if thread.process.is_stopped or thread.process.returncode is not None:
                continue
            wake_s = max(self.time_s, thread.wake_s)
            if wake_s > self.time_s and thread.condition is not None and thread.condition():
                wake_s = self.time_s
            if (wake_s, thread.order) < chosen_s:
                chosen, chosen_s = thread, (wake_s, thread.order)
        if chosen is None:
            chosen = self._entrant
            self.report(AssertionError("everybody waits for somebody else"))
        else:
            self.time_s = chosen_s[0]
        if chosen is not me:
            chosen.turn.release()
            if me is not None:
                me.turn.acquire()
