"""Composing a run from Python as Hydra does it on the command line: same files, same overrides, same refusals."""

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
)  # text that Hydra reads as itself without quotes, but for the words below
OTHER_WORDS = ("true", "false", "null", "nan", "inf", "infinity")


@dataclass(frozen=True, kw_only=True)
class ComposedRun:
    """What the command line has of a run: its values, its folder, the file of configs/robot/, and its overrides."""

    values: DictConfig
    folder: Path
    robot: str | None
    overrides: list[str]

    def write(self, folder: Path) -> None:
        """Write .hydra into folder, as Hydra does for the command line: values and overrides. Raises OSError."""
        for name, content in (("config", self.values), ("overrides", self.overrides)):
            replace_file(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(content).encode())


def compose_run(overrides: Sequence[str], prefix: str = "") -> ComposedRun:
    """What `python -m train` composes of overrides. Raises InputError, its message after prefix."""
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
    """key=value as on the command line, from a Python value. ~KEY takes the key away, whatever the value.

    Raises InputError for a value that has no such form.
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
    """Hydra with our configs; one that this process is using already is put back at the end."""
    running, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = running
