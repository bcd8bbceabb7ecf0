"""Command terms, which draw velocity commands (num, 3), float32: vx and vy in m/s, yaw rate in rad/s."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rfx.random.streams import Streams
from rfx.robot.state import Array


def uniform_velocity(
    rng: Streams, num: int, vx: Sequence[float], vy: Sequence[float], yaw_rate: Sequence[float], zero_share: float = 0.1
) -> Array:
    """Draw each axis uniformly from its [low, high]; a share zero_share of the commands says to stand still."""
    low, high = np.array([vx, vy, yaw_rate], np.float32).T
    command = rng.uniform(low, high, (num, 3)).astype(np.float32)
    command[rng.random(num) < zero_share] = 0.0
    return command
