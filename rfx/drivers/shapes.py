"""Shapes of geoms and sites: surfaces, lowest points, boxes around them, and what encloses what."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import mujoco
import numpy as np

from rfx.robot.state import Array


def lowest_point(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> float:
    """Height of a geom's lowest point in the world, m; the bounding box stands for a height or distance field."""
    z, size, (x_up, y_up, z_up) = data.geom_xpos[geom, 2], model.geom_size[geom], np.abs(data.geom_xmat[geom, 6:9])
    kind, types = model.geom_type[geom], mujoco.mjtGeom
    if kind == types.mjGEOM_SPHERE:
        return z - size[0]
    if kind == types.mjGEOM_CAPSULE:
        return z - size[0] - size[1] * z_up
    if kind == types.mjGEOM_CYLINDER:
        return z - size[0] * np.sqrt(max(0.0, 1.0 - z_up * z_up)) - size[1] * z_up
    if kind == types.mjGEOM_ELLIPSOID:
        return z - float(np.linalg.norm(size * (x_up, y_up, z_up)))
    if kind == types.mjGEOM_MESH:
        return float(surface(model, data, geom)[:, 2].min())
    center, half_size = model.geom_aabb[geom].reshape(2, 3)
    return z + float(data.geom_xmat[geom, 6:9] @ center) - float(half_size @ (x_up, y_up, z_up))


def surface(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> Array:
    """Points on a geom's surface that reach as far as the geom in every direction. (K, 3), m, world."""
    kind, size, types = model.geom_type[geom], model.geom_size[geom], mujoco.mjtGeom
    ways = np.array([way for way in itertools.product((-1.0, 0.0, 1.0), repeat=3) if any(way)])
    round_ = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    if kind == types.mjGEOM_SPHERE:
        points = size[0] * round_
    elif kind == types.mjGEOM_CAPSULE:
        points = np.concatenate([size[0] * round_ + (0.0, 0.0, end) for end in (-size[1], size[1])])
    elif kind == types.mjGEOM_CYLINDER:
        rim = round_[round_[:, 2] == 0.0] * size[0]
        points = np.concatenate([rim + (0.0, 0.0, end) for end in (-size[1], size[1])])
    elif kind == types.mjGEOM_ELLIPSOID:
        points = size * round_
    elif kind == types.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        points = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    else:
        points = size * np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    return data.geom_xpos[geom] + points @ data.geom_xmat[geom].reshape(3, 3).T


def inside(model: mujoco.MjModel, data: mujoco.MjData, site: int, points: Array, spare_m: float) -> Array:
    """Mask of the points (K, 3), m, world, inside a site that is enlarged by spare_m. (K,), bool."""
    points = (points - data.site_xpos[site]) @ data.site_xmat[site].reshape(3, 3)
    size, kind, types = model.site_size[site] + spare_m, model.site_type[site], mujoco.mjtGeom
    if kind == types.mjGEOM_SPHERE:
        return np.linalg.norm(points, axis=1) <= size[0]
    if kind == types.mjGEOM_ELLIPSOID:
        return np.linalg.norm(points / size, axis=1) <= 1.0
    if kind == types.mjGEOM_BOX:
        return (np.abs(points) <= size).all(axis=1)
    beyond_m = np.maximum(np.abs(points[:, 2]) - model.site_size[site, 1], 0.0)  # the ends of a cylinder or capsule
    if kind == types.mjGEOM_CYLINDER:
        return (np.linalg.norm(points[:, :2], axis=1) <= size[0]) & (beyond_m <= spare_m)
    return np.hypot(np.linalg.norm(points[:, :2], axis=1), beyond_m) <= size[0]


def box_around(model: mujoco.MjModel, geoms: Sequence[int], spare_m: float) -> tuple[Array, Array]:
    """Centre and half sizes, in the body's frame, of a box around geoms of one body with spare_m to spare.

    Two (3,), m.
    """
    corners = []
    for geom in geoms:
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        center, half_size = model.geom_aabb[geom].reshape(2, 3)
        signs = np.stack(np.meshgrid((-1, 1), (-1, 1), (-1, 1)), axis=-1).reshape(8, 3)
        corners.append(model.geom_pos[geom] + (center + signs * half_size) @ rotation.reshape(3, 3).T)
    low, high = np.min(np.concatenate(corners), axis=0), np.max(np.concatenate(corners), axis=0)
    return 0.5 * (low + high), 0.5 * (high - low) + spare_m
