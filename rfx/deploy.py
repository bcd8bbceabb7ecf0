"""`rfx deploy`: a policy on a robot. A robot with a remote is led by it, and nothing moves before somebody has said so."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from rfx.config import RobotConfig
from rfx.session import Session

POLL_S = 0.02
ONLY_FOR = {"go2": ("interface", "domain", "log", "no_motion_switcher", "silent_publishers"), "sim": ("viewer",)}  # options by robot


def deploy(options: argparse.Namespace) -> None:
    """Run a policy folder on a robot."""
    from rfx.loaded_policy import load_policy
    from rfx.robots.keyboard import HELP, Keyboard
    from rfx.robots.robot import MAX_VELOCITY_COMMAND

    policy = load_policy(options.path)
    robot = make(options, policy.robot_config)
    policy.check_robot(robot.config)
    robot.command(options.vx, options.vy, options.yaw)
    is_led = hasattr(robot, "remote_buttons")
    with ExitStack() as stack:
        keyboard = None
        if options.velocity == "keyboard" or (is_led and _has_terminal()):
            keyboard = stack.enter_context(Keyboard(limits=getattr(robot, "max_velocity_command", MAX_VELOCITY_COMMAND)))
        if options.velocity == "keyboard":
            print(HELP)
        decide = Decide(policy, robot, keyboard if options.velocity == "keyboard" else None)
        stack.enter_context(robot)
        session = Session(robot, decide, rate_hz=robot.config.control_freq_hz, min_rate_share=0.75 if is_led else 0.0)  # a simulation waits
        stack.callback(lambda: print(timing(session, robot)))
        if is_led:
            Lead(robot, session, keyboard, options.duration).run()
        else:
            session.run(options.duration)


def make(options: argparse.Namespace, policy: RobotConfig | None) -> Any:
    """The robot asked for, with the options that it has, and the gains and action scales of the policy.

    Raises ValueError for options that would do nothing, and for gains or scales that are not safe.
    """
    from rfx.robots.go2.config import with_gains_of
    from rfx.robots.robot import make_robot

    for robot, names in ONLY_FOR.items():
        for name in names if robot != options.robot else ():
            if getattr(options, name) is not None:
                raise ValueError(f"got --{name.replace('_', '-')}, which does nothing with --robot {options.robot}: it is for --robot {robot}")
    if options.velocity == "remote" and options.robot != "go2":
        raise ValueError(f"got --velocity remote; --robot {options.robot} has no remote")
    given: dict[str, Any] = {}
    if options.robot == "go2":
        if options.interface is None:
            print("no --interface given: looking on lo, for a simulator on this computer; a robot needs the name of its Ethernet")
        still = not (options.vx or options.vy or options.yaw)
        by_remote = options.velocity == "remote" or (options.velocity is None and still)
        given = {"config": with_gains_of(policy), "velocity_from": "remote" if by_remote else "api", "motion_switcher": not options.no_motion_switcher,
                 "silent_publishers": options.silent_publishers or 0, "log_path": options.log}
        given |= {name: getattr(options, name) for name in ("domain", "interface") if getattr(options, name) is not None}
    elif options.robot == "sim":
        given = {"config": with_gains_of(policy), "viewer": bool(options.viewer)}
    elif options.robot == "mock":
        given = {"config": with_gains_of(policy), "tensors": "numpy"}
    return make_robot(options.robot, **given)


class Decide:
    """The policy, with the keyboard's command, and a line of how it goes on a terminal."""

    def __init__(self, policy: Any, robot: Any, keyboard: Any = None):
        self._policy, self._robot, self._keyboard = policy, robot, keyboard
        self._shown_s = 0.0

    def __call__(self, observation: dict[str, Any]) -> Any:
        if self._keyboard is not None:
            self._robot.command(*self._keyboard.read())
        if sys.stdout.isatty() and time.monotonic() - self._shown_s > 0.5:
            self._shown_s = time.monotonic()
            vx, vy, yaw_rate = self._robot.state.velocity_command[0].tolist() if hasattr(self._robot, "state") else (0.0,) * 3
            print(f"\rvx {vx:+.2f} vy {vy:+.2f} m/s, yaw {yaw_rate:+.2f} rad/s  {getattr(self._robot, 'condition', '')}\x1b[K", end="", flush=True)
        return self._policy(observation)

    def reset(self) -> None:
        """Begin an episode."""
        self._policy.reset()


class Lead:
    """Passive, Stand, Walk: the remote's buttons lead from one to the other, and Enter in the terminal does where it is at hand.

    Start stands up, A walks, B comes back to standing, Start again lies down. L2+B damps in every state, by the sender's own rule. After
    a fault it connects anew and is Passive again. duration (s) of walking, where given, lies down and ends.
    """

    def __init__(self, robot: Any, session: Session, keyboard: Any, duration: float | None):
        self._robot, self._session, self._keyboard, self._duration = robot, session, keyboard, duration
        self._held = 0

    def run(self) -> None:
        """Until Ctrl-C, or until duration is over. Raises ConnectionError when the robot cannot be had in the first place."""
        self._robot.connect()
        while True:
            try:
                if self._stand_and_walk():
                    return
            except RuntimeError as error:
                self._say(f"Fault: {error}")
                self._robot.close()
                self._connect_again()

    def _stand_and_walk(self) -> bool:
        """Once from Passive to Passive. Returns whether that was all."""
        self._say("Passive: it is damped. Start on the remote, or Enter here, stands it up")
        self._wait_for("Start", "Enter")
        self._say("Standing up")
        self._robot.reset()
        while True:
            self._say("Stand: A or Enter walks, Start lies it down")
            pressed = self._wait_for("A", "Start", "Enter", while_=lambda: self._robot.is_standing)
            if not pressed & {"A", "Enter"}:
                break
            self._say("Walk: B or Enter stands, Start lies it down, L2+B damps")
            if "Start" in (ended := self._walk()):
                break
            if not ended:
                return True
        self._say("Lying down")
        self._robot.stop()
        return False

    def _walk(self) -> set[str]:
        """What ended it: buttons, Start for an empty battery too, or nothing for the end of the duration."""
        ended: set[str] = set()

        def until() -> bool:
            ended.update(self._pressed() & {"B", "Enter", "Start"})
            if self._robot.is_battery_empty:
                self._say(f"the battery is empty: {self._robot.condition}")
                ended.add("Start")
            return bool(ended)

        self._session.run(self._duration, until=until, finish=lambda: self._robot.reset() if ended and "Start" not in ended else self._robot.stop())
        return ended

    def _wait_for(self, *names: str, while_: Callable[[], bool] = lambda: True) -> set[str]:
        """Until one of the buttons is newly pressed, or while_ is no longer true: then nothing. Raises RuntimeError after a fault."""
        self._pressed()
        while True:
            self._robot.check()
            if not while_():
                return set()
            if pressed := self._pressed() & set(names):
                return pressed
            time.sleep(POLL_S)

    def _pressed(self) -> set[str]:
        """What was pressed since the last call: buttons that are down now and were not, and Enter."""
        from rfx.robots.go2.remote import BUTTONS

        now = self._robot.remote_buttons
        new, self._held = now & ~self._held, now
        pressed = {name for name, bit in BUTTONS.items() if new & bit}
        return pressed | {"Enter"} if self._keyboard is not None and self._keyboard.entered() else pressed

    def _connect_again(self) -> None:
        said = ""
        while True:
            try:
                return self._robot.connect()
            except ConnectionError as error:
                if str(error) != said:
                    said = str(error)
                    self._say(f"{said}; trying again, Ctrl-C ends")
                time.sleep(1.0)

    def _say(self, text: str) -> None:
        print(("\r\x1b[K" if sys.stdout.isatty() else "") + text, flush=True)


def timing(session: Session, robot: Any) -> str:
    """How well the last walk kept time, in a line."""
    stats = session.stats
    text = (f"{stats.iterations} steps, {stats.overruns} overruns, period {stats.mean_period_s * 1e3:.2f} ms, jitter "
            + ", ".join(f"{name} {getattr(stats, f'{name}_jitter_s') * 1e3:.2f}" for name in ("p50", "p95", "p99", "max")) + " ms")
    if hasattr(robot, "latency_s") and not np.isnan(robot.latency_s()[0]):
        text += "; LowState to LowCmd p50 {:.2f}, p99 {:.2f} ms".format(*(1e3 * value for value in robot.latency_s()))
    return text


def _has_terminal() -> bool:
    try:
        return os.isatty(sys.stdin.fileno())
    except (OSError, ValueError):  # there is no standard input
        return False
