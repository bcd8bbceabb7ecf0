"""Pushes walking robots, with growing size, from all sides and at all phases of the gait.

A robot survives a push if it is still up 4 s later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv
from rfx.robot.state import Array, heading
from train.judge.bounds import share_lower
from train.judge.play import Step

DIRECTIONS = 8  # directions around the robot; the first is forwards, the others follow counterclockwise
PHASES = 8  # evenly spaced phases of the gait cycle; an episode begins at the first
SPEED_STEP_M_S, MAX_SPEED_M_S = 0.2, 3.0
WALK_S, RECOVER_S = 3.0, 4.0  # time before the first push; time after each push in which a fall counts
LEAST_S = 1.0  # least walking time before a push, so that a robot which has just fallen and restarted is not pushed
SIDES = (
    "forwards",
    "forwards left",
    "left",
    "backwards left",
    "backwards",
    "backwards right",
    "right",
    "forwards right",
)
LONG_S = 1e6  # an interval that never ends


@dataclass(frozen=True, kw_only=True)
class Pushes:
    """Results of walking robots whose base velocity is changed suddenly."""

    speed_m_s: Array  # (S,), growing, until nearly all robots fall
    pushed: Array  # (S, PHASES, DIRECTIONS), number of robots pushed
    survived: Array  # (S, PHASES, DIRECTIONS), number of these robots that did not fall within 4 s

    def counts(self, speed_m_s: float) -> tuple[int, int]:
        """Number of robots that survived pushes of this size, and number pushed, over all sides and phases.

        (0, 0) above the largest size that was tried.
        """
        found = np.flatnonzero(np.isclose(self.speed_m_s, speed_m_s))
        return (int(self.survived[found].sum()), int(self.pushed[found].sum())) if len(found) else (0, 0)

    def share(self, speed_m_s: float) -> float:
        """Share of the robots that survived pushes of this size; 0 above the largest size that was tried."""
        survived, pushed = self.counts(speed_m_s)
        return survived / pushed if pushed else 0.0

    def share_lower_95(self, speed_m_s: float) -> float:
        """Lower bound of share, with 95% confidence."""
        survived, pushed = self.counts(speed_m_s)
        return share_lower(survived, pushed) if pushed else 0.0

    @property
    def by_direction(self) -> Array:
        """Share that survived, (S, DIRECTIONS); NaN if no robot was pushed."""
        return _shares(self.survived.sum(axis=1), self.pushed.sum(axis=1))

    @property
    def by_phase(self) -> Array:
        """Share that survived, (S, PHASES); NaN if no robot was pushed."""
        return _shares(self.survived.sum(axis=2), self.pushed.sum(axis=2))

    def worst(self, speed_m_s: float) -> dict[str, Any]:
        """The phase (in cycles), the direction and the pair of both that survive least at this size, with the share.

        Empty if no pushes of this size were tried. The lowest of many measured shares is biased low: a pair has only as
        many robots as `robots` says.
        """
        found = np.flatnonzero(np.isclose(self.speed_m_s, speed_m_s))
        if not len(found) or not self.pushed[found].any():
            return {}
        cells = _shares(self.survived[found[0]], self.pushed[found[0]])
        phases, sides = self.by_phase[found[0]], self.by_direction[found[0]]
        phase, side = int(np.nanargmin(phases)), int(np.nanargmin(sides))
        cell = np.unravel_index(np.nanargmin(cells), cells.shape)
        return {
            "phase": {"cycles": phase / PHASES, "share": float(phases[phase])},
            "direction": {"towards": SIDES[side], "share": float(sides[side])},
            "cell": {
                "cycles": int(cell[0]) / PHASES,
                "towards": SIDES[cell[1]],
                "share": float(cells[cell]),
                "robots": int(self.pushed[found[0]][cell]),
            },
        }

    def to_dict(self, speed_m_s: float) -> dict[str, Any]:
        """As JSON types, with the worst phase and direction at speed_m_s."""
        rows = {
            name: [[None if np.isnan(value) else float(value) for value in row] for row in shares]
            for name, shares in (("survived", self.by_direction), ("survived_by_phase", self.by_phase))
        }
        return {
            "speed_m_s": self.speed_m_s.tolist(),
            **rows,
            "pushed": self.pushed.sum(axis=(1, 2)).tolist(),
            "worst": {"speed_m_s": speed_m_s, **self.worst(speed_m_s)},
        }


def push_task(task: EnvConfig, num_envs: int) -> dict[str, Any]:
    """The keys of EnvConfig for robots that always walk, under one command that never changes.

    Each pair of phase and direction gets the same number of robots.
    """
    ((name, parameters),) = task.commands.items()
    cells = PHASES * DIRECTIONS
    return {
        "num_envs": max(1, round(num_envs / cells)) * cells,
        "commands": {name: {**parameters, "zero_share": 0.0}},
        "command_interval_s": (LONG_S, LONG_S),
    }


def play_s(env: LeggedEnv) -> float:
    """How long to play an environment of push_task: until the last push is over."""
    return WALK_S + 1.0 / env.robot.gait_freq_hz + RECOVER_S


def measure_pushes(env: LeggedEnv, steps: Iterator[Step], speed_m_s: float) -> tuple[Array, Array]:
    """Push each robot of push_task once while the environment is played; steps yields after every control step.

    Returns the number pushed and the number that survived, both (PHASES, DIRECTIONS). A robot counts at the phase that
    its clock showed.
    """
    state, robots = env.state, np.arange(env.num_envs)
    direction, turn = robots % DIRECTIONS, robots // DIRECTIONS % PHASES
    cycle = 1.0 / (env.robot.gait_freq_hz * env.step_s)  # in control steps
    push_at = round(WALK_S / env.step_s) + np.floor(turn * cycle / PHASES).astype(int)
    over_at = push_at + round(RECOVER_S / env.step_s)
    pushed, fell, phase = np.zeros(env.num_envs, bool), np.zeros(env.num_envs, bool), np.zeros(env.num_envs, int)
    for count, step in enumerate(steps, 1):
        fell |= pushed & step.fell & (count <= over_at)
        now = np.flatnonzero((count == push_at) & (state.step > LEAST_S / env.step_s))
        if len(now):
            angle = heading(env.simulation.base_quaternion[now]) + 2 * np.pi * direction[now] / DIRECTIONS
            change = np.zeros((len(now), 6))
            change[:, 0], change[:, 1] = speed_m_s * np.cos(angle), speed_m_s * np.sin(angle)
            env.simulation.push(now, change)
            pushed[now] = True
            phase[now] = np.rint(state.robot.gait_phase[now] / (2 * np.pi) * PHASES).astype(int) % PHASES
    counts = np.zeros((2, PHASES, DIRECTIONS), int)
    np.add.at(counts, (slice(None), phase, direction), np.stack((pushed, pushed & ~fell)))
    return counts[0], counts[1]


def _shares(survived: Array, pushed: Array) -> Array:
    return np.where(pushed > 0, survived / np.maximum(pushed, 1), np.nan)
