"""How well a policy walks: played deterministically on seeded commands, without any randomization but the reset noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

import rfx
from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv, velocity_error
from rfx.config import RobotConfig
from rfx.state import Array

Act = Callable[[Array], Array]  # observations (N, max_state_dim) -> actions (N, action_dim); of the same robots, step after step

GRAVITY_M_S2 = 9.81
SETTLE_S = 1.0  # after a command change or an episode's start, before errors count
EPISODE_S = 20.0  # falls are counted per this much play
EVALUATION_KEY = 0xE7A1  # sets the seeds of evaluations apart from those of training, whatever the seed
FALL_WEIGHT = 2.0  # a fall an episode weighs as much as errors of 2 m/s in all


@dataclass(frozen=True)
class PolicyAct:
    """A loaded policy as an Act."""

    policy: rfx.LoadedPolicy

    def __call__(self, observation: Array) -> Array:
        return self.policy({"state": observation})

    def reset(self, rows: Array | None = None) -> None:
        """Tell the policy that robots rows, or without rows all of them, begin an episode."""
        self.policy.reset(rows)


def begin_episodes(act: Act, rows: Array | None = None) -> None:
    """Reset the memory of an act that has one (a method reset) of robots rows (N,), bool, or without rows of all."""
    if (rows is None or rows.any()) and (reset := getattr(act, "reset", None)):
        reset(rows)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one evaluation measured, and under which conditions. A mean over no samples (it never stood for a second) is NaN."""

    falls_per_episode: float  # terminations per 20 s of play
    error_vx: float  # m/s, mean absolute error of the base velocity, base frame
    error_vy: float  # m/s
    error_yaw_rate: float  # rad/s
    power_w: float  # sum over the joints of |torque x velocity|
    cost_of_transport: float  # power / (weight x speed) while commanded to move
    foot_slip_m_s: float  # horizontal speed of feet that touch the ground
    action_change: float  # mean absolute difference of successive actions
    failed_simulations: int
    num_envs: int
    duration_s: float
    timestep_s: float
    seed: int
    commands: Mapping[str, Mapping[str, Any]]

    @property
    def score(self) -> float:
        """Twice the falls per episode plus the three errors: lower is better, 0.34 is just on every target of the project.

        A robot that stands still scores about 0.9. Infinite when nothing could be measured.
        """
        score = FALL_WEIGHT * self.falls_per_episode + self.error_vx + self.error_vy + self.error_yaw_rate
        return score if math.isfinite(score) else math.inf

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, the score too; what could not be measured is None."""
        values = dataclasses.asdict(self) | {"score": self.score}
        return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}


def evaluation_env(task: EnvConfig, robot: RobotConfig, *, num_envs: int, threads: int = 0, timestep_s: float | None = None,
                   mjcf: str | None = None, **changes: Any) -> LeggedEnv:
    """The task's commands, resets and terminations in num_envs environments, and nothing else of it; another physics step or model.

    Episodes all begin together and last 20 s. changes are further keys of EnvConfig. Raises as LeggedEnv does.
    """
    config = EnvConfig(num_envs=num_envs, timestep_s=timestep_s or task.timestep_s, episode_length_s=EPISODE_S,
                       command_interval_s=task.command_interval_s, mjcf=mjcf or task.mjcf, commands=task.commands, resets=task.resets,
                       terminations=task.terminations)
    return LeggedEnv(config=dataclasses.replace(config, **changes), robot=robot, threads=threads)


def evaluate(act: Act, env: LeggedEnv, *, seed: int, duration_s: float, after_step: Callable[[], None] | None = None) -> Evaluation:
    """Play the policy in env for duration_s and measure. The same seed gives the same commands and starts, none used in training.

    Errors, power, slip and action changes are means over environments and over the time more than 1 s after a command change or an
    episode's start. after_step, if given, is called after every control step.
    """
    state, robot = env.state, env.state.robot
    num_steps, settle_steps = round(duration_s / env.step_s), round(SETTLE_S / env.step_s)
    weight_n = GRAVITY_M_S2 * float(env.simulation.model.body_mass.sum())
    settled = np.zeros(env.num_envs, np.int64)  # control steps since a command changed or an episode began
    command = np.empty_like(robot.velocity_command)
    errors, samples, power, slip, contacts, change = np.zeros(3), 0, 0.0, 0.0, 0, 0.0
    moving_power, moving_speed = 0.0, 0.0
    falls = failed = 0

    observation = env.reset(seed=evaluation_seed(seed))[0]["state"]
    begin_episodes(act)
    command[...] = robot.velocity_command
    for _ in range(num_steps):
        observed, _, terminated, truncated, info = env.step(act(observation))
        observation = observed["state"]
        begin_episodes(act, terminated | truncated)
        falls += int(terminated.sum())
        failed += int(info["failed"].sum()) if info else 0
        settled += 1
        settled[terminated | truncated | (command != robot.velocity_command).any(axis=1)] = 0
        command[...] = robot.velocity_command
        rows = np.flatnonzero(settled > settle_steps)
        if len(rows):
            samples += len(rows)
            errors += np.abs(velocity_error(state)[rows]).sum(axis=0)
            row_power = np.abs(state.joint_torque[rows] * robot.joint_velocity[rows]).sum(axis=1)
            power += row_power.sum()
            contact = state.foot_contact[rows]
            slip += np.linalg.norm(state.foot_velocity_w[rows, :, :2], axis=2)[contact].sum()
            contacts += contact.sum()
            change += np.abs(robot.last_action[rows] - state.previous_action[rows]).mean(axis=1).sum()
            moving = command[rows].any(axis=1)
            moving_power += row_power[moving].sum()
            moving_speed += np.linalg.norm(state.base_linear_velocity_b[rows, :2], axis=1)[moving].sum()
        if after_step:
            after_step()

    vx, vy, yaw_rate = (_ratio(error, samples) for error in errors)
    return Evaluation(falls_per_episode=falls / (env.num_envs * duration_s / EPISODE_S), error_vx=vx, error_vy=vy, error_yaw_rate=yaw_rate,
                      power_w=_ratio(power, samples), cost_of_transport=_ratio(moving_power, weight_n * moving_speed),
                      foot_slip_m_s=_ratio(slip, contacts), action_change=_ratio(change, samples), failed_simulations=failed,
                      num_envs=env.num_envs, duration_s=duration_s, timestep_s=env.config.timestep_s, seed=seed,
                      commands={name: dict(ranges) for name, ranges in env.config.commands.items()})


def evaluation_seed(seed: int) -> int:
    """The environment's seed for an evaluation: a branch of SeedSequence(seed) that training does not spawn."""
    return int(np.random.SeedSequence(seed, spawn_key=(EVALUATION_KEY,)).generate_state(1)[0])


def evaluation_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Evaluations side by side, one column each."""
    table = Table(box=None, pad_edge=False, show_header=len(evaluations) > 1)
    table.add_column("")
    for name in evaluations:
        table.add_column(name, justify="right")
    table.add_column("")
    rows = (("falls_per_episode", "falls", "per 20 s episode", ".3f"), ("error_vx", "error vx", "m/s", ".3f"),
            ("error_vy", "error vy", "m/s", ".3f"), ("error_yaw_rate", "error yaw rate", "rad/s", ".3f"),
            ("power_w", "power", "W", ".1f"), ("cost_of_transport", "cost of transport", "", ".2f"),
            ("foot_slip_m_s", "foot slip", "m/s", ".3f"), ("action_change", "action change", "per control step", ".3f"))
    for name, label, unit, form in rows:
        table.add_row(label, *(format(getattr(evaluation, name), form) for evaluation in evaluations.values()), f"[dim]{unit}[/]")
    if any(evaluation.failed_simulations for evaluation in evaluations.values()):
        table.add_row("failed simulations", *(str(evaluation.failed_simulations) for evaluation in evaluations.values()), "")
    return table


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count > 0 else math.nan
