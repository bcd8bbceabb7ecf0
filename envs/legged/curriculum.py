"""Which tile each robot starts on: harder ones for those that walk where they are told, after Rudin et al.

(2021), section 3.3.
"""

from __future__ import annotations

import numpy as np

from envs.legged.config import CurriculumConfig
from envs.legged.state import SimState
from envs.legged.terrain import Terrain
from rfx.random.streams import Streams
from rfx.robot.state import Array


class Curriculum:
    """Level and kind of num_envs robots, or of the rows of them, and how far they have followed their commands in this
    episode. Without a config, levels stay as they are.

    Kinds are spread evenly. With a config robots start on levels up to its start_level; without one they are spread
    evenly over all levels.
    """

    def __init__(self, terrain: Terrain, num_envs: int, config: CurriculumConfig | None, rows: range | None = None):
        rows = range(num_envs) if rows is None else rows
        self.terrain, self.config = terrain, config
        cell = np.array(rows) * (terrain.num_levels * len(terrain.kinds)) // num_envs
        self.level, self.kind = cell // len(terrain.kinds), cell % len(terrain.kinds)
        if config:
            self.kind = np.array(rows) % len(terrain.kinds)
        self.commanded_m, self.walked_m = np.zeros((2, len(rows)))
        self.cut_short = np.zeros(
            len(rows), bool
        )  # the episode began at a random age, and is over before it has shown much

    def begin(self, rng: Streams) -> None:
        """Draw the first levels."""
        self.cut_short[...] = False
        if self.config:
            self.level[...] = rng.integers(
                min(self.config.start_level + 1, self.terrain.num_levels), size=len(self.level)
            )

    def measure(self, state: SimState, step_s: float) -> None:
        """Add a control step: how far the command asked to go, and how far the robot went that way, at most as far as
        it was asked.

        Who runs faster than it is told does not follow the command better, nor makes up for having stood.
        """
        command = state.robot.velocity_command[:, :2]
        speed = np.linalg.norm(command, axis=1)
        self.commanded_m += speed * step_s
        along = np.einsum("ij,ij->i", command, state.base_linear_velocity_b[:, :2])
        self.walked_m += np.minimum(along / np.maximum(speed, 1e-6), speed) * step_s

    def move(self, ids: Array, fell: Array, rng: Streams) -> None:
        """After an episode of robots ids (n,), of which some fell (n,), bool: give them their next level.

        One level up for a robot that walked at least `up` of what was commanded, and `distance_m`; past the top, a
        random level. One down for a robot that fell, or walked less than `down` of what was commanded, but not after a
        first episode of random age.
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

        In training that is their own tile, which they have crossed: beyond it the ground is not of their level. Else it
        is all tiles.
        """
        if self.config is None:
            return self.terrain.left(position_w)
        away = position_w[:, :2] - self.terrain.origin[self.level, self.kind, :2]
        return (np.abs(away) > 0.5 * self.terrain.config.tile_m).any(axis=1)

    def origin(self, ids: Array) -> Array:
        """What is added to where robots ids (n,) stand at home: the middle of their tile's platform, and a little
        above. (n, 3), m, world.
        """
        return self.terrain.origin[self.level[ids], self.kind[ids]]

    def metrics(self, level: Array, kind: Array) -> dict[str, float]:
        """Mean level, counted from 0, of robots on these levels and kinds (N,), of all and of those on each kind."""
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
