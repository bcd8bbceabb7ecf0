"""Kinds of terrain: each function shapes the ground of one tile, and the task's YAML names the functions.

Each returns heights (n, n), m, float64, on the Tile's grid. A range is [easiest, hardest]; the tile's difficulty picks
a value in it. The edge of a tile is level, at height 0, so that tiles join. Its middle is a level platform, on which
robots start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfx.robot.state import Array

# From the middle of a tile to its platform's edge; the feet of a large quadruped are 0.45 m from its middle.
PLATFORM_M = 0.6
EDGE_M = 0.3  # width of the level ground at a tile's edge


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A square of ground that a function shapes."""

    x: Array  # (n, n), m from the middle
    y: Array  # (n, n)
    size_m: float
    difficulty: float  # from 0, the easiest, to 1
    rng: np.random.Generator

    @property
    def distance(self) -> Array:
        """Distance of each point from the platform, 0 on it. (n, n), m. Lines of equal distance are squares."""
        return np.maximum(np.maximum(np.abs(self.x), np.abs(self.y)) - PLATFORM_M, 0.0)

    @property
    def reach(self) -> float:
        """Distance from the platform to the level edge, m."""
        return 0.5 * self.size_m - EDGE_M - PLATFORM_M

    def at(self, easiest_hardest: Sequence[float]) -> float:
        """The value in a range [easiest, hardest] at this tile's difficulty."""
        easiest, hardest = easiest_hardest
        return easiest + self.difficulty * (hardest - easiest)


def slope_up(tile: Tile, angle_deg: Sequence[float] = (2.0, 22.0)) -> Array:
    """The ground rises on all sides from a low platform."""
    return -slope_down(tile, angle_deg)


def slope_down(tile: Tile, angle_deg: Sequence[float] = (2.0, 22.0)) -> Array:
    """The ground falls on all sides from a high platform."""
    return np.maximum(tile.reach - tile.distance, 0.0) * np.tan(np.radians(tile.at(angle_deg)))


def rough(tile: Tile, height_m: Sequence[float] = (0.01, 0.08), spacing_m: float = 0.2) -> Array:
    """Bumps: random heights within +- height_m, spacing_m apart, with interpolation between them.

    They grow over the first half metre.
    """
    num = int(np.ceil(tile.size_m / spacing_m)) + 2
    knots = tile.rng.uniform(-1.0, 1.0, (num, num))
    u, v = (tile.x + 0.5 * tile.size_m) / spacing_m, (tile.y + 0.5 * tile.size_m) / spacing_m
    i, j = u.astype(int), v.astype(int)
    u, v = u - i, v - j
    bumps = (1 - v) * ((1 - u) * knots[j, i] + u * knots[j, i + 1]) + v * (
        (1 - u) * knots[j + 1, i] + u * knots[j + 1, i + 1]
    )
    fade = np.clip(2.0 * np.minimum(tile.distance, tile.reach - tile.distance), 0.0, 1.0)
    return tile.at(height_m) * fade * bumps


def stairs_up(tile: Tile, height_m: Sequence[float] = (0.02, 0.15), tread_m: Sequence[float] = (0.28, 0.36)) -> Array:
    """Steps of height_m rise on all sides from a low platform.

    A tile's tread is drawn from tread_m [least, most].
    """
    return -stairs_down(tile, height_m, tread_m)


def stairs_down(tile: Tile, height_m: Sequence[float] = (0.02, 0.15), tread_m: Sequence[float] = (0.28, 0.36)) -> Array:
    """Steps of height_m fall on all sides from a high platform.

    A tile's tread is drawn from tread_m [least, most].
    """
    tread = tile.rng.uniform(*tread_m)
    num_steps = int(tile.reach / tread)
    return (num_steps - np.minimum(np.ceil(tile.distance / tread), num_steps)) * tile.at(height_m)


def gaps(
    tile: Tile,
    width_m: Sequence[float] = (0.1, 0.35),
    depth_m: Sequence[float] = (0.03, 0.25),
    spacing_m: Sequence[float] = (0.7, 1.0),
) -> Array:
    """Trenches around the platform, width_m wide and depth_m deep.

    From the start of one trench to the start of the next it is spacing_m [least, most]. A height field has no holes and
    no vertical walls: a foot that steps into a trench finds a bottom, and a wall is a cell wide. The width is measured
    between the middles of the walls, and rounded to whole cells.
    """
    period = tile.rng.uniform(*spacing_m)
    along = tile.distance - 0.4 * period
    number = np.floor(along / period)
    inside = (along >= 0) & (along - number * period <= tile.at(width_m)) & ((number + 1) * period <= tile.reach)
    return np.where(inside, -tile.at(depth_m), 0.0)
