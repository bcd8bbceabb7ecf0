"""The command line: `rfx inspect`, `rfx check-robot`, `rfx deploy`, `rfx emulate-go2`, `rfx replay`."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from ctypes.util import find_library
from typing import Any

import numpy as np

ERRORS = (OSError, ValueError, RuntimeError, ImportError, TypeError, ArithmeticError)  # what wrong input or a wrong machine leads to


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, also after Ctrl-C, or 1 with one line of what was wrong."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("DEV", "CPU")  # tinygrad, which reads this when it is imported, would look for GPUs: 0.3 s for one small network
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run ends as one that was interrupted: damped
        options.command(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except ERRORS as error:
        print(f"rfx {options.name}: " + " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


def inspect(options: argparse.Namespace) -> None:
    """What a policy folder says of itself."""
    from rfx.policy_folder import inspect_policy

    info = inspect_policy(options.path)
    count = sum(math.prod(shape) for shape in info.weight_shapes.values())
    print(f"{info.policy_type}, {count:,} weights, saved by rfx {info.rfx_version}")
    print("arguments: " + (", ".join(f"{key}={value}" for key, value in info.arguments.items()) or "none"))
    robot = info.robot_config
    if robot is None:
        print("robot: none said")
    else:
        print(f"robot: {robot.name}, {len(robot.joints)} joints, {robot.control_freq_hz:g} Hz, action scale {robot.action_scale.min():g} to {robot.action_scale.max():g} rad")
        frames = f", the last {info.arguments['history']} of them" if info.arguments.get("history", 1) != 1 else ""
        print(f"observation: {robot.state_dim} wide{frames}: " + ", ".join(robot.observation_terms))
    print("normalizer: " + (f"from {info.normalizer.count:,.0f} observations" if info.normalizer is not None else "none"))
    for key, value in info.training_info.items():
        print(f"training {key}: {value}")


def check_robot(options: argparse.Namespace) -> None:
    """What is wrong with a robot's two files, robot.yaml and MJCF, and how to mend it."""
    if options.picture and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) and find_library("EGL"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported, which then draws without a screen
    from rich.console import Console

    from rfx.robots.check.show import report

    report(options.robot, options.picture, Console())


def deploy(options: argparse.Namespace) -> None:
    """Run a policy folder on a robot."""
    from rfx.loaded_policy import load_policy
    from rfx.session import Session

    policy = load_policy(options.path)
    if policy.robot_config is None:
        raise ValueError(f"{options.path} does not say which robot it is for: save it with robot_config")
    robot = _robot(options, policy.robot_config)
    policy.check_robot(robot.config)
    rate_hz = robot.config.control_freq_hz
    if options.rate_hz not in (None, rate_hz):
        raise ValueError(f"got --rate-hz {options.rate_hz:g}; the policy was trained for {rate_hz:g} Hz, and its gait clock with it")
    robot.command(options.vx, options.vy, options.yaw)
    with ExitStack() as stack:
        decide = policy
        if options.velocity == "keyboard":
            from rfx.robots.keyboard import HELP, Keyboard

            keyboard = stack.enter_context(Keyboard())
            print(HELP)

            def decide(observation: dict[str, Any]) -> Any:
                robot.command(*keyboard.read())
                return policy(observation)

            decide.reset = policy.reset

        stack.enter_context(robot)
        session = Session(robot, decide, rate_hz=rate_hz)
        stack.callback(lambda: print(_timing(session, robot)))
        session.run(options.duration)


def emulate_go2(options: argparse.Namespace) -> None:
    """A MuJoCo Go2 behind the real DDS topics."""
    from rfx.robots.go2.emulator import run

    run(options.domain, options.interface, sport=not options.no_sport, viewer=options.viewer)


def replay(options: argparse.Namespace) -> None:
    """What a Go2's log of its last seconds says."""
    from rfx.robots.go2.log import Recording
    from rfx.robots.go2.replay import describe, recompute, show

    recording = Recording.load(options.path)
    print(describe(recording))
    if options.policy is not None:
        print(recompute(recording, options.policy))
    if options.viewer:
        show(recording)


def _robot(options: argparse.Namespace, config: Any) -> Any:
    """The robot asked for, with the options that it has; a simulated one is that of config."""
    from rfx.robots.robot import make_robot

    given: dict[str, Any] = {}
    if options.robot == "go2":
        given = {"velocity_from": "remote" if options.velocity == "remote" else "api", "motion_switcher": not options.no_motion_switcher,
                 "silent_publishers": options.silent_publishers, "log_path": options.log}
        given |= {"domain": options.domain} if options.domain is not None else {}
        given |= {"interface": options.interface} if options.interface is not None else {}
    elif options.robot == "sim":
        given = {"config": config, "viewer": options.viewer}
    elif options.robot == "mock":
        given = {"config": config, "tensors": "numpy"}
    return make_robot(options.robot, **given)


def _timing(session: Any, robot: Any) -> str:
    stats = session.stats
    text = (f"{stats.iterations} steps, {stats.overruns} overruns, period {stats.mean_period_s * 1e3:.2f} ms, jitter "
            + ", ".join(f"{name} {getattr(stats, f'{name}_jitter_s') * 1e3:.2f}" for name in ("p50", "p95", "p99", "max")) + " ms")
    if hasattr(robot, "latency_s") and not np.isnan(robot.latency_s()[0]):
        text += "; LowState to LowCmd p50 {:.2f}, p99 {:.2f} ms".format(*(1e3 * value for value in robot.latency_s()))
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfx", description="Run policies on a Unitree Go2, simulated or real.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, command: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        return sub

    sub = add("inspect", inspect)
    sub.add_argument("path", help="a policy folder, or hf://owner/name")

    sub = add("check-robot", check_robot)
    sub.add_argument("robot", help="the folder of its robot.yaml, or the name of a robot that rfx has")
    sub.add_argument("--picture", help="where a picture of it is written, as PNG")

    sub = add("deploy", deploy)
    sub.add_argument("path", help="a policy folder, or hf://owner/name")
    sub.add_argument("--robot", default="sim", help="go2, sim, mock, or the name of a registered driver (default: sim)")
    sub.add_argument("--interface", help="network interface of the Go2: its Ethernet, or lo for a simulator (default: lo)")
    sub.add_argument("--domain", type=int, help="DDS domain (default: 1 on lo, else 0)")
    sub.add_argument("--rate-hz", type=float, help="control rate; must be the policy's, which is the default")
    sub.add_argument("--duration", type=float, help="seconds (default: until Ctrl-C)")
    sub.add_argument("--vx", type=float, default=0.0, help="velocity forward, m/s")
    sub.add_argument("--vy", type=float, default=0.0, help="velocity to the left, m/s")
    sub.add_argument("--yaw", type=float, default=0.0, help="yaw rate, rad/s")
    sub.add_argument("--velocity", choices=("fixed", "keyboard", "remote"), default="fixed", help="where the velocity command comes from")
    sub.add_argument("--log", help="where the Go2's last seconds are written")
    sub.add_argument("--viewer", action="store_true", help="show the simulated robot")
    sub.add_argument("--no-motion-switcher", action="store_true", help="for simulators on lo that have none")
    sub.add_argument("--silent-publishers", type=int, default=0, help="tolerate so many other publishers of rt/lowcmd while they are silent")

    sub = add("emulate-go2", emulate_go2)
    sub.add_argument("--domain", type=int, default=1, help="DDS domain (default: 1)")
    sub.add_argument("--interface", default="lo", help="network interface (default: lo)")
    sub.add_argument("--viewer", action="store_true", help="show the robot")
    sub.add_argument("--no-sport", action="store_true", help="with the robot's own controller released already")

    sub = add("replay", replay)
    sub.add_argument("path", help="a log that a Go2 run wrote")
    sub.add_argument("--policy", help="a policy folder, to compute the recorded actions again")
    sub.add_argument("--viewer", action="store_true", help="show the recorded motion")
    return parser


if __name__ == "__main__":
    sys.exit(main())
