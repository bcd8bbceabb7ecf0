"""The command line of rfx.

`rfx inspect`, `check-robot`, `export`, `push`, `deploy`, `preflight`, `interfaces`, `emulate-go2`, `replay`.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

import rfx
from rfx.commands.deploy import add_arguments, add_network_arguments, deploy, go2_interface
from rfx.settings.terms import is_foreign, search_working_directory, top_module
from rfx.system.extras import mend
from rfx.system.screen import draw_without_screen, require_screen
from rfx.system.text import printable

COMMANDS = "rfx.commands"  # group of entry points for the trainer's commands
# Wrong input, or a machine that lacks something, raises one of these.
ERRORS = (OSError, ValueError, RuntimeError, ImportError, TypeError, ArithmeticError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit status: 0 on success or after Ctrl-C, 1 after an error, 2 if an extra is missing. An error is told
    in one line.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and (others := entry_points(group=COMMANDS, name=arguments[0])):
        next(iter(others)).load()(*arguments[:1], arguments[1:])
        return 0
    options = _parser().parse_args(arguments)
    search_working_directory()
    try:
        # A terminated run ends like an interrupted one: the robot is damped.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        options.command(options)
    except KeyboardInterrupt:
        # Everything is closed by now. A second signal would only add a traceback to this line.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        print("interrupted", file=sys.stderr)
    except ERRORS as error:
        wanting = mend(error)
        print(f"rfx {options.name}: " + printable(" ".join((wanting or str(error)).split())), file=sys.stderr)
        return 2 if wanting else 1
    return 0


def inspect(options: argparse.Namespace) -> None:
    """Print what a policy folder says about itself."""
    from rfx.policy.folder import inspect_policy

    info = inspect_policy(options.path)
    count = sum(math.prod(shape) for shape in info.weight_shapes.values())
    policy_type = f"{info.module}:{info.policy_type}" if info.module else info.policy_type
    lines = [
        f"{policy_type}, {count:,} weights, saved by rfx {info.rfx_version}",
        "arguments: " + (", ".join(f"{key}={value}" for key, value in info.arguments.items()) or "none"),
    ]
    robot = info.robot_config
    if robot is None:
        lines.append("robot: none said")
    else:
        lines.append(
            f"robot: {robot.name}, {len(robot.joints)} joints, {robot.control_freq_hz:g} Hz, action scale "
            f"{robot.action_scale.min():g} to {robot.action_scale.max():g} rad"
        )
        frames = f", the last {info.arguments['history']} of them" if info.arguments.get("history", 1) != 1 else ""
        lines.append(f"observation: {robot.state_dim} wide{frames}: " + ", ".join(robot.observation_terms))
        if foreign := [name for name in robot.observation_terms if is_foreign(name)]:
            lines.append(f"needs on Python's path: {', '.join(sorted({top_module(name) for name in foreign}))}")
    lines.append(
        "normalizer: " + (f"from {info.normalizer.count:,.0f} observations" if info.normalizer is not None else "none")
    )
    lines += [f"training {key}: {value}" for key, value in info.training_info.items()]
    for line in lines:
        say(line)


def export(options: argparse.Namespace) -> None:
    """Write a policy for other runtimes.

    The result is an ONNX file with the normalizer inside, or the folder that Unitree's C++ deployment takes.
    """
    if options.onnx is None and options.unitree is None:
        raise ValueError("got nothing to write; expected --onnx, --unitree FOLDER, or both")
    if options.onnx is not None:
        from rfx.export.to_onnx import export_onnx
        from rfx.policy.folder import inside_run, inspect_policy

        path = export_onnx(options.path, options.onnx or beside(inside_run(options.path), ".onnx"))
        robot = inspect_policy(options.path).robot_config
        print(f"exported: {path}" + (f", which `rfx deploy {path}` runs too" if robot else ""))
    if options.unitree is not None:
        from rfx.export.to_unitree import ONNX, SETTINGS, export_unitree

        print(f"exported: {ONNX} and {SETTINGS} in {export_unitree(options.path, options.unitree)}")


def push(options: argparse.Namespace) -> None:
    """Upload a policy folder to the Hugging Face Hub, with a page written from the folder's contents."""
    from rfx.commands.model_card import card_files
    from rfx.policy.folder import push_policy
    from rfx.policy.hub import check_repo_id

    check_repo_id(options.repository)
    draw_without_screen()
    card = (
        {}
        if options.no_card
        else card_files(options.path, options.repository, lambda note: print(printable(note), file=sys.stderr))
    )
    source = push_policy(
        options.path, options.repository, private=options.private, commit_message=options.message, card=card
    )
    print(f"pushed: {source}")


def check_robot(options: argparse.Namespace) -> None:
    """Print what is wrong with a robot's two files, robot.yaml and MJCF, and how to mend it."""
    if options.picture:
        draw_without_screen()
    from rich.console import Console

    from rfx.check.show import report

    report(options.robot, options.picture, Console())


def preflight(options: argparse.Namespace) -> None:
    """Check everything that can be checked before a Go2 moves, without any command to it."""
    from rfx.drivers.go2.operator.preflight import run

    interface = go2_interface(options)
    if not run(interface, options.domain if options.domain is not None else int(interface == "lo"), options.path, say):
        raise ValueError("not ready: see what is marked FAULT above")


def interfaces(options: argparse.Namespace) -> None:
    """Print this computer's network interfaces; the interface that leads to a Go2 comes first."""
    from rfx.drivers.go2.wire.interfaces import interfaces as found

    for interface in found():
        print(interface.describe())


def emulate_go2(options: argparse.Namespace) -> None:
    """Run a MuJoCo Go2 behind the real DDS topics."""
    if options.viewer:
        require_screen("--viewer", "leave it out")
    from rfx.drivers.go2.emulator.emulator import run

    run(options.domain, options.interface, sport=not options.no_sport, viewer=options.viewer)


def replay(options: argparse.Namespace) -> None:
    """Print what a Go2's log of its last seconds says."""
    if options.viewer:
        require_screen("--viewer", "leave it out, or plot with --plot FILE")
    from rfx.drivers.go2.operator.replay import describe, plot, recompute, show
    from rfx.drivers.go2.rules.log import Recording

    recording = Recording.load(options.path)
    for line in describe(recording).splitlines():
        say(line)
    if options.policy is not None:
        print(recompute(recording, options.policy))
    if options.plot is not None:
        print(f"plotted: {plot(recording, options.plot)}")
    if options.viewer:
        show(recording)


def say(line: str) -> None:
    """Print a line with text from a policy, a log or the hub, without control codes that a terminal would obey."""
    print(printable(line), flush=True)


def beside(source: str, suffix: str) -> str:
    """Name of a file beside the policy folder source, or in the current folder for a policy from the hub."""
    source = (
        source.rstrip("/").partition("@")[0].rpartition("/")[2] if source.startswith("hf://") else source.rstrip("/")
    )
    return source.removesuffix(".safetensors") + suffix


def _others() -> str:
    """Text of the help about commands that take their own settings."""
    return "With settings of their own: " + ", ".join(sorted(entry.name for entry in entry_points(group=COMMANDS)))


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the argument parser of each of these commands, by name."""
    return next(action.choices for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rfx",
        description="Train legged robots to walk, and run their policies, simulated or real.",
        epilog=_others(),
    )
    parser.add_argument("--version", action="version", version=f"rfx {rfx.__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, command: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        return sub

    sub = add("inspect", inspect)
    sub.add_argument("path", help="a policy folder, hf://owner/name, or an .onnx file that rfx exported")

    sub = add("export", export)
    sub.add_argument("path", help="a policy folder, or hf://owner/name")
    sub.add_argument(
        "--onnx", nargs="?", const="", metavar="FILE", help="as ONNX (default FILE: beside the folder, PATH.onnx)"
    )
    sub.add_argument(
        "--unitree",
        metavar="FOLDER",
        help="as unitree_rl_lab and unitree_rl_mjlab deploy it: exported/policy.onnx, params/deploy.yaml",
    )

    sub = add("push", push)
    sub.add_argument("path", help="a policy folder")
    sub.add_argument("repository", help="owner/name, made if it is not there")
    sub.add_argument("--private", action="store_true", help="if it is made, only you can see it")
    sub.add_argument("--message", default="Policy saved by rfx", help="of the commit")
    sub.add_argument("--no-card", action="store_true", help="leave the page there as it is: upload the policy alone")

    sub = add("check-robot", check_robot)
    sub.add_argument("robot", help="the folder of its robot.yaml, or the name of a robot that rfx has")
    sub.add_argument("--picture", help="where a picture of it is written, as PNG")

    add_arguments(add("deploy", deploy))

    sub = add("preflight", preflight)
    sub.add_argument("path", nargs="?", help="a policy folder, or .onnx file, that shall run on it")
    sub.add_argument("--robot", choices=("go2",), default="go2", help="which robot (default: go2)")
    add_network_arguments(sub)

    add("interfaces", interfaces)

    sub = add("emulate-go2", emulate_go2)
    sub.add_argument("--domain", type=int, default=1, help="DDS domain (default: 1)")
    sub.add_argument("--interface", default="lo", help="network interface (default: lo)")
    sub.add_argument("--viewer", action="store_true", help="show the robot")
    sub.add_argument("--no-sport", action="store_true", help="with the robot's own controller released already")

    sub = add("replay", replay)
    sub.add_argument("path", help="a log that a Go2 run wrote")
    sub.add_argument("--policy", help="a policy folder, to compute the recorded actions again")
    sub.add_argument("--plot", metavar="FILE", help="plot it into a picture, such as run.png")
    sub.add_argument("--viewer", action="store_true", help="show the recorded motion")
    return parser


if __name__ == "__main__":
    sys.exit(main())
