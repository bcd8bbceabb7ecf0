"""The task as data: what `configs/robot/*.yaml` says under `env`, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rfx.terms import nearest

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
INTERVALS = ("command_interval_s", "push_interval_s")


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """One task: sizes, times and, by name, the terms it is made of. A reward's parameters include its weight per second."""

    num_envs: int = 1024
    timestep_s: float = 0.005
    episode_length_s: float = 20.0
    random_start_age: bool = False
    command_interval_s: tuple[float, float] = (3.0, 8.0)
    mjcf: str | None = None
    commands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    randomize: bool = False  # the one switch of randomization, noise and pushes
    randomization: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)  # by observation term, in its unit: uniform within +- this
    push_interval_s: tuple[float, float] = (5.0, 10.0)
    pushes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    terminations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rewards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.num_envs, int) or self.num_envs < 1:
            raise ValueError(f"env.num_envs is {self.num_envs!r}: it must be a whole number of at least 1")
        for name in ("timestep_s", "episode_length_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"env.{name} is {getattr(self, name)!r}: it must be a positive time in seconds")
        for name in INTERVALS:
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"env.{name} is {list(getattr(self, name))}: it must be [shortest, longest] in seconds")
        if len(self.commands) != 1:
            raise ValueError(f"env.commands names {len(self.commands)} terms ({', '.join(self.commands) or 'none'}): it must name one")
        for section in ("randomization", "pushes"):
            for name, parameters in getattr(self, section).items():
                for key, value in parameters.items():
                    _check_range(f"env.{section}.{name}.{key}", value, positive=key == "scale")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvConfig:
        """From plain values. Raises ValueError for an unknown key, naming the nearest."""
        names = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                raise ValueError(f"unknown key env.{key}: {nearest(key, names)}")
        values = dict(values)
        values |= {name: tuple(values[name]) for name in INTERVALS if name in values}
        return cls(**values)

    @classmethod
    def load(cls, name: str = "go2", **overrides: Any) -> EnvConfig:
        """The `env` section of configs/robot/{name}.yaml, with some keys replaced."""
        path = CONFIGS / "robot" / f"{name}.yaml"
        if not path.is_file():
            robots = sorted(p.stem for p in path.parent.glob("*.yaml"))
            raise ValueError(f"unknown robot {name!r}: {nearest(name, robots)}")
        return cls.from_dict({**yaml.safe_load(path.read_text())["env"], **overrides})


def _check_range(key: str, value: Any, positive: bool) -> None:
    """Raises ValueError for anything but [lowest, highest]."""
    numbers = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(number) in (int, float) for number in value)
    if not numbers or not value[0] <= value[1] or positive and not value[0] > 0:
        raise ValueError(f"{key} is {value!r}: it must be [lowest, highest]{', above 0' if positive else ''}")
