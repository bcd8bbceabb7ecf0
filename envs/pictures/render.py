"""Pictures and videos of a robot's motion; without a screen it draws through EGL."""

from __future__ import annotations

import atexit
import importlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rfx.system.screen import has_screen

if not has_screen():
    os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco.egl is first imported

import mujoco
import numpy as np

from rfx.drivers.base import base_addresses
from rfx.robot.state import Array
from rfx.system.extras import missing

AHEAD_M = 0.03  # arrows begin this far ahead of the foremost point of the base
COMMANDED_RGBA, ACTUAL_RGBA = (0.05, 0.45, 0.95, 1.0), (1.0, 0.5, 0.05, 1.0)


def render_frames(
    model: mujoco.MjModel,
    qpos: Array,
    *,
    width: int = 1280,
    height: int = 720,
    camera: str = "tracking",
    commanded_velocity: Array | None = None,
    actual_velocity: Array | None = None,
) -> Iterator[Array]:
    """Draw a motion, one picture for each row of qpos (T, nq): uint8 arrays (height, width, 3).

    Load the model with `load_model(..., visual=True)` to see the robot's visual geoms; otherwise the pictures show its
    collision geoms.
    Velocities (T, 3) are vx and vy in m/s and yaw rate in rad/s, in the base frame. They appear on the floor as arrows
    from the nose, along its path over half a second: blue for the commanded velocity, orange for the actual one.
    Raises ValueError for wrong shapes or an unknown camera, and RuntimeError if OpenGL is missing.
    """
    qpos = np.asarray(qpos)
    if qpos.ndim != 2 or qpos.shape[1] != model.nq:
        raise ValueError(f"qpos has shape {qpos.shape}, expected (T, {model.nq}), one row a picture")
    unknown = [None] * len(qpos)
    commanded, actual = (
        unknown if velocity is None else np.asarray(velocity) for velocity in (commanded_velocity, actual_velocity)
    )
    for velocity in (commanded, actual):
        if velocity is not unknown and velocity.shape != (len(qpos), 3):
            raise ValueError(
                f"a velocity has shape {velocity.shape}, expected ({len(qpos)}, 3) like qpos: vx, vy, yaw rate"
            )
    return render_live(model, zip(qpos, commanded, actual), width=width, height=height, camera=camera)


def render_live(
    model: mujoco.MjModel,
    poses: Iterable[tuple[Array, Array | None, Array | None]],
    *,
    width: int = 1280,
    height: int = 720,
    camera: str = "tracking",
) -> Iterator[Array]:
    """The same as render_frames, for poses that arrive one after the other.

    A pose is qpos (nq,), and the commanded and the actual velocity (3,), or None for either.
    """
    cameras = [model.camera(index).name for index in range(model.ncam)]
    if camera not in {*cameras, "tracking"}:
        raise ValueError(f"no camera {camera!r} in the model: possible are {', '.join({*cameras, 'tracking'})}")
    return _frames(model, poses, _Canvas(model, width, height), _camera(model, camera))


def write_video(path: str | Path, frames: Iterable[Array], fps_hz: float) -> None:
    """Write pictures (H, W, 3), uint8, with even H and W, as an H.264 video that browsers play.

    Raises ImportError that names a missing extra, and ValueError for an odd size or no frames.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise missing("writing a video", "imageio_ffmpeg") from error
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("a video needs at least one frame, got none")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"a video of {width} x {height} pixels cannot be encoded: make both sizes even")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps_hz,
        codec="libx264",
        quality=None,
        macro_block_size=1,
        pix_fmt_out="yuv420p",
        ffmpeg_log_level="error",
        output_params=["-crf", "20", "-movflags", "+faststart"],
    )
    writer.send(None)
    try:
        for frame in itertools.chain((first,), frames):
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()


def write_picture(path: str | Path, frame: Array) -> None:
    """Write one picture (H, W, 3), uint8, as PNG. Raises ImportError that names a missing extra."""
    try:
        from matplotlib.image import imsave
    except ImportError as error:
        raise missing("writing a picture", "matplotlib") from error
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    imsave(path, frame, format="png")


class _Canvas:
    """An off-screen OpenGL buffer, and the scene to draw into it.

    mujoco.Renderer is not usable here, because it fixes the OpenGL backend when mujoco is first imported.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int):
        self._gl = _open_gl(width, height)
        size = model.vis.global_
        before = size.offwidth, size.offheight
        size.offwidth, size.offheight = max(width, before[0]), max(height, before[1])
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        size.offwidth, size.offheight = before
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self.scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 200)
        atexit.register(self.close)  # the owner may be collected only after OpenGL has ended

    def draw(self) -> Array:
        """Draw the scene as a picture (height, width, 3), uint8."""
        self._gl.make_current()
        frame = np.empty((self._rect.height, self._rect.width, 3), np.uint8)
        mujoco.mjr_render(self._rect, self.scene, self._context)
        mujoco.mjr_readPixels(frame, None, self._rect, self._context)
        return frame[::-1]  # OpenGL's rows run upwards

    def close(self) -> None:
        """Free OpenGL's memory, once."""
        if self._gl is None:
            return
        atexit.unregister(self.close)
        self._gl.make_current()
        self._context.free()
        self._gl.free()
        self._gl = None


def _open_gl(width: int, height: int):
    """Make an OpenGL context of the kind in MUJOCO_GL, and make it current. Raises RuntimeError without OpenGL."""
    kind = os.environ.get("MUJOCO_GL", "").lower()
    try:
        module = importlib.import_module(f"mujoco.{kind}" if kind in ("egl", "osmesa") else "mujoco.gl_context")
        context = module.GLContext(width, height)
        context.make_current()
        return context
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # a missing library surfaces as any of these
        raise RuntimeError(
            f"no OpenGL to draw with (MUJOCO_GL={kind or 'not set'}): {error}. Without a screen, set MUJOCO_GL=egl; "
            "on Debian and Ubuntu install the packages libegl1 and libgl1"
        ) from error


def _frames(model: mujoco.MjModel, poses: Iterable, canvas: _Canvas, camera: mujoco.MjvCamera) -> Iterator[Array]:
    data, options, base = mujoco.MjData(model), mujoco.MjvOption(), _base(model)
    nose_m = _foremost(model, base) + AHEAD_M
    if not np.any((model.geom_group < 3) & (model.geom_bodyid > 0)):
        options.geomgroup[3] = 1  # no visual geoms: draw the collision geoms
    try:
        for qpos, *velocities in poses:
            data.qpos[:] = qpos
            for compute in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight):
                compute(model, data)
            mujoco.mjv_updateScene(model, data, options, None, camera, mujoco.mjtCatBit.mjCAT_ALL, canvas.scene)
            arrows = [
                (velocity, rgba)
                for velocity, rgba in zip(velocities, (COMMANDED_RGBA, ACTUAL_RGBA))
                if velocity is not None
            ]
            for layer, (velocity, rgba) in enumerate(arrows):
                way = _way_of_the_nose(data.xpos[base], data.xmat[base], velocity, nose_m)
                _add_arrow(canvas.scene, way, rgba, _ground_height(model, data, base, way) + 0.01 + 0.01 * layer)
            yield canvas.draw()
    finally:
        canvas.close()


def _base(model: mujoco.MjModel) -> int:
    """The robot's base; in a model that is not from load_model, the first floating body, or else the first body."""
    if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SENSOR, "base_touch") >= 0:
        return base_addresses(model).body
    free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
    return int(model.jnt_bodyid[free[0]]) if len(free) else min(1, model.nbody - 1)


def _foremost(model: mujoco.MjModel, body: int) -> float:
    """How far the geoms of a body reach along its x axis, m."""
    reach, rotation = [0.0], np.zeros(9)
    for geom in np.flatnonzero(model.geom_bodyid == body):
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        center, half_size = model.geom_aabb[geom].reshape(2, 3)
        reach.append(model.geom_pos[geom, 0] + rotation[:3] @ center + np.abs(rotation[:3]) @ half_size)
    return max(reach)


def _camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    """The model's camera called name; `tracking` follows the base even in a model without such a camera."""
    camera = mujoco.MjvCamera()
    camera.fixedcamid = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
    if camera.fixedcamid >= 0:
        camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    else:
        camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, _base(model)
        camera.azimuth, camera.elevation, camera.distance = 130.0, -12.0, 1.6
    return camera


def _way_of_the_nose(position: Array, rotation: Array, velocity: Array, nose_m: float) -> Array:
    """The path of the nose over half a second at a velocity (vx, vy, yaw rate) in the base frame. (11, 2), m, world.

    The nose is nose_m ahead of the base.
    """
    seconds = np.linspace(0.0, 0.5, 11)
    heading = np.arctan2(rotation[3], rotation[0]) + velocity[2] * seconds
    middle = 0.5 * (heading[1:] + heading[:-1])
    steps = np.diff(seconds)[:, None] * np.stack(
        (
            velocity[0] * np.cos(middle) - velocity[1] * np.sin(middle),
            velocity[0] * np.sin(middle) + velocity[1] * np.cos(middle),
        ),
        axis=1,
    )
    base = position[:2] + np.concatenate((np.zeros((1, 2)), np.cumsum(steps, axis=0)))
    return base + nose_m * np.stack((np.cos(heading), np.sin(heading)), axis=1)


def _ground_height(model: mujoco.MjModel, data: mujoco.MjData, base: int, way: Array) -> Array:
    """Height of the floor below the points of a path (K, 2). (K,), m."""
    if not model.nhfield:
        return np.zeros(len(way))
    # Group 0 is the floor's; the robot's geoms are in other groups.
    above, groups = (data.xpos[base, 2] + 1.0, np.array([1, 0, 0, 0, 0, 0], np.uint8))
    distance = [
        mujoco.mj_ray(
            model, data, np.append(point, above), np.array([0.0, 0.0, -1.0]), groups, 1, -1, np.zeros(1, np.int32)
        )
        for point in way
    ]
    return np.where(np.array(distance) >= 0, above - np.array(distance), 0.0)


def _add_arrow(scene: mujoco.MjvScene, way: Array, rgba: tuple, height_m: Array) -> None:
    """Draw an arrow along a path (K, 2) at height_m (K,); a path shorter than 2 cm gets none."""
    if np.linalg.norm(np.diff(way, axis=0), axis=1).sum() < 0.02:
        return
    last = way[-1] - way[-2]
    angles = np.arctan2(last[1], last[0]) + np.array((-2.5, 2.5))
    barbs = way[-1] + 0.07 * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    way, barbs = np.column_stack((way, height_m)), np.column_stack((barbs, height_m[[-1, -1]]))
    for begin, end in [*zip(way[:-1], way[1:]), (way[-1], barbs[0]), (way[-1], barbs[1])]:
        geom = scene.geoms[scene.ngeom]
        mujoco.mjv_initGeom(
            geom, mujoco.mjtGeom.mjGEOM_CAPSULE, np.zeros(3), np.zeros(3), np.zeros(9), np.array(rgba, np.float32)
        )
        mujoco.mjv_connector(geom, mujoco.mjtGeom.mjGEOM_CAPSULE, 0.01, begin, end)
        geom.category, geom.emission = mujoco.mjtCatBit.mjCAT_DECOR, 0.4
        scene.ngeom += 1
