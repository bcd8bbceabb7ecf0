"""What the walking task's render() gives: a picture of each robot, as it is at that moment."""

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
    """Draws the robots of an environment, through OpenGL from the first picture on.

    Raises ValueError for another mode.
    """

    def __init__(self, env: LeggedEnv, mode: str | None):
        if mode not in (None, *MODES):
            raise ValueError(f"got render_mode {mode!r}; expected None or {', '.join(MODES)}")
        self._env, self._mode = env, mode
        self._frames: Generator[Array] | None = None

    def take(self) -> tuple[Array, ...] | None:
        """A picture (HEIGHT, WIDTH, 3), uint8, of each robot as it is now; None without a mode.

        Raises RuntimeError without OpenGL.
        """
        if self._mode is None:
            return None
        if self._frames is None:
            from envs.pictures.render import render_live  # which chooses OpenGL's kind for this process

            env = self._env
            model = load_model(env.robot, env.config.mjcf, visual=True, ground=env.simulation.ground)
            self._frames = render_live(model, self._poses(), width=WIDTH, height=HEIGHT)
        return tuple(itertools.islice(self._frames, self._env.num_envs))

    def close(self) -> None:
        """Free what OpenGL needed."""
        if self._frames is not None:
            self._frames.close()

    def _poses(self) -> Iterator[tuple[Array, Array, Array]]:
        """Pose, commanded and actual velocity of each robot, at the moment of asking; after the last the first
        again.
        """
        simulation, state = self._env.simulation, self._env.state
        while True:
            for i in range(self._env.num_envs):
                velocity = np.append(state.base_linear_velocity_b[i, :2], state.robot.base_angular_velocity_b[i, 2])
                yield simulation.batch.qpos[i], state.robot.velocity_command[i], velocity
