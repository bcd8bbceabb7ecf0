"""Checks the shapes that terms return, on two robots at rest, before any robot moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from envs.legged.state import SimState
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array

Term = Callable[[SimState], Array]


def check_shapes(robot: RobotConfig, flat: Iterable[Term], wide: Iterable[Term]) -> None:
    """Raises ValueError unless flat terms return (N,) and wide terms (N, width).

    Without this check, NumPy would broadcast a reward of shape (N, 1) and count it N times.
    """
    for terms, ndim, expected in ((flat, 1, "(2,)"), (wide, 2, "(2, width)")):
        for term in terms:
            with np.errstate(all="ignore"):
                shape = np.shape(term(SimState.zeros(robot, 2)))
            if len(shape) != ndim or shape[0] != 2:
                function = getattr(term, "func", term)  # the function below bound parameters
                raise ValueError(
                    f"term {function.__module__}:{function.__name__} gives an array of shape {shape} for "
                    f"two robots; expected {expected}"
                )
