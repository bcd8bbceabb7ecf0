"""Termination terms: functions of SimState that return (N,), bool. True ends the episode as a failure."""

from __future__ import annotations

from envs.legged.state import SimState
from rfx.robot.state import Array


def tipped_over(state: SimState, max_gravity_z: float = -0.5) -> Array:
    """The base is tilted by more than acos(-max_gravity_z), by default 60 degrees.

    Then the z component of projected gravity is above max_gravity_z.
    """
    return state.robot.projected_gravity_b[:, 2] > max_gravity_z


def base_low(state: SimState, min_height_m: float = 0.15) -> Array:
    """The base is lower than min_height_m above the floor."""
    return state.base_height < min_height_m


def base_contact(state: SimState) -> Array:
    """The trunk touches something."""
    return state.base_contact
