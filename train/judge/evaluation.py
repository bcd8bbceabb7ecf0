"""Measures how well a policy walks: deterministic play of seeded commands, under the conditions of its environment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.legged.env import LeggedEnv, velocity_error
from envs.legged.metrics import ERRORS
from envs.legged.state import SimState
from rfx.robot.state import Array
from train.judge.bounds import rate_upper, ratio_upper
from train.judge.play import EPISODE_S, Act, play
from train.judge.tracking import Curve, track
from train.task.task import Figure, Judgement

GRAVITY_M_S2 = 9.81
SETTLE_S = 1.0  # time after a command change or the start of an episode before errors count
FALL_WEIGHT = 2.0  # one fall per episode counts as much as errors of 2 m/s in total
FIGURES = (
    Figure(name="falls_per_episode", label="falls", unit="per 20 s episode", main=True),
    Figure(name="falls_upper_95", label="falls at most, 95%", unit="per 20 s episode"),
    Figure(name="error_vx", label="error vx", unit="m/s", main=True),
    Figure(name="error_vy", label="error vy", unit="m/s", main=True),
    Figure(name="error_yaw_rate", label="error yaw rate", unit="rad/s", main=True),
    Figure(name="worst_vx", label="worst error at one vx", unit="m/s"),
    Figure(name="worst_vy", label="worst error at one vy", unit="m/s"),
    Figure(name="worst_yaw_rate", label="worst error at one yaw rate", unit="rad/s"),
    Figure(name="power_w", label="power", unit="W", format=".1f"),
    Figure(name="cost_of_transport", label="cost of transport", format=".2f"),
    Figure(name="foot_slip_m_s", label="foot slip", unit="m/s"),
    Figure(name="action_change", label="action change", unit="per control step"),
)
FAILED = Figure(name="failed_simulations", label="failed simulations", format=".0f")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The measurements of one evaluation, and its conditions.

    A mean is NaN if it has no samples (no robot stood for a second).

    The errors stay below the fields upper_95 with 95% confidence; these are NaN for a single robot.
    """

    falls: int  # terminations and failed simulations: a robot whose state cannot be computed does not walk
    failed_simulations: int  # part of falls
    error_vx: float  # m/s, mean absolute error of the base velocity, base frame
    error_vy: float  # m/s
    error_yaw_rate: float  # rad/s
    error_vx_upper_95: float
    error_vy_upper_95: float
    error_yaw_rate_upper_95: float
    power_w: float  # sum over the joints of |torque x velocity|
    cost_of_transport: float  # power / (weight x speed) while commanded to move, with each robot's own weight
    foot_slip_m_s: float  # horizontal speed of the feet that touch the ground
    action_change: float  # mean absolute difference of successive actions
    num_envs: int
    duration_s: float
    timestep_s: float
    seed: int
    disturbed: bool  # True if robots differed, sensors had errors or pushes came; False if only the reset was random
    commands: Mapping[str, Mapping[str, Any]]
    tracking: Mapping[str, Curve] = field(default_factory=dict)  # by axis; empty if it was not measured

    @property
    def episodes(self) -> float:
        """Number of episodes of 20 s played; an episode cut short by a fall counts only for its length."""
        return self.num_envs * self.duration_s / EPISODE_S

    @property
    def falls_per_episode(self) -> float:
        """Falls per 20 s of play."""
        return self.falls / self.episodes

    @property
    def falls_upper_95(self) -> float:
        """Bound that falls_per_episode stays below with 95% confidence: 3.0 / episodes if no robot fell."""
        return rate_upper(self.falls, self.episodes)

    @property
    def worst_vx(self) -> float:
        """Largest difference between a commanded vx and the mean velocity reached, m/s.

        NaN if tracking was not measured; the same holds for worst_vy and worst_yaw_rate.
        """
        return self._worst("vx")

    @property
    def worst_vy(self) -> float:
        """Largest difference between a commanded vy (to the left) and the mean velocity reached, m/s."""
        return self._worst("vy")

    @property
    def worst_yaw_rate(self) -> float:
        """Largest difference between a commanded yaw rate and the mean yaw rate reached, rad/s."""
        return self._worst("yaw_rate")

    def _worst(self, axis: str) -> float:
        return self.tracking[axis].worst if axis in self.tracking else math.nan

    @property
    def score(self) -> float:
        """One number for the whole evaluation; lower is better.

        It is twice the falls per episode, plus the three errors, plus the three worst deviations if they were measured.
        A policy exactly at every target of the project scores 0.49, or 0.34 without the deviations. A robot that stands
        still scores about 3. Infinite if nothing could be measured.
        """
        worst = (value for value in (self.worst_vx, self.worst_vy, self.worst_yaw_rate) if math.isfinite(value))
        score = FALL_WEIGHT * self.falls_per_episode + self.error_vx + self.error_vy + self.error_yaw_rate + sum(worst)
        return score if math.isfinite(score) else math.inf

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Descriptions of the figures to show; failed simulations are listed only if there were any."""
        judged = (figure for figure in FIGURES if self.tracking or not figure.name.startswith("worst_"))
        shown = (*judged, FAILED) if self.failed_simulations else tuple(judged)
        return tuple(dataclasses.replace(figure, value=getattr(self, figure.name)) for figure in shown)

    def judgement(self) -> Judgement:
        """The evaluation in the form in which every task reports its results."""
        measured = {figure.name for figure in FIGURES}
        plain = dataclasses.asdict(dataclasses.replace(self, tracking={}))
        conditions = {name: value for name, value in plain.items() if name not in measured and name != "tracking"}
        if self.tracking:
            conditions["tracking"] = {axis: curve.to_dict() for axis, curve in self.tracking.items()}
        return Judgement(
            score=self.score,
            figures=self.figures,
            conditions=conditions,
            note=f"{self.num_envs} robots x {self.duration_s:g} s, deterministic, {'as trained' if self.disturbed else 'nominal'}",
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, with the score; a figure that could not be measured is None."""
        return self.judgement().to_dict()


def evaluate(
    act: Act,
    env: LeggedEnv,
    *,
    seed: int,
    duration_s: float,
    tracking: bool = False,
    after_step: Callable[[], None] | None = None,
) -> Evaluation:
    """Play the policy in env for duration_s and measure.

    The same seed gives the same commands and starts. Training uses none of them.

    Errors, power, slip and action changes are means over environments, and over the time more than 1 s after a command
    change or the start of an episode. With tracking, the same robots afterwards hold commands over the range of each
    axis, each for 3 s or duration_s. after_step, if given, is called after every control step.
    """
    sums, settle_steps = Sums(env.num_envs), round(SETTLE_S / env.step_s)
    settled = np.zeros(env.num_envs, np.int64)  # control steps since the last command change or start of an episode
    falls = failed = 0
    steps = play(act, env, seed=seed, duration_s=duration_s)
    next(steps)
    command = env.state.robot.velocity_command.copy()
    for step in steps:
        falls += int(step.fell.sum())
        failed += int(step.failed.sum())
        settled += 1
        settled[step.terminated | step.truncated | (command != env.state.robot.velocity_command).any(axis=1)] = 0
        command[...] = env.state.robot.velocity_command
        rows = np.flatnonzero(settled > settle_steps)
        if len(rows):
            sums.add(env.state, rows, env.simulation.mass_kg)
        if after_step:
            after_step()
    curves = track(act, env, seed=seed, duration_s=duration_s, after_step=after_step) if tracking else {}
    return Evaluation(
        falls=falls,
        failed_simulations=failed,
        **sums.means(),
        num_envs=env.num_envs,
        duration_s=duration_s,
        timestep_s=env.config.timestep_s,
        seed=seed,
        disturbed=env.config.randomize,
        commands={name: dict(ranges) for name, ranges in env.config.commands.items()},
        tracking=curves,
    )


def check_duration(env: LeggedEnv, duration_s: float) -> None:
    """Raises ValueError if duration_s is so short that no error would count."""
    if round(duration_s / env.step_s) <= round(SETTLE_S / env.step_s):
        raise ValueError(
            f"duration_s is {duration_s:g}: errors count from {SETTLE_S:g} s after a command on, so it must be longer, such as "
            f"{2.0 * SETTLE_S:g}, or the usual {EPISODE_S:g}"
        )


class Sums:
    """Sums for the means of an Evaluation, over robots (N) that have had time to follow their command."""

    def __init__(self, num_envs: int) -> None:
        self.errors, self.samples, self.contacts = np.zeros((num_envs, 3)), np.zeros(num_envs), 0
        self.power = self.slip = self.change = self.moving_power = self.moving_weight = 0.0

    def add(self, state: SimState, rows: Array, mass_kg: Array) -> None:
        """Add a control step of the robots in rows (n,); mass_kg (N,) has the masses of all robots."""
        robot = state.robot
        self.samples[rows] += 1
        self.errors[rows] += np.abs(velocity_error(state)[rows])
        power = np.abs(state.joint_torque[rows] * robot.joint_velocity[rows]).sum(axis=1)
        self.power += power.sum()
        contact = state.foot_contact[rows]
        self.slip += np.linalg.norm(state.foot_velocity_w[rows, :, :2], axis=2)[contact].sum()
        self.contacts += contact.sum()
        self.change += np.abs(robot.last_action[rows] - state.previous_action[rows]).mean(axis=1).sum()
        moving = robot.velocity_command[rows].any(axis=1)
        self.moving_power += power[moving].sum()
        speed = np.linalg.norm(state.base_linear_velocity_b[rows, :2], axis=1)
        self.moving_weight += GRAVITY_M_S2 * (mass_kg[rows] * speed)[moving].sum()  # N m/s

    def means(self) -> dict[str, float]:
        """The means, and the bounds of the errors, by their names in Evaluation."""
        samples = self.samples.sum()
        errors = [_ratio(error, samples) for error in self.errors.sum(axis=0)]
        bounds = ratio_upper(self.errors, self.samples).tolist()
        return (
            dict(zip(ERRORS, errors))
            | {f"{name}_upper_95": bound for name, bound in zip(ERRORS, bounds)}
            | {
                "power_w": _ratio(self.power, samples),
                "cost_of_transport": _ratio(self.moving_power, self.moving_weight),
                "foot_slip_m_s": _ratio(self.slip, self.contacts),
                "action_change": _ratio(self.change, samples),
            }
        )


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count > 0 else math.nan
