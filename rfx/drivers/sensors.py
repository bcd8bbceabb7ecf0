"""The sensors of rfx's tasks in a model: an IMU, touch and position of each foot, touch of the trunk.

We find sensors by name, and sites through their sensors. A site of the file that only shares a name with ours stays as
it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from rfx.drivers.contacts import colliding, colliding_ids, free_name, is_part
from rfx.drivers.shapes import box_around, inside, surface
from rfx.robot.config import FootConfig, RobotConfig

SPHERE, BOX = mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_BOX
SITE = mujoco.mjtObj.mjOBJ_SITE
SITE_M = 1e-4  # a geom may reach this far out of its site
# A site is this much larger than the geoms inside it, because contacts lie at their surface.
FOOT_SPARE_M, TRUNK_SPARE_M = (0.002, 0.005)


def add_sensors(
    spec: mujoco.MjSpec, config: RobotConfig, base: mujoco.MjsBody, feet: dict[str, list[mujoco.MjsGeom]]
) -> None:
    """Add rfx's sensors and their sites where the file lacks them. feet maps each foot's name to its geoms."""
    file = _Compiled(spec)
    imu, trunk = _imu(spec, file, base), _trunk(spec, file, base)
    _sense(spec, "imu_accelerometer", mujoco.mjtSensor.mjSENS_ACCELEROMETER, imu)
    _sense(spec, "imu_gyro", mujoco.mjtSensor.mjSENS_GYRO, imu)
    _sense(spec, "imu_framequat", mujoco.mjtSensor.mjSENS_FRAMEQUAT, imu)
    for foot in config.feet:
        site = _sole(spec, file, foot, feet[foot.name])
        _sense(spec, f"{foot.name}_foot_touch", mujoco.mjtSensor.mjSENS_TOUCH, site)
        _sense(spec, f"{foot.name}_foot_position", mujoco.mjtSensor.mjSENS_FRAMEPOS, site)
    _sense(spec, "base_touch", mujoco.mjtSensor.mjSENS_TOUCH, trunk)


def foot_sites(model: mujoco.MjModel, config: RobotConfig) -> list[int]:
    """Ids of the feet's sites."""
    return [int(model.sensor(f"{foot.name}_foot_touch").objid[0]) for foot in config.feet]


def foot_geoms(model: mujoco.MjModel, foot: FootConfig) -> list[int]:
    """Ids of a foot's geoms: the geoms in its config, or the geoms that collide on the body of its site."""
    named = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name) for name in foot.geoms]
    if named and min(named) >= 0:  # another model of the robot may call them otherwise
        return named
    body = model.site(foot.site).bodyid[0]
    return [geom for geom in colliding_ids(model) if model.geom_bodyid[geom] == body]


class _Compiled:
    """The compiled form of a spec. Elements are found by their place in the spec, so they need no name."""

    def __init__(self, spec: mujoco.MjSpec):
        copy = spec.copy()
        self.model = copy.compile()
        self._data = mujoco.MjData(self.model)
        mujoco.mj_kinematics(self.model, self._data)
        pairs = [*zip(spec.geoms, copy.geoms), *zip(spec.sites, copy.sites)]
        self._ids = {mine: theirs.id for mine, theirs in pairs}

    def place(self, site: mujoco.MjsSite) -> tuple[np.ndarray, bool]:
        """Position of a site in its body's frame, (3,), m, and whether the two have the same orientation."""
        return self.model.site_pos[self._ids[site]], abs(self.model.site_quat[self._ids[site], 0]) > 1.0 - 1e-9

    def center(self, geom: mujoco.MjsGeom) -> np.ndarray:
        """Position of a geom in its body's frame. (3,), m."""
        return self.model.geom_pos[self._ids[geom]]

    def encloses(self, site: mujoco.MjsSite, geoms: Sequence[mujoco.MjsGeom]) -> bool:
        """Whether a site encloses all of geoms; False without a geom, or if one is on another body."""
        points = [surface(self.model, self._data, self._ids[geom]) for geom in geoms if geom.parent is site.parent]
        return 0 < len(points) == len(geoms) and bool(
            inside(self.model, self._data, self._ids[site], np.concatenate(points), SITE_M).all()
        )

    def box(self, geoms: Sequence[mujoco.MjsGeom], spare_m: float) -> tuple[np.ndarray, np.ndarray]:
        """Centre and half sizes of a box around geoms of one body, in its frame. Two (3,), m."""
        return box_around(self.model, [self._ids[geom] for geom in geoms], spare_m)


def _sense(spec: mujoco.MjSpec, name: str, kind: mujoco.mjtSensor, site: str) -> None:
    """Make sure that a sensor of this name and kind is at the site.

    Another sensor of the file with this name loses the name.
    """
    for sensor in spec.sensors:
        if sensor.name == name:
            told = sensor.type, sensor.objtype, sensor.objname, sensor.refname, sensor.cutoff
            if told == (kind, SITE, site, "", 0.0):
                return
            sensor.name = ""
    spec.add_sensor(name=name, type=kind, objtype=SITE, objname=site)


def _imu(spec: mujoco.MjSpec, file: _Compiled, base: mujoco.MjsBody) -> str:
    """Name of the site `imu` if it is on the base with the base's orientation, or else of a new site."""
    position = np.zeros(3)
    if (site := spec.site("imu")) is not None and site.parent is base:
        position, upright = file.place(site)
        if upright:
            return "imu"
    name = free_name("imu", spec.sites)
    base.add_site(name=name, pos=position)
    return name


def _trunk(spec: mujoco.MjSpec, file: _Compiled, base: mujoco.MjsBody) -> str:
    """Name of the site `trunk`, or of a new site around the base.

    The file's site counts if it is on a part of the robot and encloses all colliding geoms of its body. A base without
    colliding geoms feels no touch.
    """
    site = spec.site("trunk")
    if site is not None and is_part(site.parent, base) and file.encloses(site, colliding(spec, site.parent.geoms)):
        return "trunk"
    name = free_name("trunk", spec.sites)
    if geoms := colliding(spec, base.geoms) or base.geoms:
        center, half_size = file.box(geoms, TRUNK_SPARE_M)
        base.add_site(name=name, type=BOX, pos=center, size=half_size)
    else:
        base.add_site(name=name)
    return name


def _sole(spec: mujoco.MjSpec, file: _Compiled, foot: FootConfig, geoms: list[mujoco.MjsGeom]) -> str:
    """Name of a foot's site.

    It is the site in the config, or a site that has the foot's name and encloses its geoms, or a new site around them.
    """
    name, body = foot.site or f"{foot.name}_foot", geoms[0].parent
    if (site := spec.site(name)) is not None:
        if foot.site or file.encloses(site, geoms):
            return name
        name = free_name(name, spec.sites)
    if len(geoms) == 1 and geoms[0].type == SPHERE:
        body.add_site(name=name, type=SPHERE, pos=file.center(geoms[0]), size=[geoms[0].size[0] + FOOT_SPARE_M, 0, 0])
    else:
        center, half_size = file.box([geom for geom in geoms if geom.parent is body], FOOT_SPARE_M)
        body.add_site(name=name, type=BOX, pos=center, size=half_size)
    return name
