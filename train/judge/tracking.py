"""Reached against commanded velocity, over the range of each axis.

Each command is held for some time. A mean over all commands would hide at which commands the policy errs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.legged.env import LeggedEnv, velocity_error
from rfx.robot.state import Array
from train.judge.bounds import NORMAL_95
from train.judge.play import Act, play

AXES = {"vx": "m/s", "vy": "m/s", "yaw_rate": "rad/s"}
POINTS = 7  # number of commands over each axis' range; the other axes are commanded to stand still
HOLD_S, SETTLE_S = 3.0, 1.0  # how long each command is held; how long a robot has to reach it


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Velocities reached at commands along one axis, (P,) each, in its unit. NaN if no robot stood for a second."""

    command: Array
    reached: Array  # mean over robots and time
    standard_error: Array  # standard error of reached, between robots; NaN for fewer than two

    @property
    def worst(self) -> float:
        """The largest difference between reached and commanded velocity, over all commands that were measured."""
        return _largest(np.abs(self.reached - self.command))

    @property
    def worst_upper_95(self) -> float:
        """95% confidence bound of the largest difference: at each command the mean plus 1.64 standard errors."""
        return _largest(np.abs(self.reached - self.command) + NORMAL_95 * self.standard_error)

    def to_dict(self) -> dict[str, list[float | None]]:
        """As JSON types; a figure that could not be measured is None."""
        return {
            name: [float(value) if math.isfinite(value) else None for value in getattr(self, name)]
            for name in ("command", "reached", "standard_error")
        }


def track(
    act: Act, env: LeggedEnv, *, seed: int, duration_s: float = HOLD_S, after_step: Callable[[], None] | None = None
) -> dict[str, Curve]:
    """Curves by axis, for the axes whose range the env's commands give.

    The robots share the commands. There are no pushes, because pushes come later than 3 s. With fewer than 21 robots
    there are fewer commands; the result is empty for fewer robots than axes. after_step, if given, is called after
    every step.
    """
    ranges = command_ranges(env.config.commands)
    num_points = min(POINTS, env.num_envs // max(1, len(ranges)))
    if not ranges or not num_points:
        return {}
    points = np.concatenate([_points(axis, low, high, num_points) for axis, (low, high) in ranges.items()])
    point = np.arange(env.num_envs) % len(points)  # command index of each robot
    totals, samples, command = np.zeros((env.num_envs, 3)), np.zeros(env.num_envs), points[point]
    for _ in play(act, env, seed=seed, duration_s=min(duration_s, HOLD_S), pushes=False):
        settled = env.state.step > SETTLE_S / env.step_s
        totals += (velocity_error(env.state) + env.state.robot.velocity_command) * settled[:, None]
        samples += settled
        env.state.robot.velocity_command[...] = command  # also for robots that restarted, one control step later
        if after_step:
            after_step()
    reached = totals / np.where(samples > 0, samples, np.nan)[:, None]  # mean of each robot
    curves = {}
    for index, axis in enumerate(ranges):
        column, rows = list(AXES).index(axis), range(index * num_points, (index + 1) * num_points)
        means, errors = zip(*(_mean(reached[point == row, column]) for row in rows))
        curves[axis] = Curve(
            command=points[list(rows), column].astype(float), reached=np.array(means), standard_error=np.array(errors)
        )
    return curves


def command_ranges(commands: Any) -> dict[str, tuple[float, float]]:
    """Lowest and highest command of each axis that has a range in the task's one command term."""
    (parameters,) = commands.values()
    return {
        axis: tuple(parameters[axis])
        for axis in AXES
        if isinstance(parameters.get(axis), (list, tuple)) and len(parameters[axis]) == 2
    }


def _points(axis: str, low: float, high: float, num: int) -> Array:
    """num commands (num, 3) over the range of one axis; the other axes are 0."""
    points = np.zeros((num, 3), np.float32)
    points[:, list(AXES).index(axis)] = np.linspace(low, high, num)
    return points


def _mean(values: Array) -> tuple[float, float]:
    """Mean of the finite values, and its standard error."""
    values = values[np.isfinite(values)]
    return (
        float(values.mean()) if len(values) else math.nan,
        float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan,
    )


def _largest(values: Array) -> float:
    values = values[np.isfinite(values)]
    return float(values.max()) if len(values) else math.nan
