"""Turns a robot's state into the vector that its policy sees. The simulator and every driver use this code."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from rfx.robot import observation_terms
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array, RobotState
from rfx.settings.terms import bind


@lru_cache(maxsize=32)
def _bound_terms(names: tuple[str, ...]) -> tuple[Callable[[RobotState], Array], ...]:
    return tuple(bind(observation_terms, name, {}) for name in names)


def terms(config: RobotConfig) -> tuple[Callable[[RobotState], Array], ...]:
    """The observation terms that the config names, in order. Raises ValueError for an unknown term."""
    return _bound_terms(config.observation_terms)


def term_widths(config: RobotConfig) -> tuple[int, ...]:
    """Width of each observation term that the config names.

    Raises ValueError for an unknown term, or for a term whose shape is not (N, width).
    """
    state, widths = RobotState.zeros(config, 2), []
    for name, term in zip(config.observation_terms, terms(config)):
        shape = np.shape(term(state))
        if len(shape) != 2 or shape[0] != 2:
            raise ValueError(
                f"observation term {name!r} gives an array of shape {shape} for two robots; expected (2, width)"
            )
        widths.append(shape[1])
    return tuple(widths)


def observation_width(config: RobotConfig) -> int:
    """Total width of the observation terms that the config names. Raises ValueError for an unknown term."""
    return sum(term_widths(config))


def observe(state: RobotState, out: Array | None = None) -> Array:
    """Compute the observation terms that the state's config names, in order, zero-padded. (N, max_state_dim), float32.

    If out is given, the result is written into it; its padding must be zero already.
    Raises ValueError if the terms' widths do not add up to the config's state_dim.
    """
    config: RobotConfig = state.config
    if out is None:
        out = np.zeros((len(state.gait_phase), config.max_state_dim), np.float32)
    start = 0
    for term in terms(config):
        values = term(state)
        stop = start + values.shape[1]
        if stop > config.state_dim:
            start = stop
            break
        out[:, start:stop] = values
        start = stop
    if start != config.state_dim:
        raise ValueError(
            f"observation terms {', '.join(config.observation_terms)} of robot {config.name!r} are "
            f"{start} wide or more, "
            f"its state_dim is {config.state_dim}: correct one of them"
        )
    return out
