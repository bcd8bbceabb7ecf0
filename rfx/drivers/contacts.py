"""Contacts of a robot: it touches the world and never itself, with a given friction, on a given ground.

A geom collides by its contype and conaffinity, or because a <pair> of the file names it. A pair has its own friction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mujoco
import numpy as np

from rfx.drivers.shapes import lowest_point
from rfx.robot.height_field import HeightField
from rfx.robot.state import Array

PLANE, HFIELD = mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD
GROUND_DEPTH_M = 0.5  # depth of a height field below its lowest height
STIFF_SOLREF = [0.01, 1.0]  # s, critically damped (MuJoCo uses at least 2 time steps)
STIFF_SOLIMP = [0.9, 0.95, 0.001, 0.5, 2.0]  # MuJoCo's default
SUNK_M = 0.003  # a foot may be this far inside the floor at the default pose


def colliding(spec: mujoco.MjSpec, geoms: Iterable[mujoco.MjsGeom]) -> list[mujoco.MjsGeom]:
    """Return the geoms that collide with anything."""
    paired = {name for pair in spec.pairs for name in (pair.geomname1, pair.geomname2)}
    return [geom for geom in geoms if geom.contype or geom.conaffinity or geom.name and geom.name in paired]


def colliding_ids(model: mujoco.MjModel) -> list[int]:
    """Ids of the geoms that collide with anything."""
    collide = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    collide[model.pair_geom1] = collide[model.pair_geom2] = True
    return np.flatnonzero(collide).tolist()


def is_part(body: mujoco.MjsBody, base: mujoco.MjsBody) -> bool:
    """Whether a body is the base or one of its descendants."""
    while body is not None and body is not base:
        body = body.parent
    return body is base


def touch_world_only(spec: mujoco.MjSpec, base: mujoco.MjsBody) -> None:
    """Let the robot's geoms collide with the world and not with each other; add a lit floor if there is none.

    Touch sensors then feel only the world. The world is everything that does not hang on the base. Its moving objects
    touch the robot and all of the world.
    """
    own = {geom.name for geom in spec.geoms if geom.name and is_part(geom.parent, base)}
    for pair in [pair for pair in spec.pairs if pair.geomname1 in own and pair.geomname2 in own]:
        spec.delete(pair)
    for geom in spec.geoms:
        if geom.contype or geom.conaffinity:
            geom.contype, geom.conaffinity = (0, 1) if is_part(geom.parent, base) else (1, int(_moves(geom.parent)))
    if not _floors(spec, base):
        name = "floor" if all(geom.name != "floor" for geom in spec.geoms) else ""
        spec.worldbody.add_geom(
            name=name, type=PLANE, size=[0, 0, 0.05], contype=1, conaffinity=0, friction=[0.8, 0.02, 0.01]
        )
        if not spec.lights:
            spec.worldbody.add_light(pos=[0, 0, 3], dir=[-0.4, 0.5, -1], type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)


def _moves(body: mujoco.MjsBody) -> bool:
    return body is not None and (bool(body.joints) or _moves(body.parent))


def _floors(spec: mujoco.MjSpec, base: mujoco.MjsBody) -> list[mujoco.MjsGeom]:
    """Return the geoms that collide and stand still."""
    return [geom for geom in colliding(spec, spec.geoms) if not is_part(geom.parent, base) and not _moves(geom.parent)]


def lay(spec: mujoco.MjSpec, base: mujoco.MjsBody, ground: HeightField) -> None:
    """Replace the flat floor by the ground, and make every contact stiff.

    MuJoCo treats a height field as prisms, side by side. A foot whose centre is below the surface is pushed sideways,
    out of one prism and into the next, and stays in the ground, even where the ground is level. With MuJoCo's default
    time constant of 20 ms a landing foot of the Go2, whose radius is 22 mm, sinks in by 2 cm.
    """
    floors = _floors(spec, base)
    if not all(geom.type == PLANE and geom.parent is spec.worldbody and geom.frame is None for geom in floors):
        raise ValueError(
            "the model's world has more than a plane as its floor, or has it in a body or frame: give a model "
            "with a plane right in its worldbody or without a floor, as the terrain takes its place"
        )
    gone = {geom.name for geom in floors[1:] if geom.name}
    for pair in [pair for pair in spec.pairs if gone & {pair.geomname1, pair.geomname2}]:
        spec.delete(pair)
    for geom in floors[1:]:
        spec.delete(geom)
    for contact in [*colliding(spec, spec.geoms), *spec.pairs]:
        contact.solref, contact.solimp = STIFF_SOLREF, STIFF_SOLIMP
    floor, (elevation, range_m) = floors[0], _elevation(ground)
    num_rows, num_columns = ground.heights.shape
    half_x, half_y = 0.5 * ground.cell_m * (num_columns - 1), 0.5 * ground.cell_m * (num_rows - 1)
    size = [half_x, half_y, range_m, GROUND_DEPTH_M]
    name = free_name("ground", spec.hfields)
    spec.add_hfield(name=name, nrow=num_rows, ncol=num_columns, size=size, userdata=elevation.ravel())
    floor.type, floor.hfieldname, floor.quat = HFIELD, name, [1, 0, 0, 0]
    floor.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
    floor.pos = [ground.corner_m[0] + half_x, ground.corner_m[1] + half_y, float(ground.heights.min())]


def write_heights(model: mujoco.MjModel, ground: HeightField) -> None:
    """Write the ground's heights again: MuJoCo's compiler sets them to zero where all are equal."""
    model.hfield(model.geom_dataid[floor_id(model)]).data[...] = _elevation(ground)[0]


def _elevation(ground: HeightField) -> tuple[Array, float]:
    """Heights in MuJoCo's form: shares (R, C) from 0 to 1 of the range of heights, and that range in m."""
    above = ground.heights - ground.heights.min()
    range_m = max(float(above.max()), 1e-3)
    return (above / np.float32(range_m)).astype(np.float32), range_m


def free_name(name: str, elements: Iterable) -> str:
    """Return the name, with underscores added until no element has it."""
    taken = {element.name for element in elements}
    while name in taken:
        name += "_"
    return name


def floor_id(model: mujoco.MjModel) -> int:
    """Id of the geom that the robot stands on.

    It is the first plane or height field among the geoms that collide and stand still, or else the first such geom.
    """
    still = [geom for geom in colliding_ids(model) if model.body_weldid[model.geom_bodyid[geom]] == 0]
    return next((geom for geom in still if model.geom_type[geom] in (PLANE, HFIELD)), still[0])


def check_floor(model: mujoco.MjModel, feet: Iterable[int]) -> None:
    """Raise ValueError unless the floor is at z = 0.

    In the keyframe `home` the lowest point of the feet is 0.1 mm below that.
    """
    feet, data = set(feet), mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    mujoco.mj_forward(model, data)
    under = [contact for contact in data.contact if feet & set(contact.geom.tolist())]
    lowest = min(feet, key=lambda foot: lowest_point(model, data, foot))
    place = f"x = {data.geom_xpos[lowest, 0]:.2f}, y = {data.geom_xpos[lowest, 1]:.2f}"
    if not under:
        raise ValueError(
            f"no floor of the model's is under the feet, which touch z = 0 at {place}: expected a level floor "
            "at z = 0, or none at all, as one is added"
        )
    deepest = min(under, key=lambda contact: contact.dist)
    if deepest.dist < -SUNK_M:
        (other,) = set(deepest.geom.tolist()) - feet
        raise ValueError(
            f"at the default pose a foot, which touches z = 0 at {place}, is {-1e3 * deepest.dist:.0f} mm "
            f"inside {model.geom(other).name or 'a geom'!r}: expected a level floor at z = 0, and nothing above "
            "it there"
        )


def write_sliding_friction(field: Callable[[str], Array], coefficient: Array) -> None:
    """Make coefficient (...) the sliding friction of every contact.

    Every geom and every pair gets it, so that it does not matter which of two geoms decides. field gives live arrays by
    their name in MjModel: geom_friction (..., ngeom, 3) and pair_friction (..., npair, 5).
    """
    field("geom_friction")[..., 0] = coefficient[..., None]
    if (pairs := field("pair_friction")).size:
        pairs[..., :2] = coefficient[..., None, None]  # along both tangents


def set_sliding_friction(spec: mujoco.MjSpec, coefficient: float) -> None:
    """Do the same as write_sliding_friction in a spec that is not compiled yet."""
    for contact, tangents in [*((geom, 1) for geom in spec.geoms), *((pair, 2) for pair in spec.pairs)]:
        contact.friction[:tangents] = coefficient


def sliding_friction(field: Callable[[str], Array], model: mujoco.MjModel, floor: int, foot: int) -> Array:
    """Sliding friction between the floor and a foot's geom. (...).

    It comes from the pair that names both, or else from the geom that decides.
    field gives arrays by their name in MjModel, as for write_sliding_friction.
    Source of the rule: https://mujoco.readthedocs.io/en/stable/modeling.html#contact-parameters
    """
    pairs = [pair for pair in range(model.npair) if {model.pair_geom1[pair], model.pair_geom2[pair]} == {floor, foot}]
    if pairs:
        return field("pair_friction")[..., pairs[0], 0]
    of_floor, of_foot = (field("geom_friction")[..., geom, 0] for geom in (floor, foot))
    above = model.geom_priority[floor] - model.geom_priority[foot]
    return np.maximum(of_floor, of_foot) if above == 0 else of_floor if above > 0 else of_foot
