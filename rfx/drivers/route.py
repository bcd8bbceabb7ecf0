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

SETTLE_S = 1.0  # after a command changes, as in the evaluations of training: what comes before counts for no error
DOWN_HEIGHT = 0.5  # of the standing height: a lower base has fallen
DOWN_GRAVITY_Z = -0.5  # of projected gravity: a base that is tilted by more than 60 degrees has fallen
WALKING_SHARE = 0.5  # of the commanded speed: a robot that reaches less does not walk


@dataclass(frozen=True, kw_only=True)
class Leg:
    """A part of a route: one velocity command, vx, vy m/s, yaw rate rad/s, for duration_s."""

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
    """How a robot walked a leg.

    Velocities and errors over the time from SETTLE_S on, base frame, m/s and rad/s; nan for a shorter leg.
    """

    leg: Leg
    num_steps: int
    num_settled: int  # steps that reached and error are means of
    reached: Array  # (3,), mean velocity
    error: Array  # (3,), mean absolute difference to the command
    num_falls: int

    @property
    def is_walk(self) -> bool:
        """Whether the robot reached at least half of the speed that the leg asked for; True where it asked for none, or
        was too short.
        """
        command = np.array(self.leg.command)
        return not self.reached @ command < WALKING_SHARE * (command @ command)


def cut_route(route: Sequence[Leg], duration_s: float) -> Iterator[Leg]:
    """The legs of a route, again and again, until duration_s is over; the last of them is cut."""
    for leg in itertools.cycle(route):
        if duration_s <= 1e-9:
            return
        length_s = min(leg.duration_s, duration_s)
        yield Leg(name=leg.name, command=leg.command, duration_s=length_s)
        duration_s -= length_s


def walk(robot: SimRobot, policy: PolicyFunction, legs: Iterator[Leg] | Sequence[Leg]) -> Iterator[LegResult]:
    """Let a policy walk one leg after the other, yielding each result at its end.

    A robot that falls is put on its feet, and goes on.

    Time is the simulation's: a robot that is not paced walks as fast as it is computed. Raises as the robot and the
    policy do.
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
    """Velocity of the base: vx, vy m/s and yaw rate rad/s, base frame. (3,)."""
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, robot.physics.base_quaternion)
    linear = rotation.reshape(3, 3).T @ robot.physics.base_linear_velocity_w
    return np.array([linear[0], linear[1], robot.physics.base_angular_velocity_b[2]])


def _reset(robot: SimRobot, policy: PolicyFunction) -> None:
    robot.reset()
    if reset := getattr(policy, "reset", None):
        reset()
