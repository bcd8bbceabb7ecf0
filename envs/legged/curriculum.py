"""Which tile each robot starts on: robots that follow their commands get harder ones.

After Rudin et al. (2021), section 3.3.
"""

from __future__ import annotations

import numpy as np

from envs.legged.config import CurriculumConfig
from envs.legged.state import SimState
from envs.legged.terrain import Terrain
from rfx.random.streams import Streams
from rfx.robot.state import Array


class Curriculum:
    """The terrain level and kind of each robot, and how far it has followed its commands in this episode.

    There are num_envs robots; rows selects some of them. Robots are spread evenly over the kinds. With a config, robots
    start on levels up to its start_level. Without one they are spread evenly over all levels, and keep their level.
    """

    def __init__(self, terrain: Terrain, num_envs: int, config: CurriculumConfig | None, rows: range | None = None):
        rows = range(num_envs) if rows is None else rows
        self.terrain, self.config = terrain, config
        cell = np.array(rows) * (terrain.num_levels * len(terrain.kinds)) // num_envs
        self.level, self.kind = cell // len(terrain.kinds), cell % len(terrain.kinds)
        if config:
            self.kind = np.array(rows) % len(terrain.kinds)
        self.commanded_m, self.walked_m = np.zeros((2, len(rows)))
        # True where the episode began at a random age: it ends too early to show how well the robot walks.
        self.cut_short = np.zeros(len(rows), bool)

    def begin(self, rng: Streams) -> None:
        """Draw the first levels."""
        self.cut_short[...] = False
        if self.config:
            self.level[...] = rng.integers(
                min(self.config.start_level + 1, self.terrain.num_levels), size=len(self.level)
            )

    def measure(self, state: SimState, step_s: float) -> None:
        """Add the distance that one control step's command asks for, and the distance the robot walked that way.

        The walked distance counts at most as much as the command asks for. A robot that runs faster than its command
        does not follow it better, and cannot make up for time in which it stood.
        """
        command = state.robot.velocity_command[:, :2]
        speed = np.linalg.norm(command, axis=1)
        self.commanded_m += speed * step_s
        along = np.einsum("ij,ij->i", command, state.base_linear_velocity_b[:, :2])
        self.walked_m += np.minimum(along / np.maximum(speed, 1e-6), speed) * step_s

    def move(self, ids: Array, fell: Array, rng: Streams) -> None:
        """Give robots ids (n,) their next level after an episode; fell (n,), bool, says which of them fell.

        A robot goes one level up if it walked at least the share `up` of the commanded distance, and `distance_m`. From
        the top level it goes to a random level. A robot goes one level down if it fell, or walked less than the share
        `down` of the commanded distance; a first episode that began at a random age is exempt.
        """
        if self.config:
            walked, commanded, config = self.walked_m[ids], self.commanded_m[ids], self.config
            failed = fell | (walked < config.down * commanded)
            worse = failed & ~self.cut_short[ids]
            better = ~failed & (walked >= config.up * commanded) & (walked >= config.distance_m)
            level = np.maximum(self.level[ids] + better - worse, 0)
            top = level >= self.terrain.num_levels
            if top.any():
                level[top] = rng.of(ids[top]).integers(self.terrain.num_levels, size=top.sum())
            self.level[ids] = level
        self.commanded_m[ids] = self.walked_m[ids] = 0.0
        self.cut_short[ids] = False

    def left(self, position_w: Array) -> Array:
        """Whether robots at position_w (N, 2 or more), m, have left their ground. (N,), bool.

        With a curriculum a robot's ground is its own tile, because the ground beyond has another level. Without one it
        is all tiles.
        """
        if self.config is None:
            return self.terrain.left(position_w)
        away = position_w[:, :2] - self.terrain.origin[self.level, self.kind, :2]
        return (np.abs(away) > 0.5 * self.terrain.config.tile_m).any(axis=1)

    def origin(self, ids: Array) -> Array:
        """The offset from home to the start of robots ids (n,). (n, 3), m, world.

        It leads to the middle of each robot's tile, a little above the platform.
        """
        return self.terrain.origin[self.level[ids], self.kind[ids]]

    def metrics(self, level: Array, kind: Array) -> dict[str, float]:
        """Mean level, counted from 0, of all robots and of the robots on each kind. level and kind are (N,)."""
        kinds = {
            f"terrain/level_{name}": float(level[kind == k].mean())
            for k, name in enumerate(self.terrain.kinds)
            if (kind == k).any()
        }
        return {"terrain/level": float(level.mean())} | kinds

    def arrays(self) -> dict[str, Array]:
        """Live arrays by name: all that the next episode depends on."""
        return {
            "terrain_level": self.level,
            "terrain_kind": self.kind,
            "commanded_m": self.commanded_m,
            "walked_m": self.walked_m,
            "cut_short": self.cut_short,
        }
