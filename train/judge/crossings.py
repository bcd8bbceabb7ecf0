"""Walking straight off tiles of terrain: for each kind of ground and level of difficulty, how many robots fall and how
many get across.
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

TERRAIN = "rough"  # configs/terrain/: whose kinds and levels every policy is judged on, whatever it was trained on
CROSS_S = 15.0  # a tile's edge is 3.7 m away: 6 s at 0.6 m/s
SPEED_SHARE = 0.6  # of the largest vx that the task commands
AHEAD = 0.5  # cosine of the angle within which a robot left the tile in the commanded direction: 60 degrees
MOST_FALLS, LEAST_CROSSED = 0.1, 0.8  # per episode, of a level that is passed: one who stands does not fall either
LONG_S = 1e6  # an interval that never ends


@dataclass(frozen=True, kw_only=True)
class Crossings:
    """Robots that are told to walk straight on from their tile's middle; an episode ends at its edge, by a fall, or
    after 15 s.
    """

    kinds: tuple[str, ...]
    falls: Array  # (levels, kinds), per episode: share of the robots that fell
    crossed: Array  # (levels, kinds), share that reached the tile's edge, ahead of where they began
    # (levels, kinds), m/s, mean length of the horizontal velocity error after the first second; NaN without any
    error: Array
    vx: float  # m/s, commanded
    robots_per_tile: int

    @property
    def levels_passed(self) -> int:
        """How many levels, from the easiest and without a gap, 80% of the robots cross with at most 0.1 falls per
        episode, means over kinds.
        """
        passed = (self.falls.mean(axis=1) <= MOST_FALLS) & (self.crossed.mean(axis=1) >= LEAST_CROSSED)
        return int(np.cumprod(passed).sum())

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; a row is a level, the easiest first."""
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
    """The keys of EnvConfig that make tiles to be crossed: ground that no training sees, one command, endless
    episodes.
    """
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
    """Watch an environment of crossing_task while it is played: steps come after every control step."""
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
        ended = step.terminated | step.truncated  # before the edge: a fall, or a simulation that failed
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
