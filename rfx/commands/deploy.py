"""`rfx deploy`: runs a policy folder on a robot, simulated or real."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.drivers.realtime import WALL_CLOCK, Clock
from rfx.system.screen import require_screen
from rfx.system.text import fit, printable

if TYPE_CHECKING:
    from rfx.drivers.route import LegResult

GO2_ONLY = ("interface", "domain", "log", "no_motion_switcher", "silent_publishers", "restore")
SIM_ONLY = ("viewer",)
AXES = {"vx": "vx", "vy": "vy", "yaw_rate": "yaw"}  # axes of a velocity command, and the options that fix them


def deploy(options: argparse.Namespace, clock: Clock = WALL_CLOCK) -> None:
    """Run a policy folder on a robot; an operator leads a real robot with its remote."""
    from rfx.loading.loaded_policy import load_policy

    check_options(options)
    if options.viewer:
        require_screen("--viewer", "leave it out, or drive the policy on a page with python -m train.play policy=PATH")
    policy = load_policy(options.path)
    if policy.robot_config is None:
        raise ValueError(f"this {policy.policy_type} does not say which robot it is for; save it with robot_config")
    check_velocity(options, trained_velocity(policy.training_info))
    if options.robot == "go2":
        _lead(policy, options)
    elif walks_route(options) and "velocity_command" in policy.robot_config.observation_terms:
        _show(policy, options)
    else:
        _run(policy, options, clock)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rfx deploy`."""
    parser.add_argument("path", help="a policy folder, hf://owner/name, or an .onnx file that rfx exported")
    parser.add_argument(
        "--robot", default="sim", help="go2, sim, mock, or the name of a registered driver (default: sim)"
    )
    parser.add_argument(
        "--duration", type=float, help="seconds, on a Go2 of walking (default: until Ctrl-C; sim: the route, once)"
    )
    parser.add_argument(
        "--velocity",
        choices=("fixed", "keyboard", "remote"),
        help="where the velocity command comes from (default: fixed where --vx, --vy or --yaw is given; else a Go2's remote, and sim walks a "
        "route: forward, turn, sideways, stand)",
    )
    parser.add_argument("--vx", type=float, help="velocity forward, m/s")
    parser.add_argument("--vy", type=float, help="velocity to the left, m/s")
    parser.add_argument("--yaw", type=float, help="yaw rate, rad/s")
    parser.add_argument("--viewer", action="store_true", help="sim: show the robot")
    add_network_arguments(parser)
    parser.add_argument("--log", help="go2: where its last seconds are written, and the whole run beside that")
    parser.add_argument("--no-motion-switcher", action="store_true", help="go2: for simulators on lo that have none")
    parser.add_argument(
        "--silent-publishers",
        type=int,
        default=0,
        help="go2: tolerate so many other publishers of rt/lowcmd while they are silent",
    )
    parser.add_argument(
        "--restore",
        nargs="?",
        const="",
        metavar="NAME",
        help="go2: at the end, have the robot's own controller take the motors again (default NAME: the one that let go)",
    )


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where a Go2 is on the network."""
    parser.add_argument(
        "--interface",
        help="go2: network interface, as `rfx interfaces` lists them; lo for a simulator (default: the one that leads "
        "to the robot)",
    )
    parser.add_argument("--domain", type=int, help="go2: DDS domain (default: 1 on lo, else 0)")


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for an option that does not apply to the chosen robot."""
    given = [
        name
        for robot, names in (("go2", GO2_ONLY), ("sim", SIM_ONLY))
        if options.robot != robot
        for name in names
        if getattr(options, name) not in (None, False, 0)
    ]
    if given:
        raise ValueError(
            f"got {', '.join('--' + name.replace('_', '-') for name in given)} with --robot {options.robot}, which has no such option"
        )
    if options.velocity == "remote" and options.robot != "go2":
        raise ValueError(
            f"got --velocity remote with --robot {options.robot}, which has no remote control: use keyboard, or --vx, --vy, --yaw"
        )
    velocity = [name for name in ("vx", "vy", "yaw") if getattr(options, name) is not None]
    if velocity and options.velocity in ("remote", "keyboard"):
        raise ValueError(f"got --{velocity[0]} with --velocity {options.velocity}; expected one or the other")
    if options.duration is not None and not options.duration > 0.0:
        raise ValueError(f"got --duration {options.duration:g}; expected more than 0")


def walks_route(options: argparse.Namespace) -> bool:
    """Whether the simulated robot walks the route; it does unless an option sets another velocity."""
    given = [options.velocity, options.vx, options.vy, options.yaw]
    return options.robot == "sim" and all(value is None for value in given)


def trained_velocity(training_info: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest vx, vy (m/s) and yaw rate (rad/s) that a policy was trained to follow, by name.

    Ranges that its folder does not record are left out.
    """
    env = training_info.get("env", training_info.get("task"))  # older folders, from before tasks had names, say `task`
    commands = env.get("commands") if isinstance(env, Mapping) else None
    found: dict[str, tuple[float, float]] = {}
    for parameters in commands.values() if isinstance(commands, Mapping) else ():
        for axis in AXES:
            match parameters.get(axis) if isinstance(parameters, Mapping) else None:
                case [int() | float() as low, int() | float() as high]:
                    found[axis] = low, high
    return found


def check_velocity(options: argparse.Namespace, trained: Mapping[str, tuple[float, float]]) -> None:
    """Raise ValueError for a fixed velocity outside the policy's training: nobody knows what the policy would do."""
    for axis, option in AXES.items():
        value, (low, high) = getattr(options, option), trained.get(axis, (-np.inf, np.inf))
        if value is not None and (value < min(low, 0.0) or value > max(high, 0.0)):
            raise ValueError(
                f"got --{option} {value:g}; expected {low:g} to {high:g}, which this policy was trained to follow"
            )


def go2_interface(options: argparse.Namespace) -> str:
    """Return the chosen network interface, or else the only one that leads to a robot, and print which."""
    from rfx.drivers.go2.wire.interfaces import robot_interface

    if options.interface is not None:
        return options.interface
    interface = robot_interface()
    print(f"using network interface {interface}, which leads to the robot", flush=True)
    return interface


def _run(policy: Any, options: argparse.Namespace, clock: Clock) -> None:
    """Run on a robot without an operator: begin at once, and end after options.duration."""
    from rfx.drivers.session import Session

    robot = _robot(policy, options)
    robot.command(*_fixed(options))
    decide = policy
    with ExitStack() as stack:
        if options.velocity == "keyboard":
            from rfx.drivers.keyboard import HELP, Keyboard

            keyboard = stack.enter_context(Keyboard())
            print(HELP)

            def decide(observation: dict[str, Any]) -> Any:
                velocity = keyboard.read()
                robot.command(*velocity)
                print(
                    "\r\x1b[K" + fit(["{:+.2f} {:+.2f} m/s".format(*velocity), f"{velocity[2]:+.2f} rad/s"]),
                    end="",
                    flush=True,
                )
                return policy(observation)

            decide.reset = policy.reset
            stack.callback(print)  # end the line of the velocity, so that later output begins on a new line
        stack.enter_context(robot)
        session = Session(robot, decide, rate_hz=robot.config.control_freq_hz, clock=clock)
        stack.callback(lambda: print(timing(session.stats, robot)))
        session.run(options.duration)


def _show(policy: Any, options: argparse.Namespace) -> None:
    """Run along a route in a simulator, in real time only if somebody watches.

    Raises RuntimeError for a policy that falls or does not walk.
    """
    from rfx.drivers.route import ROUTE, cut_route, walk

    robot = _robot(policy, options, realtime=options.viewer)
    legs = ROUTE if options.duration is None else cut_route(ROUTE, options.duration)
    results = []
    with robot:
        print(
            f"{printable(robot.config.name)} in MuJoCo; velocities are forward and to the left in m/s, and the turn in rad/s"
        )
        for result in walk(robot, policy, legs):
            results.append(result)
            print(describe_leg(result), flush=True)
    print(describe_walk(results))
    print(
        f"see it in MuJoCo's window, or on a page in the browser: rfx play policy={printable(shlex.quote(options.path))}"
    )
    if falls := sum(result.num_falls for result in results):
        raise RuntimeError(f"the policy fell {falls} time{'s' * (falls > 1)}: train it longer, or look with rfx play")
    if slow := [result.leg.name for result in results if not result.is_walk]:
        raise RuntimeError(
            f"the policy does not walk as told ({', '.join(slow)}): train it longer, or look with rfx play"
        )


def describe_leg(result: LegResult) -> str:
    """Describe a leg of the route in one line: commanded and reached velocity."""
    line = f"{result.leg.name:9} {result.leg.duration_s:3g} s  commanded {_velocity(result.leg.command)}"
    if result.num_settled:
        line += f"  reached {_velocity(result.reached)}"
    return line + (f"  FELL {result.num_falls} times" if result.num_falls else "")


def describe_walk(results: Sequence[LegResult]) -> str:
    """Describe a whole route in one line: steps, falls and mean errors."""
    line = f"{sum(result.num_steps for result in results)} steps, {sum(result.num_falls for result in results)} falls"
    settled = [result for result in results if result.num_settled]
    if settled:
        error = np.average([result.error for result in settled], axis=0, weights=[r.num_settled for r in settled])
        line += "; mean errors {:.3f} m/s forward, {:.3f} m/s sideways, {:.3f} rad/s".format(*error)
    return line


def _velocity(values: Iterable[float]) -> str:
    return " ".join(f"{value:+.2f}" for value in values)


def _lead(policy: Any, options: argparse.Namespace) -> None:
    """Run on a Go2, led by its remote or the terminal."""
    from rfx.drivers.go2.driver.driver import Go2
    from rfx.drivers.go2.operator.deployment import Deployment
    from rfx.drivers.keyboard import HELP, Keyboard

    fixed = options.velocity == "fixed" or (options.velocity is None and any(_fixed(options)))
    robot = Go2(
        policy.robot_config,
        interface=go2_interface(options),
        domain=options.domain,
        log_path=options.log,
        restore=options.restore,
        velocity_from="remote" if not fixed and options.velocity != "keyboard" else "api",
        motion_switcher=not options.no_motion_switcher,
        silent_publishers=options.silent_publishers,
    )
    # If this process were stopped, or killed with its terminal, the robot would drop. It lies down instead.
    for number in (signal.SIGTSTP, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with ExitStack() as stack:
        keyboard = None
        if options.velocity == "keyboard" or sys.stdin.isatty():
            keyboard = stack.enter_context(Keyboard(limits=robot.max_velocity_command))
        if options.velocity == "keyboard":
            print(HELP)
        stack.callback(lambda: print(_ending(robot)))
        deployment = Deployment(robot, policy, velocity=(lambda: _fixed(options)) if fixed else None, keyboard=keyboard)
        stack.callback(lambda: print(timing(deployment.rhythm.stats, robot)))
        stack.enter_context(robot)
        deployment.run(options.duration)


def _ending(robot: Any) -> str:
    lines = [f"log: {robot.log_path}, and beside it the whole run"]
    if robot.left_without:
        lines.append(
            f"the robot lies without its own controller {robot.left_without!r}: --restore selects it at the end of a run, or Unitree's app, "
            "or a restart of the robot"
        )
    return "\n".join(lines)


def _fixed(options: argparse.Namespace) -> tuple[float, float, float]:
    return options.vx or 0.0, options.vy or 0.0, options.yaw or 0.0


def _robot(policy: Any, options: argparse.Namespace, **given: Any) -> Any:
    """Make the chosen robot, with the policy's own gains and pose if possible. given are more options for it."""
    from rfx.drivers.robot import make_robot

    if options.robot == "sim":
        given |= {"config": policy.robot_config, "viewer": options.viewer}
    elif options.robot == "mock":
        given |= {"config": policy.robot_config, "tensors": "numpy"}
    robot = make_robot(options.robot, **given)
    policy.check_robot(robot.config)
    return robot


def timing(stats: Any, robot: Any) -> str:
    """Describe the timing of a run in one line."""
    text = (
        f"{stats.iterations} steps, {stats.overruns} overruns, period {stats.mean_period_s * 1e3:.2f} ms, jitter "
        + ", ".join(f"{name} {getattr(stats, f'{name}_jitter_s') * 1e3:.2f}" for name in ("p50", "p95", "p99", "max"))
        + " ms"
    )
    if hasattr(robot, "latency_s") and not np.isnan(robot.latency_s()[0]):
        text += "; LowState to LowCmd p50 {:.2f}, p99 {:.2f} ms".format(*(1e3 * value for value in robot.latency_s()))
    return text
