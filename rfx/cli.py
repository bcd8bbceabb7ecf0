"""The command line: `rfx inspect`, `rfx deploy`, `rfx emulate-go2`, `rfx replay`."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

ERRORS = (OSError, ValueError, RuntimeError, ImportError, TypeError, ArithmeticError)  # what wrong input or a wrong machine leads to


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, also after Ctrl-C, or 1 with one line of what was wrong."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("DEV", "CPU")  # tinygrad, which reads this when it is imported, would look for GPUs: 0.3 s for one small network
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):  # a terminated run, or one whose terminal is closed, ends as one that was interrupted
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)
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
        scales = " to ".join(f"{scale:g}" for scale in sorted({robot.action_scale.min(), robot.action_scale.max()}))
        print(f"robot: {robot.name}, {len(robot.joints)} joints, {robot.control_freq_hz:g} Hz, action scale {scales} rad")
        frames = f", the last {info.arguments['history']} of them" if info.arguments.get("history", 1) != 1 else ""
        print(f"observation: {robot.state_dim} wide{frames}: " + ", ".join(robot.observation_terms))
    print("normalizer: " + (f"from {info.normalizer.count:,.0f} observations" if info.normalizer is not None else "none"))
    for key, value in info.training_info.items():
        print(f"training {key}: {value}")


def deploy(options: argparse.Namespace) -> None:
    """Run a policy folder on a robot."""
    from rfx.deploy import deploy

    deploy(options)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfx", description="Run policies on a Unitree Go2, simulated or real.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, command: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        return sub

    sub = add("inspect", inspect)
    sub.add_argument("path", help="a policy folder, or hf://owner/name")

    sub = add("deploy", deploy)
    sub.add_argument("path", help="a policy folder, or hf://owner/name")
    sub.add_argument("--robot", default="sim", help="go2, sim, mock, or the name of a registered driver (default: sim)")
    sub.add_argument("--interface", help="network interface of the Go2: its Ethernet, or lo for a simulator (default: lo)")
    sub.add_argument("--domain", type=int, help="DDS domain (default: 1 on lo, else 0)")
    sub.add_argument("--duration", type=float, help="seconds of walking (default: until Ctrl-C)")
    sub.add_argument("--vx", type=float, default=0.0, help="velocity forward, m/s")
    sub.add_argument("--vy", type=float, default=0.0, help="velocity to the left, m/s")
    sub.add_argument("--yaw", type=float, default=0.0, help="yaw rate, rad/s")
    sub.add_argument("--velocity", choices=("fixed", "keyboard", "remote"),
                     help="where the velocity command comes from (default: the remote of a go2, unless one is given)")
    sub.add_argument("--log", help="where the Go2's last seconds are written")
    sub.add_argument("--viewer", action="store_true", default=None, help="show the simulated robot")
    sub.add_argument("--no-motion-switcher", action="store_true", default=None, help="for simulators on lo that have none")
    sub.add_argument("--silent-publishers", type=int, help="tolerate so many other publishers of rt/lowcmd while they are silent")

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
