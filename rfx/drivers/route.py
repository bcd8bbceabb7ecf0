"""A short walk that shows what a policy can do, in a simulated robot: forward, turn, sideways, stand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from rfx.drivers.session import PolicyFunction
from rfx.drivers.sim import SimRobot
from rfx.robot.state import Array

SETTLE_S = 1.0  # errors count from this long after a change of command, as in the evaluations of training
DOWN_HEIGHT = 0.5  # share of the standing height; a robot whose base is lower has fallen
DOWN_GRAVITY_Z = -0.5  # z of projected gravity; a robot that is tilted by more than 60 degrees has fallen
WALKING_SHARE = 0.5  # share of the commanded speed; a slower robot does not walk


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A part of a route: one velocity command (vx, vy in m/s, yaw rate in rad/s) for duration_s."""

    name: str
    command: tuple[float, float, float]
    duration_s: float


ROUTE = (
    Leg(name="forward", command=(0.6, 0.0, 0.0), duration_s=4.0),
    Leg(name="turn", command=(0.0, 0.0, 0.6), duration_s=4.0),
    Leg(name="sideways", command=(0.0, 0.3, 0.0), duration_s=4.0),
    Leg(name="stand", command=(0.0, 0.0, 0.0), duration_s=3.0),
)


@dataclass(frozen=True, kw_only=True)
class LegResult:
    """Result of one leg of a route.

    Velocities and errors are in the base frame, m/s and rad/s, over the time after SETTLE_S; nan for a shorter leg.
    """

    leg: Leg
    num_steps: int
    num_settled: int  # number of steps in the means reached and error
    reached: Array  # (3,), mean velocity
    error: Array  # (3,), mean absolute difference to the command
    num_falls: int

    @property
    def is_walk(self) -> bool:
        """Whether the robot reached at least half of the commanded speed.

        True for a leg that commands no speed or is too short.
        """
        command = np.array(self.leg.command)
        return not self.reached @ command < WALKING_SHARE * (command @ command)


def cut_route(route: Sequence[Leg], duration_s: float) -> Iterator[Leg]:
    """Repeat the legs of a route until duration_s is over; the last leg is cut short."""
    for leg in itertools.cycle(route):
        if duration_s <= 1e-9:
            return
        length_s = min(leg.duration_s, duration_s)
        yield Leg(name=leg.name, command=leg.command, duration_s=length_s)
        duration_s -= length_s


def walk(robot: SimRobot, policy: PolicyFunction, legs: Iterator[Leg] | Sequence[Leg]) -> Iterator[LegResult]:
    """Let a policy walk one leg after the other, and yield the result at the end of each leg.

    A robot that falls is put back on its feet and goes on.

    Time is simulated time: without pacing, the robot walks as fast as the computer allows. Raises what the robot and
    the policy raise.
    """
    _reset(robot, policy)
    least_height = DOWN_HEIGHT * robot.physics.base_position_w[2]
    for leg in legs:
        robot.command(*leg.command)
        command = robot.state.velocity_command[0].copy()
        velocities, falls = [], 0
        for step in range(round(leg.duration_s * robot.config.control_freq_hz)):
            robot.act(policy(robot.observe()))
            if step >= SETTLE_S * robot.config.control_freq_hz:
                velocities.append(base_velocity(robot))
            if (
                robot.state.projected_gravity_b[0, 2] > DOWN_GRAVITY_Z
                or robot.physics.base_position_w[2] < least_height
            ):
                falls += 1
                _reset(robot, policy)
        settled = np.array(velocities) if velocities else np.full((1, 3), np.nan)
        yield LegResult(
            leg=leg,
            num_steps=round(leg.duration_s * robot.config.control_freq_hz),
            num_settled=len(velocities),
            reached=settled.mean(axis=0),
            error=np.abs(settled - command).mean(axis=0),
            num_falls=falls,
        )


def base_velocity(robot: SimRobot) -> Array:
    """Velocity of the base in its own frame: vx, vy in m/s and yaw rate in rad/s. (3,)."""
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, robot.physics.base_quaternion)
    linear = rotation.reshape(3, 3).T @ robot.physics.base_linear_velocity_w
    return np.array([linear[0], linear[1], robot.physics.base_angular_velocity_b[2]])


def _reset(robot: SimRobot, policy: PolicyFunction) -> None:
    robot.reset()
    if reset := getattr(policy, "reset", None):
        reset()
