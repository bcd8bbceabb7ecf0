"""Plays a policy on models of its robot with other physical figures, at several physics steps.

Published models of the same robot differ in such figures: joints, contacts, feet and masses.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
from rich.table import Table

from envs.legged.config import EnvConfig
from envs.settings.configs import compose, options
from rfx.drivers.contacts import colliding, set_sliding_friction
from rfx.robot.config import RobotConfig
from rfx.robot.files import find_mjcf
from rfx.settings.reader import read
from train.judge.conditions import fewer
from train.judge.evaluation import Evaluation, evaluate
from train.judge.play import Act, evaluation_env

TIMESTEPS_MS = (1.0, 2.0, 5.0, 10.0)
OWN = "its own"
CONES = {"pyramidal": mujoco.mjtCone.mjCONE_PYRAMIDAL, "elliptic": mujoco.mjtCone.mjCONE_ELLIPTIC}
SHAPES = {"box": mujoco.mjtGeom.mjGEOM_BOX, "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER}
TOUCH_SPARE_M = 0.002  # margin around a foot for its touch sensor


@dataclass(frozen=True, kw_only=True)
class ModelChange:
    """Changes to the figures of a robot's MJCF; None keeps the value in the file."""

    damping_nm_s: float | None = None  # of every joint, N m s/rad
    armature_kg_m2: float | None = None
    friction_nm: float | None = None  # dry friction of every joint
    floor_friction: float | None = None  # sliding coefficient of every contact
    cone: str | None = None
    impratio: float | None = None
    iterations: int | None = None  # largest number of solver iterations
    foot_solimp: tuple[float, ...] | None = None
    foot_radius_scale: float | None = None
    foot_shape: str | None = None  # box or cylinder, as high as the sphere that it replaces
    mass_scale: float | None = None  # factor of every body's mass and inertia

    def __post_init__(self) -> None:
        for name, known in (("cone", CONES), ("foot_shape", SHAPES)):
            if getattr(self, name) not in (None, *known):
                raise ValueError(f"got {name} {getattr(self, name)!r}: it must be {' or '.join(known)}")

    @property
    def needs_spheres(self) -> bool:
        """Whether the change applies only to feet that are spheres."""
        return self.foot_radius_scale is not None or self.foot_shape is not None


def published(robot: str) -> dict[str, ModelChange]:
    """The changes in configs/models/ for a robot by its name, or the default ones, by the name of each change.

    Raises ValueError for an unknown key.
    """
    found = compose("models", robot if robot in options("models") else "default")
    return {name: read(ModelChange, values, f"models.{name}") for name, values in found.items()}


def changed_model(robot: RobotConfig, change: ModelChange, mjcf: str | None = None) -> mujoco.MjSpec | None:
    """The robot's MJCF with the change; None if the change needs feet that are spheres, and the robot has others."""
    path = find_mjcf(robot, mjcf)
    spec = mujoco.MjSpec.from_file(str(path))
    spec.meshdir, spec.texturedir = (
        str((path.parent / folder).resolve()) for folder in (spec.meshdir, spec.texturedir)
    )
    feet = _foot_geoms(spec, robot)
    if change.needs_spheres and not all(geom.type == mujoco.mjtGeom.mjGEOM_SPHERE for geom in feet):
        return None
    for joint in (joint for joint in spec.joints if joint.name in robot.joint_names):
        if change.damping_nm_s is not None:
            joint.damping[0] = change.damping_nm_s
        joint.armature = joint.armature if change.armature_kg_m2 is None else change.armature_kg_m2
        joint.frictionloss = joint.frictionloss if change.friction_nm is None else change.friction_nm
    if change.floor_friction is not None:
        set_sliding_friction(spec, change.floor_friction)
    if change.cone is not None:
        spec.option.cone = CONES[change.cone]
    if change.impratio is not None:
        spec.option.impratio = change.impratio
    if change.iterations is not None:
        spec.option.iterations = change.iterations
    if change.foot_solimp is not None:
        # The floor's contacts too, because the geom with the higher priority decides.
        for contact in [*feet, *spec.worldbody.geoms, *spec.pairs]:
            contact.solimp = change.foot_solimp
    for geom in feet:
        _reshape(geom, change)
    if change.mass_scale is not None:
        for body in spec.bodies:
            body.mass, body.inertia = change.mass_scale * body.mass, change.mass_scale * body.inertia
        for geom in spec.geoms:  # for bodies whose inertia is computed from their geoms
            geom.mass, geom.density = change.mass_scale * geom.mass, change.mass_scale * geom.density
    return spec


def _foot_geoms(spec: mujoco.MjSpec, robot: RobotConfig) -> list[mujoco.MjsGeom]:
    """The geoms that the robot's feet name, or else the colliding geoms on the body of each foot's site."""
    named = [spec.geom(name) for foot in robot.feet for name in foot.geoms]
    bodies = [spec.site(foot.site).parent for foot in robot.feet if not foot.geoms and foot.site]
    return [*filter(None, named), *(geom for body in bodies for geom in colliding(spec, body.geoms))]


def _reshape(geom: mujoco.MjsGeom, change: ModelChange) -> None:
    """Give a spherical foot another radius or shape, and enlarge the touch sensor's sites around it."""
    radius = geom.size[0] * (change.foot_radius_scale or 1.0)
    if change.foot_radius_scale is not None:
        geom.size = [radius, 0.0, 0.0]
    if change.foot_shape is None:
        return
    geom.type, geom.size = SHAPES[change.foot_shape], [radius, radius, radius if change.foot_shape == "box" else 0.0]
    if change.foot_shape == "cylinder":
        geom.quat = [math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0]  # the cylinder lies along y
    for site in geom.parent.sites:
        if math.dist(site.pos, geom.pos) < radius:
            site.type, site.size, site.pos = SHAPES["box"], [radius + TOUCH_SPARE_M] * 3, geom.pos


class Models:
    """Plays one policy on every changed model of its robot in configs/models/.

    Each model is played for duration_s with a quarter of a quarter of num_envs robots. Raises ValueError for a figure
    that does not exist.
    """

    def __init__(
        self,
        act: Act,
        task: EnvConfig,
        robot: RobotConfig,
        *,
        num_envs: int,
        duration_s: float,
        seed: int,
        threads: int = 0,
        tell: Callable[[str], None] = lambda line: None,
        timesteps_ms: Sequence[float] = TIMESTEPS_MS,
    ):
        self._act, self._task, self._robot, self._tell, self._threads = act, task, robot, tell, threads
        self._num_envs, self._duration_s, self._seed = fewer(fewer(num_envs)), duration_s, seed
        step_ms = 1e3 / robot.control_freq_hz
        self._timesteps_ms = [step for step in timesteps_ms if math.isclose(step_ms / step, round(step_ms / step))]
        self._changes = {OWN: ModelChange()} | published(robot.name)

    def run(self) -> dict[str, dict[float, Evaluation]]:
        """Evaluations by model, and by physics step in ms, the robot's own first.

        Skips changes that do not fit the robot's feet, and changes that are equal to the robot's own file.
        """
        results: dict[str, dict[float, Evaluation]] = {}
        with tempfile.TemporaryDirectory() as folder:
            path, written = Path(folder) / "model.xml", set()
            for name, change in self._changes.items():
                spec = changed_model(self._robot, change, self._task.mjcf)
                text = spec.to_xml() if spec else ""
                if not text or text in written:
                    continue
                written.add(text)
                path.write_text(text)
                results[name] = {
                    step_ms: self._evaluate(f"{name}, {step_ms:g} ms", path, step_ms) for step_ms in self._timesteps_ms
                }
        return results

    def _evaluate(self, line: str, path: Path, step_ms: float) -> Evaluation:
        self._tell(line)
        env = evaluation_env(
            self._task,
            self._robot,
            num_envs=self._num_envs,
            threads=self._threads,
            timestep_s=1e-3 * step_ms,
            mjcf=str(path),
        )
        return evaluate(self._act, env, seed=self._seed, duration_s=self._duration_s)


def models_table(results: Mapping[str, Mapping[float, Evaluation]]) -> Table:
    """Table of the falls and the error of vx, by model and physics step."""
    first: Any = next(iter(next(iter(results.values())).values()))
    table = Table(
        box=None,
        pad_edge=False,
        title=f"Falls per 20 s and error of vx (m/s), {first.num_envs} robots x {first.duration_s:g} s; no fall "
        f"bounds the rate at {3.0 / first.episodes:.2f}",
        title_justify="left",
    )
    table.add_column("figures of the robot")
    for step_ms in next(iter(results.values())):
        table.add_column(f"{step_ms:g} ms", justify="right")
    for name, of_model in results.items():
        table.add_row(name, *(f"{result.falls_per_episode:.2f}  {result.error_vx:.3f}" for result in of_model.values()))
    return table
