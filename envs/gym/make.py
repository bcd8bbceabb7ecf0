"""Making a Gymnasium environment by its id: one, or many as a vector environment, batched where there is a batched
one.
"""

from __future__ import annotations

import difflib
import os
import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from rfx.settings.terms import import_foreign


def find_spec(id: str) -> EnvSpec:
    """What is registered as id, which may say the module that registers it first: `module:Name-v0`.

    Raises ValueError naming the nearest.
    """
    module, _, name = id.rpartition(":")
    if module:
        import_foreign(module, f"env.id={id}")
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        close = difflib.get_close_matches(name, gymnasium.registry, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "if another package registers it, write MODULE:ID"
        raise ValueError(f"env.id={id}: {str(error).rstrip('.')}; {hint}") from error


def batched_id(id: str) -> str | None:
    """The batched environment that stands for id, where there is one."""
    import envs  # noqa: F401  (registers them)

    name = f"rfx/{id.rpartition(':')[2]}"
    return name if name in gymnasium.registry and gymnasium.registry[name].entry_point is None else None


class Shaped(gymnasium.Wrapper):
    """An environment whose rewards and ends are one number each, and whose observations of a Box have its shape.

    They may be given as lists, or in another shape that holds as many numbers. Raises ValueError where it does not.
    """

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        observation, info = self.env.reset(**arguments)
        return self._observation(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        ends = _number(terminated, bool, "terminated"), _number(truncated, bool, "truncated")
        return self._observation(observation), _number(reward, float, "a reward"), *ends, info

    def _observation(self, observation: Any) -> Any:
        space = self.observation_space
        if not isinstance(space, gymnasium.spaces.Box):
            return observation
        array = np.asarray(observation, space.dtype)
        if array.size != np.prod(space.shape, dtype=int):
            raise ValueError(f"got an observation of shape {array.shape}; expected {space.shape}, as its space says")
        return array.reshape(space.shape)


def _number(value: Any, kind: type, what: str) -> Any:
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"got {what} of shape {array.shape}; expected one number")
    return kind(array.item())


def make_single(id: str, kwargs: Mapping[str, Any], **more: Any) -> gymnasium.Env:
    """One environment. Raises ValueError for one that cannot be made."""
    find_spec(id)
    try:
        return Shaped(gymnasium.make(id, **kwargs, **more))
    except Exception as error:  # whatever a constructor raises
        raise ValueError(f"env.id={id} cannot be made: {type(error).__name__}: {error}") from error


def make_worker(id: str, kwargs: Mapping[str, Any], owner: int) -> gymnasium.Env:
    """One environment, in a process that leaves Ctrl-C, and a terminal that is gone, to the owner's, whose id is given.

    The owner makes one too, to learn its spaces.
    """
    if os.getpid() != owner:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    return make_single(id, kwargs)


def make_vector(
    id: str, num_envs: int, kwargs: Mapping[str, Any], *, batched: bool = True, threads: int = 0
) -> VectorEnv:
    """num_envs environments: the batched ones of envs/mujoco, or the id's own vector environment, or a process each.

    Raises ValueError for an id that is unknown, or cannot be made with these kwargs.
    """
    spec, quick = find_spec(id), batched_id(id) if batched else None
    try:
        if quick:
            return gymnasium.make_vec(quick, num_envs, threads=threads, **kwargs)
        if spec.vector_entry_point is not None:
            return gymnasium.make_vec(id, num_envs, **kwargs)
    except Exception as error:
        raise ValueError(f"env.id={id} cannot be made: {type(error).__name__}: {error}") from error
    make_single(id, kwargs).close()  # here, where an error is told in one line
    return AsyncVectorEnv(
        [partial(make_worker, id, kwargs, os.getpid())] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP
    )


def make_in_turn(id: str, num_envs: int, kwargs: Mapping[str, Any]) -> VectorEnv:
    """num_envs environments of Gymnasium's own kind, stepped one after the other in this process.

    Of an id that has no single one, its own vector environment.
    """
    if find_spec(id).entry_point is None:
        return make_vector(id, num_envs, kwargs)
    return SyncVectorEnv([partial(make_single, id, kwargs)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
