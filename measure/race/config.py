"""The race as data: the checked settings of measure/race.yaml and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure.gym import key_values
from rfx.settings.reader import read, read_yaml
from rfx.settings.terms import nearest

LIBRARIES = {"rfx": None, "rsl_rl": "rsl_rl", "sb3": "stable_baselines3"}  # and the module of each
MEASURED = (
    "falls_per_episode",
    "error_vx",
    "error_vy",
    "error_yaw_rate",
)  # figures of a policy; errors in m/s and rad/s


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A learner: a library with its settings. num_envs: environments; None: as many as the robot's task has."""

    label: str
    library: str
    num_envs: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES:
            raise ValueError(f"library is {self.library!r}: {nearest(self.library, LIBRARIES)}")


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A curve that was measured elsewhere; source says how.

    It has the same columns as a curve that was measured here, (points,) each.
    """

    label: str
    source: str
    seconds: tuple[float, ...]
    falls_per_episode: tuple[float, ...]
    error_vx: tuple[float, ...]
    error_vy: tuple[float, ...]
    error_yaw_rate: tuple[float, ...]

    def __post_init__(self) -> None:
        if len({len(getattr(self, name)) for name in ("seconds", *MEASURED)}) != 1:
            raise ValueError(
                f"the columns of {self.label!r} differ in length: each must have one number for each of its seconds"
            )


@dataclass(frozen=True, kw_only=True)
class RaceConfig:
    """Settings of measure/race.yaml; the command line may change them."""

    robot: str
    entrants: Mapping[str, Entrant]
    earlier: Mapping[str, Earlier] = field(default_factory=dict)
    learners: tuple[str, ...] | None = None
    seeds: int
    seconds: float
    steps: int | None = None
    milestones_s: tuple[float, ...]
    evaluation_envs: int
    folder: str
    output: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "seconds", "steps", "evaluation_envs"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be positive")
        if not self.milestones_s or list(self.milestones_s) != sorted(set(self.milestones_s)):
            raise ValueError(
                f"milestones_s is {list(self.milestones_s)}: it must name seconds in rising order, such as [10,30,60]"
            )
        for name in self.racing:
            if name not in self.entrants:
                raise ValueError(f"learners names {name!r}: {nearest(name, self.entrants)}")

    @property
    def racing(self) -> tuple[str, ...]:
        """The entrants that race, by name."""
        return tuple(self.entrants) if self.learners is None else self.learners


def read_race(arguments: Sequence[str], path: Path = Path(__file__).parents[1] / "race.yaml") -> RaceConfig:
    """The race that measure/race.yaml and key=value arguments make. Raises ValueError that names the key."""
    return read(RaceConfig, read_yaml(path) | key_values(arguments))
