"""Where robots are on disk: each is a folder of two files, robot.yaml and the MJCF that it names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rfx.config import RobotConfig
from rfx.observe import observation_width
from rfx.reader import read_yaml
from rfx.terms import nearest

ASSETS = Path(__file__).resolve().parents[1] / "assets"
FILE = "robot.yaml"


def load_robot(source: str | Path) -> RobotConfig:
    """The robot called source in rfx's assets, or the one in a folder or a robot.yaml at that path.

    state_dim and action_dim follow from its observation terms and joints unless the file says them; mjcf becomes a path inside the
    assets, or an absolute one for a robot from elsewhere. Raises ValueError for an unknown name, or a file that says something wrong.
    """
    path = _find(source)
    try:
        values, widths = read_yaml(path), {}
        if isinstance(values, dict) and values.get("joints") and values.get("observation_terms"):
            widths = {"state_dim": 1, "action_dim": len(values["joints"])}
        config = RobotConfig.from_dict({**widths, **values} if widths else values)
        if widths and "state_dim" not in values:
            config = dataclasses.replace(config, state_dim=observation_width(config))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if config.mjcf:
        mjcf = (path.parent / config.mjcf).resolve()
        config = dataclasses.replace(config, mjcf=str(mjcf.relative_to(ASSETS)) if mjcf.is_relative_to(ASSETS) else str(mjcf))
    return config


def find_mjcf(config: RobotConfig) -> Path:
    """Path of the robot's MJCF. Raises FileNotFoundError where it is not there, ValueError where the config names none."""
    if not config.mjcf:
        raise ValueError(f"robot {config.name!r} names no MJCF: give the path of a model file, or say mjcf in its {FILE}")
    path = ASSETS / config.mjcf  # an absolute path stays as it is
    if not path.is_file():
        raise FileNotFoundError(f"no MJCF of robot {config.name!r} at {path}: give its path, mjcf=PATH")
    return path


def robot_names() -> list[str]:
    """Names of the robots in rfx's assets."""
    return sorted(path.parent.name for path in ASSETS.glob(f"*/{FILE}"))


def _find(source: str | Path) -> Path:
    for path in (ASSETS / str(source) / FILE, Path(source) / FILE, Path(source)):
        if path.is_file():
            return path
    if Path(source).exists():
        raise ValueError(f"{source} holds no {FILE}: expected a folder with {FILE} and the MJCF that it names")
    raise ValueError(f"unknown robot {str(source)!r}: {nearest(str(source), robot_names())}, or the path of a folder with {FILE}")
