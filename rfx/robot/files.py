"""Robots on disk. Each robot is a folder with two files: robot.yaml and the MJCF that robot.yaml names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rfx.robot.config import RobotConfig
from rfx.robot.observe import observation_width
from rfx.settings.reader import read_yaml
from rfx.settings.terms import nearest
from rfx.system import extras
from rfx.system.outside import outside

ASSETS = Path(__file__).resolve().parents[2] / "assets"
FILE = "robot.yaml"
MENAGERIE = "menagerie:"  # prefix of the name of a MuJoCo Menagerie model; replaces a path


def load_robot(source: str | Path) -> RobotConfig:
    """Load a robot. source is the name of a robot in rfx's assets, or the path of a folder or a robot.yaml.

    state_dim and action_dim follow from the observation terms and joints, unless the file sets them. mjcf becomes a
    path inside the assets, or an absolute path for a robot from elsewhere. Raises ValueError for an unknown name or a
    file with an error.
    """
    path = _find(source)
    values, widths = read_yaml(path), {}
    try:
        if isinstance(values, dict) and values.get("joints") and values.get("observation_terms"):
            widths = {"state_dim": 1, "action_dim": len(values["joints"])}
        config = RobotConfig.from_dict({**widths, **values} if widths else values)
        if widths and "state_dim" not in values:
            config = dataclasses.replace(config, state_dim=observation_width(config))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if config.mjcf and not config.mjcf.startswith(MENAGERIE):
        mjcf = (path.parent / config.mjcf).resolve()
        config = dataclasses.replace(
            config, mjcf=str(mjcf.relative_to(ASSETS)) if mjcf.is_relative_to(ASSETS) else str(mjcf)
        )
    return config


def find_mjcf(config: RobotConfig, reference: str | Path | None = None) -> Path:
    """Path of the model file that reference names; without a reference, the one that the robot's config names.

    A reference is a path, menagerie:NAME or menagerie:NAME/FILE. menagerie:NAME is the robot alone from a MuJoCo
    Menagerie model; menagerie:NAME/FILE is another file of that model. Menagerie models are fetched on first use, or
    read from the folder MENAGERIE_ROOT. Raises FileNotFoundError for a missing file, ValueError if the config names no
    model or Menagerie has no such model, OutsideError if the model cannot be fetched, and ImportError that names the
    extra if the extra is missing.
    """
    if not reference and not config.mjcf:
        raise ValueError(
            f"robot {config.name!r} names no MJCF: give the path of a model file, or say mjcf in its {FILE}"
        )
    if str(reference or config.mjcf).startswith(MENAGERIE):
        return _of_menagerie(str(reference or config.mjcf))
    path = Path(reference) if reference else ASSETS / str(config.mjcf)  # an absolute path stays as it is
    if not path.is_file():
        raise FileNotFoundError(f"no MJCF of robot {config.name!r} at {path}: give the path of a model file, mjcf=PATH")
    return path


def _of_menagerie(reference: str) -> Path:
    """Path of the model file that menagerie:NAME or menagerie:NAME/FILE names."""
    try:
        import mujoco_menagerie
    except ImportError as error:
        raise extras.missing(reference, "mujoco_menagerie") from error
    name, _, entry = reference.removeprefix(MENAGERIE).partition("/")
    with outside(reference):
        try:
            robot = mujoco_menagerie.get(name)
            path = robot.xml(entry or robot.default_model)
        except mujoco_menagerie.DownloadError:
            raise
        except mujoco_menagerie.MenagerieError as error:
            raise ValueError(f"{reference}: {error}") from error
    if not path.is_file():
        raise FileNotFoundError(f"{reference}: no model at {path}")
    return path


def robot_names() -> list[str]:
    """Names of the robots in rfx's assets."""
    return sorted(path.parent.name for path in ASSETS.glob(f"*/{FILE}"))


def _find(source: str | Path) -> Path:
    if str(source) in robot_names():
        return ASSETS / source / FILE
    for path in (Path(source) / FILE, Path(source)):
        if path.is_file():
            return path
    if Path(source).exists():
        raise ValueError(f"{source} holds no {FILE}: expected a folder with {FILE} and the MJCF that it names")
    raise ValueError(
        f"unknown robot {str(source)!r}: {nearest(str(source), robot_names())}, or the path of a folder with {FILE}"
    )
