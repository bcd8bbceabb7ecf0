"""Robots walk straight off terrain tiles: measures falls and crossings for each kind of ground and level of difficulty.

A crossing is a robot that reaches the edge of its tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.legged.config import EnvConfig, TerrainConfig
from envs.legged.env import LeggedEnv, velocity_error
from envs.legged.terrain_kinds import EDGE_M
from envs.settings.configs import compose
from rfx.robot.state import Array, heading
from train.judge.evaluation import SETTLE_S
from train.judge.play import Step, evaluation_seed

TERRAIN = "rough"  # in configs/terrain/: every policy is judged on its kinds and levels, whatever it was trained on
CROSS_S = 15.0  # the edge of a tile is 3.7 m away, 6 s at 0.6 m/s
SPEED_SHARE = 0.6  # share of the largest vx that the task commands
AHEAD = 0.5  # cosine of 60 degrees: a robot within this angle of the commanded direction left the tile ahead
MOST_FALLS, LEAST_CROSSED = 0.1, 0.8  # for a passed level; both count, because a standing robot never falls
LONG_S = 1e6  # an interval that never ends


@dataclass(frozen=True, kw_only=True)
class Crossings:
    """Results of robots that are told to walk straight on from the middle of their tile.

    An episode ends at the edge of the tile, with a fall, or after 15 s.
    """

    kinds: tuple[str, ...]
    falls: Array  # (levels, kinds), share of the robots that fell, per episode
    crossed: Array  # (levels, kinds), share of the robots that reached the tile's edge ahead of their start
    # (levels, kinds), m/s, mean length of the horizontal velocity error after the first second; NaN without samples.
    error: Array
    vx: float  # commanded, m/s
    robots_per_tile: int

    @property
    def levels_passed(self) -> int:
        """Number of levels passed, counted from the easiest one without a gap.

        A level is passed if 80% of the robots cross with at most 0.1 falls per episode, as means over kinds.
        """
        passed = (self.falls.mean(axis=1) <= MOST_FALLS) & (self.crossed.mean(axis=1) >= LEAST_CROSSED)
        return int(np.cumprod(passed).sum())

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; each row is one level, the easiest first."""
        rows = {
            name: [[float(value) if np.isfinite(value) else None for value in row] for row in getattr(self, name)]
            for name in ("falls", "crossed", "error")
        }
        return {
            "levels_passed": self.levels_passed,
            "vx": self.vx,
            "robots_per_tile": self.robots_per_tile,
            "kinds": list(self.kinds),
            **rows,
        }


def crossing_task(task: EnvConfig, seed: int, robots_per_tile: int) -> dict[str, Any]:
    """The keys of EnvConfig for crossings: terrain that training never sees, one command, endless episodes."""
    terrain = TerrainConfig.from_dict(compose("terrain", TERRAIN)["env"]["terrain"]).for_evaluation(
        evaluation_seed(seed)
    )
    (parameters,) = task.commands.values()
    vx = SPEED_SHARE * parameters.get("vx", (-1.0, 1.0))[1]
    commands = {"uniform_velocity": {"vx": (vx, vx), "vy": (0.0, 0.0), "yaw_rate": (0.0, 0.0), "zero_share": 0.0}}
    return {
        "num_envs": terrain.num_levels * len(terrain.kinds) * robots_per_tile,
        "terrain": terrain,
        "commands": commands,
        "command_interval_s": (LONG_S, LONG_S),
        "episode_length_s": LONG_S,
    }


def measure_crossings(env: LeggedEnv, steps: Iterator[Step]) -> Crossings:
    """Measure crossings while an environment of crossing_task is played; steps yields after every control step."""
    curriculum, state = env.curriculum, env.state
    shape = curriculum.terrain.num_levels, len(curriculum.terrain.kinds)
    middle = curriculum.origin(np.arange(env.num_envs))[:, :2]
    edge = 0.5 * curriculum.terrain.config.tile_m - EDGE_M
    active, fell, crossed = np.ones(env.num_envs, bool), np.zeros(env.num_envs, bool), np.zeros(env.num_envs, bool)
    error, samples, ahead = np.zeros(env.num_envs), np.zeros(env.num_envs), None
    for step in steps:
        if ahead is None:
            angle = heading(env.simulation.base_quaternion)
            ahead = np.stack((np.cos(angle), np.sin(angle)), axis=1)
        ended = step.terminated | step.truncated  # ended before the edge: by a fall, or by a simulation that failed
        fell |= active & ended
        active &= ~ended
        settled = active & (state.step > SETTLE_S / env.step_s)
        error += np.where(settled, np.linalg.norm(velocity_error(state)[:, :2], axis=1), 0.0)
        samples += settled
        way = env.simulation.base_position_w[:, :2] - middle
        outside = active & (np.abs(way).max(axis=1) >= edge)
        crossed |= outside & (np.einsum("ij,ij->i", way, ahead) >= AHEAD * np.linalg.norm(way, axis=1))
        active &= ~outside
        if not active.any():
            break

    def cells(values: Array) -> Array:
        total = np.zeros(shape)
        np.add.at(total, (curriculum.level, curriculum.kind), values)
        return total

    num, samples = cells(np.ones(env.num_envs)), cells(samples)
    return Crossings(
        kinds=curriculum.terrain.kinds,
        falls=cells(fell) / num,
        crossed=cells(crossed) / num,
        error=cells(error) / np.where(samples > 0, samples, np.nan),
        vx=float(state.robot.velocity_command[0, 0]),
        robots_per_tile=env.num_envs // (shape[0] * shape[1]),
    )
