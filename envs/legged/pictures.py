"""Pictures for the walking task's render(): one of each robot, as it is at that moment."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np

from rfx.drivers.mjcf import load_model
from rfx.robot.state import Array

if TYPE_CHECKING:
    from envs.legged.env import LeggedEnv

WIDTH, HEIGHT = 640, 360
MODES = ("rgb_array",)


class Pictures:
    """Draws the robots of an environment; OpenGL starts with the first picture.

    Raises ValueError for an unknown mode.
    """

    def __init__(self, env: LeggedEnv, mode: str | None):
        if mode not in (None, *MODES):
            raise ValueError(f"got render_mode {mode!r}; expected None or {', '.join(MODES)}")
        self._env, self._mode = env, mode
        self._frames: Generator[Array] | None = None

    def take(self) -> tuple[Array, ...] | None:
        """Draw each robot as it is now, a picture (HEIGHT, WIDTH, 3), uint8, each; None without a mode.

        Raises RuntimeError without OpenGL.
        """
        if self._mode is None:
            return None
        if self._frames is None:
            from envs.pictures.render import render_live  # late: it chooses the OpenGL backend

            env = self._env
            model = load_model(env.robot, env.config.mjcf, visual=True, ground=env.simulation.ground)
            self._frames = render_live(model, self._poses(), width=WIDTH, height=HEIGHT)
        return tuple(itertools.islice(self._frames, self._env.num_envs))

    def close(self) -> None:
        """Free OpenGL's resources."""
        if self._frames is not None:
            self._frames.close()

    def _poses(self) -> Iterator[tuple[Array, Array, Array]]:
        """Current pose, commanded velocity and actual velocity of each robot in turn, round and round."""
        simulation, state = self._env.simulation, self._env.state
        while True:
            for i in range(self._env.num_envs):
                velocity = np.append(state.base_linear_velocity_b[i, :2], state.robot.base_angular_velocity_b[i, 2])
                yield simulation.batch.qpos[i], state.robot.velocity_command[i], velocity
