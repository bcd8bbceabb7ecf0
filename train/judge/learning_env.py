"""A Gymnasium environment of the user's, whose errors are reported as the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gymnasium import logger
from gymnasium.vector import AsyncVectorEnv

from envs.gym.env import GymEnv
from rfx.robot.state import Array
from train.task.errors import InputError, one_line


class LearningEnv(GymEnv):
    """A GymEnv whose errors are reported as errors of the user's environment.

    The errors may come from the process in which the environment runs.
    """

    def __init__(self, env: Any, id: str):
        self._id = id
        super().__init__(env, id)

    def reset(self, **arguments: Any) -> tuple[Array, dict[str, Any]]:
        with self._telling():
            return super().reset(**arguments)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        with self._telling():
            return super().step(actions)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        level, processes = logger.min_level, isinstance(self.env, AsyncVectorEnv)
        if processes:
            logger.min_level = logger.ERROR + 1  # Gymnasium would print the traceback of the other process
        try:
            yield
        except Exception as error:
            self.close(**({"terminate": True} if processes else {}))
            raise InputError(f"env.id={self._id} raised {type(error).__name__}: {one_line(error)}") from error
        finally:
            logger.min_level = level
