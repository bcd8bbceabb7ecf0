"""What is wrong with a robot's two files: robot.yaml against its MJCF, feet, mirror images, and whether it stands. `rfx check-robot`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
    os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is first imported, which then draws without a screen

import mujoco
import numpy as np
from mujoco.batch import Batch

from rfx.config import RobotConfig
from rfx.mirror import Mirror
from rfx.observe import observation_width
from rfx.robot_files import find_mjcf
from rfx.robots.mjcf import load_model, lowest_point, motor_addresses
from rfx.state import Array

TIMESTEPS_S = (0.002, 0.005, 0.01)
STAND_S, MAX_SINK, MAX_TILT_RAD = 5.0, 0.25, 0.15  # sink: share of the height at which it is put down
FOOT_M = 3e-3  # from the lowest foot to the highest, in the default pose
MIRROR_M, MIRROR_KG = 5e-3, 1e-2  # published masses and axes of the two sides differ by this much
MOST_TORQUE, MUCH_TORQUE = 0.9, 0.6  # share of a motor's torque that standing may take
SPEED_ENVS = 64


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check: ok, or a warning or mistake with what to do about it."""

    check: str
    status: str  # ok, warning or mistake
    text: str
    mend: str = ""


def check_robot(config: RobotConfig) -> list[Finding]:
    """All checks that its files allow: where a model cannot be made of them, the reason is the last finding. Raises FileNotFoundError."""
    findings = list(_against_the_file(config))
    if not config.feet:
        return [*findings, Finding(check="feet", status="mistake", text="robot.yaml names none", mend="add feet: [{name: ..., geoms: [...]}]")]
    try:
        model = load_model(config)
    except ValueError as error:
        return [*findings, Finding(check="model", status="mistake", text=str(error), mend="correct robot.yaml or the MJCF: all else needs a model")]
    for check in (_ranges, _feet, _mirror, _widths, _stands, _speed):
        findings += check(config, model)
    return findings


def _against_the_file(config: RobotConfig) -> Iterator[Finding]:
    """What the MJCF itself says of the joints, before rfx puts the config's gains and limits into it."""
    spec = mujoco.MjSpec.from_file(str(find_mjcf(config)))
    there = {joint.name: joint for joint in spec.joints}
    missing = [name for name in config.joint_names if name not in there]
    if missing:
        named = ", ".join(name for name in there if name and name not in config.joint_names) or "no other"
        yield Finding(check="joints", status="mistake", text=f"the MJCF lacks {', '.join(missing)}",
                      mend=f"write the names as the MJCF has them; it also has {named}")
        return
    yield Finding(check="joints", status="ok", text=f"{len(config.joints)} by name")
    try:
        own = spec.compile()
    except ValueError as error:
        yield Finding(check="MJCF", status="mistake", text=str(error), mend="correct the file until MuJoCo compiles it")
        return
    for joint in config.joints:
        index = own.joint(joint.name).id
        limits = [own.jnt_actfrcrange[index, 1]] if own.jnt_actfrclimited[index] else []
        driving = np.flatnonzero((own.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT) & (own.actuator_trnid[:, 0] == index))
        limits += [own.actuator_forcerange[a, 1] for a in driving if own.actuator_forcelimited[a]]
        if limits and joint.max_torque_nm > 1.01 * min(limits):
            yield Finding(check="torque limits", status="mistake", text=f"{joint.name}: max_torque_nm {joint.max_torque_nm:g}, the MJCF allows "
                          f"{min(limits):g}", mend="take the smaller one, or correct the MJCF")


def _ranges(config: RobotConfig, model: mujoco.MjModel) -> Iterator[Finding]:
    wrong = []
    for joint in config.joints:
        low, high = model.joint(joint.name).range
        if model.jnt_limited[model.joint(joint.name).id] and (joint.min_rad < low - 1e-3 or joint.max_rad > high + 1e-3):
            wrong.append(Finding(check="ranges", status="mistake", text=f"{joint.name}: [{joint.min_rad:g}, {joint.max_rad:g}] rad, the MJCF has "
                                 f"[{low:g}, {high:g}]", mend="let min_rad and max_rad lie within the MJCF's range"))
    yield from wrong or [Finding(check="ranges", status="ok", text="within those of the MJCF")]


def _feet(config: RobotConfig, model: mujoco.MjModel) -> Iterator[Finding]:
    data = _home(model)
    heights, wrong = {}, []
    for foot in config.feet:
        geoms = [model.geom(name).id for name in foot.geoms if name in _names(model)]
        site = model.site(foot.site or f"{foot.name}_foot")
        geoms = geoms or [g for g in np.flatnonzero(model.geom_bodyid == site.bodyid[0]) if model.geom_contype[g] or model.geom_conaffinity[g]]
        heights[foot.name] = min(lowest_point(model, data, geom) for geom in geoms)
        lowest = min(geoms, key=lambda geom: lowest_point(model, data, geom))
        point = data.geom_xpos[lowest] * [1, 1, 0] + [0, 0, heights[foot.name]]
        if not _inside(model, data, site.id, point):
            wrong.append(Finding(check="feet", status="mistake", text=f"{foot.name}: the lowest point of {model.geom(lowest).name or 'its geom'} is "
                                 f"outside the site {site.name!r}, so its contacts are not felt", mend="make the site 2 mm larger than the geoms"))
    apart = max(heights.values()) - min(heights.values())
    if apart > FOOT_M:
        high = max(heights, key=heights.get)
        wrong.append(Finding(check="feet", status="mistake", text=f"in the default pose {high} is {1e3 * apart:.0f} mm above the lowest foot",
                             mend="change default_rad of its leg until all feet are on the ground"))
    yield from wrong or [Finding(check="feet", status="ok", text=f"{', '.join(heights)}: within {1e3 * apart:.1f} mm in the default pose")]


def _mirror(config: RobotConfig, model: mujoco.MjModel) -> Iterator[Finding]:
    if not any(joint.mirror for joint in config.joints):
        yield Finding(check="mirror", status="warning", text="no joint has a mirror image: policy.symmetric must be false",
                      mend="say mirror and mirror_sign of every joint: walking is then learned from a third of the steps")
        return
    try:
        mirror = Mirror(config)
    except ValueError as error:
        yield Finding(check="mirror", status="mistake", text=str(error), mend="correct mirror and mirror_sign in robot.yaml")
        return
    motors, wrong = motor_addresses(model, config), []
    position = config.default_position + 0.2 * np.random.default_rng(0).uniform(-1, 1, len(config.joints)).astype(np.float32)
    here, there = (_placed(model, motors.qpos, values) for values in (position, mirror.action(position)))
    bodies = {joint.name: model.jnt_bodyid[model.joint(joint.name).id] for joint in config.joints}
    for joint in config.joints:
        own, image = bodies[joint.name], bodies[joint.mirror]
        off = np.abs(here.xpos[own] * [1, -1, 1] - there.xpos[image]).max() + np.abs(here.xipos[own] * [1, -1, 1] - there.xipos[image]).max()
        if off > MIRROR_M or abs(model.body_mass[own] - model.body_mass[image]) > MIRROR_KG:
            wrong.append(Finding(check="mirror", status="mistake", text=f"{joint.name} and {joint.mirror}: mirrored, their bodies are {1e3 * off:.0f} "
                                 f"mm and {abs(model.body_mass[own] - model.body_mass[image]):.3f} kg apart",
                                 mend="turn mirror_sign of this joint or of one above it around, or name another mirror"))
    yield from wrong[:1] or [Finding(check="mirror", status="ok", text="masses and geometry of the two sides agree")]


def _widths(config: RobotConfig, model: mujoco.MjModel) -> Iterator[Finding]:
    width = observation_width(config)
    text = f"observation {width} of {config.max_state_dim}, actions {config.action_dim} of {config.max_action_dim}"
    if width != config.state_dim:
        yield Finding(check="widths", status="mistake", text=f"{text}; state_dim says {config.state_dim}", mend="leave state_dim out: it follows")
    else:
        yield Finding(check="widths", status="ok", text=text)


def _stands(config: RobotConfig, model: mujoco.MjModel) -> Iterator[Finding]:
    fallen = []
    for timestep_s in TIMESTEPS_S:
        model.opt.timestep = timestep_s
        data = _home(model)
        height = data.qpos[2]
        mujoco.mj_step(model, data, round(STAND_S / timestep_s))
        sink, tilt = 1.0 - data.qpos[2] / height, np.arccos(np.clip(1.0 - 2.0 * (data.qpos[4] ** 2 + data.qpos[5] ** 2), -1.0, 1.0))
        if not (sink < MAX_SINK and tilt < MAX_TILT_RAD):
            fallen.append(f"{1e3 * timestep_s:g} ms (sinks by {sink:.0%}, tilts by {tilt:.2f} rad)")
        elif timestep_s == TIMESTEPS_S[0]:
            share = np.abs(data.actuator_force) / np.maximum(model.actuator_forcerange[:, 1], 1e-9)
            worst = int(share.argmax())
            yield Finding(check="torque", status="mistake" if share[worst] > MOST_TORQUE else "warning" if share[worst] > MUCH_TORQUE else "ok",
                          text=f"standing takes {share[worst]:.0%} of the torque of {model.actuator(worst).name}",
                          mend="" if share[worst] <= MUCH_TORQUE else "straighten the default pose, or check max_torque_nm and masses")
    if len(fallen) == len(TIMESTEPS_S) or fallen and not fallen[0].startswith("10"):
        yield Finding(check="stands", status="mistake", text=f"not for {STAND_S:g} s under its gains, at physics steps of {'; '.join(fallen)}",
                      mend="raise kp, put the centre of mass over the feet in the default pose, or lower kd where a light link chatters")
    elif fallen:
        yield Finding(check="stands", status="warning", text=f"not at a physics step of {fallen[0]}", mend="train with env.timestep_s=0.005")
    else:
        yield Finding(check="stands", status="ok", text=f"{STAND_S:g} s under its gains at 2, 5 and 10 ms")


def _speed(config: RobotConfig, model: mujoco.MjModel) -> Iterator[Finding]:
    model.opt.timestep = 0.01
    batch = Batch(model, SPEED_ENVS, 0)
    batch.reset(keyframe=model.key("home").id)
    batch.bind("ctrl")[...] = model.key("home").ctrl
    num_substeps, steps = max(1, round(1.0 / config.control_freq_hz / 0.01)), 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.5:
        batch.step(nstep=num_substeps)
        steps += SPEED_ENVS
    yield Finding(check="speed", status="ok", text=f"{steps / (time.perf_counter() - begin):,.0f} control steps/s of mujoco.batch at 10 ms")


def draw(config: RobotConfig, path: Path) -> None:
    """Write a picture of the robot in its default pose as PNG. Raises ImportError naming the extra, or RuntimeError without OpenGL."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("a picture needs Pillow, which is not installed: pip install -e '.[viz]'") from error
    model = load_model(config, visual=True)
    data, camera = _home(model), mujoco.MjvCamera()
    camera.lookat[:] = data.qpos[:3] * [1, 1, 0.7]
    camera.azimuth, camera.elevation, camera.distance = 130.0, -15.0, 3.2 * data.qpos[2] + 0.8
    try:
        renderer = mujoco.Renderer(model, 480, 640)
        renderer.update_scene(data, camera)
        Image.fromarray(renderer.render()).save(path)
    except Exception as error:  # whatever OpenGL lacks
        raise RuntimeError(f"no OpenGL to draw with: {error}; without a screen set MUJOCO_GL=egl") from error


def _home(model: mujoco.MjModel) -> mujoco.MjData:
    """The robot in its default pose on the ground."""
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    mujoco.mj_forward(model, data)
    return data


def _placed(model: mujoco.MjModel, qpos: Array, position: Array) -> mujoco.MjData:
    """The robot at its home with its joints at position (num_joints,)."""
    data = _home(model)
    data.qpos[qpos] = position
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    return data


def _inside(model: mujoco.MjModel, data: mujoco.MjData, site: int, point: Array) -> bool:
    """Whether a point in the world lies in a site that is a sphere or a box, give or take a tenth of a millimetre."""
    local, size = data.site_xmat[site].reshape(3, 3).T @ (point - data.site_xpos[site]), model.site_size[site]
    if model.site_type[site] == mujoco.mjtGeom.mjGEOM_SPHERE:
        return bool(np.linalg.norm(local) <= size[0] + 1e-4)
    return bool((np.abs(local) <= size + 1e-4).all()) if model.site_type[site] == mujoco.mjtGeom.mjGEOM_BOX else True


def _names(model: mujoco.MjModel) -> set[str]:
    return {model.geom(index).name for index in range(model.ngeom)}


def report(findings: list[Finding], tell: Callable[[str], None]) -> bool:
    """Tell every finding in a line, and each mend below it. Returns whether there is no mistake."""
    marks = {"ok": "ok      ", "warning": "warning ", "mistake": "MISTAKE "}
    for finding in findings:
        tell(f"{marks[finding.status]} {finding.check:14} {finding.text}")
        if finding.mend:
            tell(f"{'':24}{finding.mend}")
    return all(finding.status != "mistake" for finding in findings)
