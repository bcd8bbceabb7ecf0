"""Push terms: sudden changes of the base's velocity.

(num, 6): linear in the world's frame, m/s; angular in the base's, rad/s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rfx.random.streams import Streams
from rfx.robot.state import Array


def shove(rng: Streams, num: int, speed_m_s: Sequence[float]) -> Array:
    """Horizontal, from any side, of a speed in [lowest, highest]."""
    angle, speed = rng.uniform(0.0, 2.0 * np.pi, num), rng.uniform(*speed_m_s, num)
    change = np.zeros((num, 6))
    change[:, 0], change[:, 1] = speed * np.cos(angle), speed * np.sin(angle)
    return change


def twist(rng: Streams, num: int, range_rad_s: Sequence[float]) -> Array:
    """A turn about each axis in [lowest, highest]."""
    change = np.zeros((num, 6))
    change[:, 3:] = rng.uniform(*range_rad_s, (num, 3))
    return change
