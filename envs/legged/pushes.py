"""Push terms: sudden changes of the base's velocity.

Each returns (num, 6): linear velocity in the world frame, m/s, then angular velocity in the base frame, rad/s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rfx.random.streams import Streams
from rfx.robot.state import Array


def shove(rng: Streams, num: int, speed_m_s: Sequence[float]) -> Array:
    """Push horizontally, from any side, by a speed in [lowest, highest]."""
    angle, speed = rng.uniform(0.0, 2.0 * np.pi, num), rng.uniform(*speed_m_s, num)
    change = np.zeros((num, 6))
    change[:, 0], change[:, 1] = speed * np.cos(angle), speed * np.sin(angle)
    return change


def twist(rng: Streams, num: int, range_rad_s: Sequence[float]) -> Array:
    """Change the turning rate about each axis by a value in [lowest, highest]."""
    change = np.zeros((num, 6))
    change[:, 3:] = rng.uniform(*range_rad_s, (num, 3))
    return change
