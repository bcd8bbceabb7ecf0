"""Which robot a name means."""

from __future__ import annotations

from rfx.config import GO2_CONFIG, RobotConfig
from rfx.terms import nearest

ROBOTS = {"go2": GO2_CONFIG}


def load_robot(name: str) -> RobotConfig:
    """The robot called name. Raises ValueError naming the nearest."""
    if name not in ROBOTS:
        raise ValueError(f"unknown robot {name!r}: {nearest(name, ROBOTS)}")
    return ROBOTS[name]
