"""Prints the checks of a robot as a table with one line for each finding, and draws the robot."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np
from rich.console import Console
from rich.table import Table

from rfx.check import check_robot
from rfx.check.finding import MISTAKE, OK, WARNING, Check
from rfx.drivers.base import base_addresses
from rfx.drivers.mjcf import load_model
from rfx.robot.config import RobotConfig
from rfx.robot.files import load_robot
from rfx.robot.state import Array

COLORS = {OK: "green", WARNING: "yellow", MISTAKE: "red"}
WIDTH, HEIGHT = 960, 720  # pixels


def report(source: str | Path, picture: str | None, console: Console) -> None:
    """Check the robot in a folder, or the robot with this name, then print the result and draw the picture.

    Raises ValueError if there is a mistake, and like check_robot.
    """
    checks = check_robot(source)
    show(checks, console)
    mistakes = sum(finding.verdict == MISTAKE for check in checks for finding in check.findings)
    if picture:
        try:
            draw(load_robot(source), picture)
        except (RuntimeError, ValueError, OSError) as error:
            console.print(f"no picture: {' '.join(str(error).split())}", markup=False, highlight=False, soft_wrap=True)
    if mistakes:
        raise ValueError(f"{source}: {mistakes} mistake{'s' if mistakes > 1 else ''}")


def show(checks: Sequence[Check], console: Console) -> None:
    """Print the table, and below it each finding with how to mend it."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for check in checks:
        table.add_row(check.name, f"[{COLORS[check.verdict]}]{check.verdict}[/]", check.measured)
    console.print(table, highlight=False)
    for check in checks:
        for finding in check.findings:
            console.print(f"[{COLORS[finding.verdict]}]{finding.verdict}:[/] ", end="", soft_wrap=True)
            console.print(f"{finding.text}: {finding.mend}", markup=False, highlight=False, soft_wrap=True)


def draw(config: RobotConfig, path: str | Path, qpos: Array | None = None) -> None:
    """Write a picture of the robot at its default pose, or at qpos (nq,), as PNG.

    Raises RuntimeError without OpenGL.
    """
    model = load_model(config, visual=True)
    model.vis.global_.offwidth, model.vis.global_.offheight = (
        max(model.vis.global_.offwidth, WIDTH),
        max(model.vis.global_.offheight, HEIGHT),
    )
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    position = base_addresses(model).position
    distance_m = 4.0 * data.qpos[position][2]
    if qpos is not None:
        data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    camera, options = mujoco.MjvCamera(), mujoco.MjvOption()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = data.qpos[position], distance_m, 130.0, -15.0
    if not np.any((model.geom_group < 3) & (model.geom_bodyid > 0)):
        options.geomgroup[3] = 1  # a model without visual geoms: draw the colliding geoms
    try:
        with warnings.catch_warnings(action="ignore"), mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
            renderer.update_scene(data, camera, options)
            picture = renderer.render()
    except Exception as error:  # a missing library can raise any exception
        raise RuntimeError(
            f"no OpenGL to draw with: {error}; without a screen set MUJOCO_GL=egl, and install libegl1 and libgl1"
        ) from error
    Path(path).write_bytes(png(picture))


def png(picture: Array) -> bytes:
    """Encode a picture (H, W, 3), uint8, as a PNG file: https://www.w3.org/TR/png/."""
    height, width, _ = picture.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = picture.reshape(height, -1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows.tobytes()))
        + chunk(b"IEND", b"")
    )
