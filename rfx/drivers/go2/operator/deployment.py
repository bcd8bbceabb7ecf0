"""Deploys a policy on a Go2; an operator leads it with the remote through the states Passive, Stand and Walk."""

from __future__ import annotations

import gc
import math
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rfx.drivers.go2.driver.driver import Go2, Report
from rfx.drivers.go2.rules.mailbox import UNKNOWN, Phase
from rfx.drivers.go2.wire.remote import BUTTONS
from rfx.drivers.keyboard import BACK, FORWARD, Keyboard
from rfx.drivers.realtime import WALL_CLOCK, Clock, realtime_priority
from rfx.drivers.session import Rhythm
from rfx.system.text import fit, folded

PRIORITY = 10
WARMUP_S = 0.5
MAX_FAULTS = 3  # after this many faults in a row without standing, connecting again does not help
STATUS_S = 0.2
HELP = (
    "remote: Start stands up, A walks, B stands again, Start lies down, L2+B damps at once, always. "
    "Terminal: Enter goes one state on, Backspace one back, Ctrl-C lies down and ends, twice damps at once"
)
END = ""
CLEAR = "\r\x1b[K"  # go to the beginning of the line and clear it
LEADING = ("Start", "A", "B")
# Together with these, a button means something else, for example L2+A to Unitree's controller.
SHOULDERS = sum(BUTTONS[name] for name in ("L1", "L2", "R1", "R2"))
NAMES = {
    Phase.CONNECTING: "Passive",
    Phase.IDLE: "Passive",
    Phase.STANDING_UP: "standing up",
    Phase.STANDING: "Stand",
    Phase.POLICY: "Walk",
    Phase.LYING_DOWN: "lying down",
    Phase.FAULT: "damped",
    Phase.DONE: "damped",
}


class Deployment:
    """Runs policy on robot in the states that the remote's buttons or a terminal's keys select; it begins Passive.

    velocity is a function that returns vx, vy, yaw rate, for a robot that does not take its velocity from the remote.
    Each event is printed on a line; a terminal also shows a status line below. After a fault the deployment connects
    again and is Passive.
    """

    def __init__(
        self,
        robot: Go2,
        policy: Callable[[dict[str, Any]], Any],
        *,
        velocity: Callable[[], tuple[float, float, float]] | None = None,
        keyboard: Keyboard | None = None,
        console: Console | None = None,
        clock: Clock = WALL_CLOCK,
    ):
        self.robot, self.policy = robot, policy
        self.rhythm, self._clock = Rhythm(1.0 / robot.config.control_freq_hz, clock), clock
        self._velocity, self._keyboard = velocity, keyboard
        self._console = TerminalConsole() if console is None else console
        self._buttons = ~0  # buttons pressed before; all at first, so that a button held from the start has no effect
        # _is_leaving: the robot was asked to lie down, but the sender has not begun yet.
        self._is_walking = self._is_leaving = self._has_stood = False
        # The time at which the policy has braked on request, and the next call then.
        self._braked_s, self._then = (math.inf, robot.stand)
        self._phase, self._shown_s = None, 0.0

    def run(self, walk_s: float | None = None) -> None:
        """Serve until Ctrl-C, or until the policy has walked for walk_s, then lie down.

        Raises ConnectionError if it cannot connect to the robot, or not again after a fault. Raises the policy's own
        exceptions after damping.
        """
        try:
            self.robot.connect()
            self._say(HELP)
            self._serve_again_and_again(walk_s)
            self._say("lying down")
            self._brake()
        except KeyboardInterrupt:
            self._say("lying down; Ctrl-C again damps at once")
            self._brake()
            raise
        finally:
            self._console.close()
        self.robot.stop()

    def _serve_again_and_again(self, walk_s: float | None) -> None:
        num_faults = 0  # since the robot last stood
        while fault := self._serve(walk_s):
            self._say(str(fault))
            num_faults = 1 if self._has_stood else num_faults + 1
            self.robot.close()
            if num_faults >= MAX_FAULTS:
                raise fault
            self.robot.connect()
            self._say("connected again")

    def _serve(self, walk_s: float | None) -> RuntimeError | None:
        """Serve one connection. Returns the robot's fault that ended it, or None when the time is up."""
        self._buttons, self._is_walking, self._is_leaving, self._has_stood = ~0, False, False, False
        try:
            self._warm_up()
            # The priority is raised after connecting: new processes would inherit it for all their imports.
            with realtime_priority(PRIORITY):
                while walk_s is None or self.rhythm.steps * self.rhythm.period_s < walk_s:
                    self._tick()
            return None
        except PolicyError as error:
            self.robot.abort()
            raise error.__cause__ from None
        except RuntimeError as error:
            return error

    def _tick(self) -> None:
        """Run one control period: handle requests, and step the policy while the robot walks."""
        report = self.robot.look()
        self._has_stood = self._has_stood or report.phase == Phase.STANDING
        keys = self._keyboard.read() if self._keyboard is not None else None
        asked = self._asked(report)
        if report.phase == Phase.IDLE and "Start" in asked:
            self.robot.stand()
        elif self._is_walking and asked & {"B", "Start"}:
            self._braked_s = min(self._braked_s, self._clock.now() + self.robot.brake())
            self._then = self.robot.lie if "Start" in asked else self.robot.stand
        elif report.phase in (Phase.STANDING_UP, Phase.STANDING, Phase.POLICY) and "Start" in asked:
            self.robot.lie()
            self._is_leaving = True
        elif report.phase == Phase.STANDING and "A" in asked and not self._is_walking:
            self._begin_to_walk()
        elif report.phase == Phase.STANDING and not self._is_walking and not self._is_leaving:
            self.robot.stand()  # tells the sender that the driver still works
        elif report.phase == Phase.LYING_DOWN:
            self._is_walking = self._is_leaving = False
        if self._is_walking and self._clock.now() >= self._braked_s:
            self._is_walking, self._is_leaving = False, self._then == self.robot.lie
            self._then()
        self._show(report)
        if self._is_walking:
            self._walk(keys)
        else:
            self._clock.sleep(self.rhythm.period_s)

    def _walk(self, keys: tuple[float, float, float] | None) -> None:
        self.rhythm.step()
        if self._velocity is not None:
            self.robot.command(*self._velocity())
        elif keys is not None and self.robot.velocity_from == "api":
            self.robot.command(*keys)
        action = self._decide(self.robot.observe())
        try:
            self.robot.act(action)
        except ValueError as error:
            raise PolicyError from error
        self.rhythm.wait()

    def _brake(self) -> None:
        """If the robot walks, run the policy until it stands on the spot. On an interrupt, damp at once."""
        if not self._is_walking:
            return
        try:
            until_s = self._clock.now() + self.robot.brake()
            while self._clock.now() < until_s:
                self._walk(None)
        except KeyboardInterrupt:
            self.robot.abort()
            raise
        except PolicyError as error:
            self.robot.abort()
            raise error.__cause__ from None

    def _decide(self, observation: dict[str, Any]) -> Any:
        try:
            return self.policy(observation)
        except Exception as error:
            raise PolicyError from error

    def _begin_to_walk(self) -> None:
        self._is_walking, self._braked_s = True, math.inf
        if reset := getattr(self.policy, "reset", None):
            reset()
        self.rhythm.begin()

    def _asked(self, report: Report) -> set[str]:
        """Return the requests of the remote's buttons and the terminal's keys since the last call."""
        new, self._buttons = report.buttons & ~self._buttons, report.buttons
        asked = {name for name in LEADING if new & BUTTONS[name] and not report.buttons & SHOULDERS}
        for move in self._keyboard.moves() if self._keyboard is not None else ():
            if move == FORWARD:
                asked.add("Start" if report.phase == Phase.IDLE else "A")
            elif move == BACK:
                asked.add("B" if self._is_walking else "Start")
        return asked

    def _warm_up(self) -> None:
        """Run the policy on the robot's reports without acting, so that the network is compiled."""
        until_s = self._clock.now() + WARMUP_S
        while self._clock.now() < until_s:
            self._decide(self.robot.observe())
            self._clock.sleep(self.rhythm.period_s)
        gc.collect()
        gc.freeze()  # a full collection over the objects of networks and libraries would take many milliseconds

    def _show(self, report: Report) -> None:
        if report.phase != self._phase:
            self._phase = report.phase
            self._say(NAMES[report.phase] + (f": {report.reason}" if report.reason else ""))
        now_s = self._clock.now()
        if now_s - self._shown_s >= STATUS_S:
            self._shown_s = now_s
            self._console.show(status(report, self.robot, self.rhythm))

    def _say(self, line: str) -> None:
        self._console.say(line)


class Console(Protocol):
    """Output of a deployment."""

    def say(self, line: str) -> None: ...
    def show(self, status: str) -> None: ...
    def close(self) -> None: ...


class TerminalConsole:
    """Prints from its own thread.

    A terminal that accepts no output (Ctrl-S, a lost connection) must not block the control loop.
    """

    def __init__(self) -> None:
        self._is_terminal, self._texts = sys.stdout.isatty(), queue.SimpleQueue[str]()
        self._thread = threading.Thread(target=self._print, name="rfx-go2-console", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._texts.put(f"{CLEAR}{folded(line)}\n" if self._is_terminal else f"{line}\n")

    def show(self, status: Sequence[str]) -> None:
        """Print as many parts of a status as fit, in place of the last status; only on a terminal."""
        if self._is_terminal and self._texts.empty():
            self._texts.put(f"{CLEAR}{fit(status)}")

    def close(self) -> None:
        """Print the remaining lines if that is possible at once, and remove the status."""
        if self._is_terminal:
            self._texts.put(CLEAR)
        self._texts.put(END)
        self._thread.join(1.0)

    def _print(self) -> None:
        while (text := self._texts.get()) != END:
            print(text, end="", flush=True)


class PolicyError(Exception):
    """The policy, not the robot, has failed; the cause of this exception says how."""


def status(report: Report, robot: Go2, rhythm: Rhythm) -> list[str]:
    """Return the parts of a status: state, problem, command, battery, rate and jitter, hottest motor.

    The most important part comes first, because a narrow terminal shows only the first parts.
    """
    vx, vy, yaw_rate = robot.state.velocity_command[0].tolist()
    walks = report.phase == Phase.POLICY
    rate = (
        f"{1.0 / rhythm.last_period_s:.0f} Hz, jitter {abs(rhythm.last_period_s - rhythm.period_s) * 1e3:.1f} ms"
        if walks
        else "no policy"
    )
    battery = "battery unknown" if report.battery == UNKNOWN else f"battery {report.battery}%"
    joint, temperature = report.hottest
    wrong = [f"no LowState for {report.state_age_s:.1f} s"] if report.state_age_s > 0.1 else []
    wrong += [] if report.remote_seen else ["remote not seen"]
    return [
        NAMES[report.phase],
        *wrong,
        f"{vx:+.2f} {vy:+.2f} m/s {yaw_rate:+.2f} rad/s",
        battery,
        rate,
        f"{joint.removesuffix('_joint')} {temperature} C",
    ]
