"""Terrain: one height field of tiles for all robots; rows are levels of difficulty, columns kinds of ground."""

from __future__ import annotations

import numpy as np

from envs.legged import terrain_kinds
from envs.legged.config import TerrainConfig
from envs.legged.terrain_kinds import PLATFORM_M, Tile
from rfx.robot.height_field import HeightField
from rfx.robot.state import Array
from rfx.settings.terms import bind

BORDER_M = 1.0  # width of the level ground around the tiles
# Robots start this high above the platform, because randomized joint angles can make legs longer than in the default
# pose. Their feet would begin in the ground.
DROP_M = 0.03


class Terrain:
    """The ground that a config describes; the same config always gives the same ground.

    The tile at row l and column k is level l of kind k. Raises ValueError for a kind or a parameter that does not
    exist, or heights that are not finite.
    """

    def __init__(self, config: TerrainConfig):
        self.config, self.kinds, self.num_levels = config, tuple(config.kinds), config.num_levels
        size_m, cell_m = config.tile_m, config.cell_m
        cells, border = round(size_m / cell_m), round(BORDER_M / cell_m)
        shape = np.array([self.num_levels * cells, len(self.kinds) * cells])
        self.half_size_m = 0.5 * cell_m * shape[::-1]  # of all tiles, along x and y; centred on the world's origin
        heights = np.zeros(shape + 2 * border + 1, np.float32)
        # Above the middle of each tile's platform, m, world
        self.origin = np.zeros((self.num_levels, len(self.kinds), 3))

        line = (np.arange(cells + 1) - 0.5 * cells) * cell_m
        y, x = np.meshgrid(line, line, indexing="ij")
        near = np.maximum(np.abs(x), np.abs(y)) < PLATFORM_M
        for k, kind in enumerate(self.kinds):
            shape_tile = bind(terrain_kinds, kind, config.kinds[kind])
            for level in range(self.num_levels):
                rng = np.random.default_rng([config.seed, k, level])
                tile = Tile(x=x, y=y, size_m=size_m, difficulty=level / max(self.num_levels - 1, 1), rng=rng)
                ground = shape_tile(tile)
                row, column = border + level * cells, border + k * cells
                heights[row : row + cells + 1, column : column + cells + 1] = ground
                self.origin[level, k, :2] = size_m * (np.array([k, level]) + 0.5) - self.half_size_m
                self.origin[level, k, 2] = ground[near].max() + DROP_M
        corner_m = -self.half_size_m - border * cell_m
        self.ground = HeightField(heights=heights, cell_m=cell_m, corner_m=(float(corner_m[0]), float(corner_m[1])))

    def left(self, position_w: Array) -> Array:
        """Whether robots at position_w (N, 2 or more), m, are off the tiles. (N,), bool."""
        return (np.abs(position_w[:, :2]) > self.half_size_m).any(axis=1)
