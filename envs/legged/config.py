"""The walking task as data: the section `env` of the files in `configs/`, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envs.legged.ramp import Ramp, check_ramp
from envs.settings.configs import compose
from rfx.settings.reader import read

INTERVALS = ("command_interval_s", "push_interval_s")


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """When a robot gets harder or easier ground, at the end of an episode; the rule is in envs/legged/curriculum.py."""

    start_level: int = 2  # the hardest level that a run begins with; the easiest is 0
    up: float = 0.75  # a robot that walks this share of the commanded distance goes a level up
    down: float = 0.5  # a robot that walks less than this share goes a level down
    distance_m: float = 3.0  # a robot must walk at least this far to go up

    def __post_init__(self) -> None:
        if self.start_level < 0 or not 0 <= self.down <= self.up:
            raise ValueError(
                f"env.terrain.curriculum has start_level {self.start_level}, down {self.down}, up {self.up}: "
                "it must be start_level 0 or more, and 0 <= down <= up"
            )


@dataclass(frozen=True, kw_only=True)
class TerrainConfig:
    """Ground made of tiles: one for each kind of ground and each level of difficulty.

    kinds names terms of envs/legged/terrain_kinds.py, with their parameters.
    """

    kinds: Mapping[str, Mapping[str, Any]]
    num_levels: int = 10
    tile_m: float = 8.0
    cell_m: float = 0.05  # grid spacing of the heights; walls are this wide
    seed: int = 0
    curriculum: CurriculumConfig | None = None  # null: robots are spread over all levels and never change theirs

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError(
                "env.terrain.kinds is empty: it must name a kind of terrain; env.terrain=null is flat ground"
            )
        if not isinstance(self.num_levels, int) or self.num_levels < 1:
            raise ValueError(f"env.terrain.num_levels is {self.num_levels!r}: it must be a whole number of at least 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"env.terrain.seed is {self.seed!r}: it must be a whole number of at least 0")
        if not self.tile_m >= 3.0 or not 0 < self.cell_m <= 0.25 or abs(self.tile_m / self.cell_m % 2 - 1) < 1 - 1e-6:
            raise ValueError(
                f"env.terrain has tile_m {self.tile_m}, cell_m {self.cell_m}: a tile must have 3 m or more, a cell 0.25 m or "
                "less, and a tile an even number of cells"
            )
        for name, parameters in self.kinds.items():
            for key, value in parameters.items():
                if key == "term":
                    continue
                key = f"env.terrain.kinds.{name}.{key}"
                if isinstance(value, (list, tuple)):
                    if len(value) != 2 or not all(type(number) in (int, float) for number in value):
                        raise ValueError(f"{key} is {value!r}: it must be two numbers")
                elif type(value) not in (int, float) or not value > 0:
                    raise ValueError(f"{key} is {value!r}: it must be a number above 0, or two")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TerrainConfig:
        """From plain values. Raises ValueError for an unknown key, naming the nearest."""
        return read(cls, values, "env.terrain")

    def for_evaluation(self, seed: int) -> TerrainConfig:
        """The same kinds and levels drawn from another seed, with the robots spread over all of them."""
        return dataclasses.replace(self, seed=seed, curriculum=None)


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """One task: its sizes, its times, and the terms it is made of, by name.

    A reward's parameters include its weight per second. With `ramp: [first, last]` the weight grows from 0 between
    these environment steps of a run, summed over environments. An entry has the name of its term. An entry that says
    `term: NAME` may have any other name.
    """

    num_envs: int = 1024
    timestep_s: float = 0.005
    episode_length_s: float = 20.0
    random_start_age: bool = False
    command_interval_s: tuple[float, float] = (3.0, 8.0)
    mjcf: str | None = None
    terrain: TerrainConfig | None = None  # null: flat ground
    commands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    randomize: bool = False  # switches randomization, noise and pushes on
    randomization: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # By observation term, in its unit: noise is uniform within +- this
    noise: Mapping[str, float] = field(default_factory=dict)
    push_interval_s: tuple[float, float] = (5.0, 10.0)
    pushes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    terminations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    disturbance_ramp: Ramp | None = None  # randomization and pushes grow over a run: envs/legged/ramp.py
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
                raise ValueError(
                    f"env.{name} is {list(getattr(self, name))}: it must be [shortest, longest] in seconds"
                )
        check_ramp("env.disturbance_ramp", self.disturbance_ramp)
        if len(self.commands) != 1:
            raise ValueError(
                f"env.commands names {len(self.commands)} terms ({', '.join(self.commands) or 'none'}): it must name one"
            )
        for section in ("commands", "resets"):
            for name, parameters in getattr(self, section).items():
                for key, value in parameters.items():
                    if isinstance(value, (list, tuple)) and len(value) == 2:
                        _check_range(f"env.{section}.{name}.{key}", value, positive=False)
        for section in ("randomization", "pushes"):
            for name, parameters in getattr(self, section).items():
                for key, value in parameters.items():
                    if key != "term":
                        _check_range(f"env.{section}.{name}.{key}", value, positive=key == "scale")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvConfig:
        """From plain values. Raises ValueError for an unknown key, naming the nearest."""
        return read(cls, values, "env")

    @classmethod
    def load(cls, name: str, **overrides: Any) -> EnvConfig:
        """Load the `env` section that configs/robot/{name}.yaml composes, and replace the keys in overrides."""
        return cls.from_dict({**compose("robot", name)["env"], **overrides})


def _check_range(key: str, value: Any, positive: bool) -> None:
    """Raises ValueError for anything but [lowest, highest]."""
    numbers = (
        isinstance(value, (list, tuple)) and len(value) == 2 and all(type(number) in (int, float) for number in value)
    )
    if not numbers or not value[0] <= value[1] or positive and not value[0] > 0:
        raise ValueError(f"{key} is {value!r}: it must be [lowest, highest]{', above 0' if positive else ''}")
