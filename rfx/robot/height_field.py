"""Uneven ground: heights on a square grid. Between grid points the ground is the triangles that MuJoCo uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfx.robot.state import Array


@dataclass(frozen=True, kw_only=True)
class HeightField:
    """Heights of the ground on a grid: (R, C), float32, m.

    Rows are at increasing y, columns at increasing x, cell_m apart. corner_m is x and y of heights[0, 0] in the world.
    Raises ValueError for fewer than two rows or columns, or heights that are not finite.
    """

    heights: Array
    cell_m: float
    corner_m: tuple[float, float]

    def __post_init__(self) -> None:
        if self.heights.ndim != 2 or min(self.heights.shape) < 2 or not np.isfinite(self.heights).all():
            raise ValueError(
                f"got heights of shape {self.heights.shape}; expected (rows, columns), at least 2 of each, all finite"
            )

    def height_at(self, x: Array, y: Array) -> Array:
        """Height of the ground at points x and y (any equal shape), m, world. float32.

        Outside the grid, points have the height of the nearest edge. MuJoCo splits a cell into two triangles along the
        diagonal from its lowest x and y to its highest (mjc_ConvexHField).
        """
        num_rows, num_columns = self.heights.shape
        along_x = np.clip((x - self.corner_m[0]) / self.cell_m, 0.0, num_columns - 1)
        along_y = np.clip((y - self.corner_m[1]) / self.cell_m, 0.0, num_rows - 1)
        column = np.minimum(along_x.astype(np.intp), num_columns - 2)
        row = np.minimum(along_y.astype(np.intp), num_rows - 2)
        u, v = along_x - column, along_y - row
        flat, begin = self.heights.reshape(-1), row * num_columns + column
        near, side, far = flat[begin], flat[begin + np.where(u > v, 1, num_columns)], flat[begin + num_columns + 1]
        return (near + np.maximum(u, v) * (side - near) + np.minimum(u, v) * (far - side)).astype(np.float32)

    def crop(self, low: Sequence[float], high: Sequence[float]) -> HeightField:
        """The part of the grid that covers x and y from low (2,) to high (2,), m; one cell at least, in the grid."""
        size = np.array(self.heights.shape[::-1])
        begin = np.clip(np.floor((np.asarray(low) - self.corner_m) / self.cell_m).astype(int), 0, size - 2)
        end = np.clip(np.ceil((np.asarray(high) - self.corner_m) / self.cell_m).astype(int), begin + 1, size - 1)
        corner = np.asarray(self.corner_m) + begin * self.cell_m
        return HeightField(
            heights=self.heights[begin[1] : end[1] + 1, begin[0] : end[0] + 1],
            cell_m=self.cell_m,
            corner_m=(float(corner[0]), float(corner[1])),
        )
