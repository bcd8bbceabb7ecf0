"""Composes a run from Python as Hydra does on the command line: same files, same overrides, same errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from envs.settings.configs import CONFIGS
from rfx.system.folders import replace_file
from train.task.errors import InputError, explain

PLAIN_WORD = re.compile(
    r"[A-Za-z_./][\w./~:+-]*"
)  # Hydra reads such text literally without quotes, except for OTHER_WORDS
OTHER_WORDS = ("true", "false", "null", "nan", "inf", "infinity")


@dataclass(frozen=True, kw_only=True)
class ComposedRun:
    """A composed run: its values, its folder, the name of its file in configs/robot/, and its overrides."""

    values: DictConfig
    folder: Path
    robot: str | None
    overrides: list[str]

    def write(self, folder: Path) -> None:
        """Write values and overrides to folder/.hydra, as Hydra does on the command line. Raises OSError."""
        for name, content in (("config", self.values), ("overrides", self.overrides)):
            replace_file(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(content).encode())


def compose_run(overrides: Sequence[str], prefix: str = "") -> ComposedRun:
    """Compose overrides as `python -m train` does. Raises InputError, whose message begins with prefix."""
    try:
        with _hydra():
            values = compose("train", [*overrides], return_hydra_config=True)
            settings = values.hydra
            found = {
                "folder": Path(settings.run.dir),
                "robot": settings.runtime.choices.get("robot"),
                "overrides": OmegaConf.to_container(settings.overrides.task),
            }
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(prefix + explain(error, "train", overrides)) from error
    with open_dict(values):
        del values["hydra"]
    return ComposedRun(values=values, **found)


def override(key: str, value: Any) -> str:
    """Override key=value, as on the command line, from a Python value; a key ~KEY removes KEY and ignores the value.

    Raises InputError for a value that cannot be written as an override.
    """
    return key if key.startswith("~") else f"{key}={_written(key, value)}"


def _written(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, Path)):
        text = str(value)
        if PLAIN_WORD.fullmatch(text) and text.lower() not in OTHER_WORDS:
            return text
        return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_written(f'{key}.{name}', entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_written(key, entry) for entry in value) + "]"
    raise InputError(
        f"{key} is {value!r}: it must be a number, text, true or false, None, or a list or mapping of these"
    )


@contextmanager
def _hydra() -> Iterator[None]:
    """Start Hydra with our configs, and restore the Hydra that this process used before at the end."""
    running, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running
