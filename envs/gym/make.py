"""Makes Gymnasium environments by id: a single one, or a vector environment, batched if a batched version exists."""

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
    """Find the registered environment; id may begin with the module that registers it: `module:Name-v0`.

    Raises ValueError that names the nearest id.
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
    """The id of the batched version of an environment, or None without one."""
    import envs  # noqa: F401  (registers the batched versions)

    name = f"rfx/{id.rpartition(':')[2]}"
    return name if name in gymnasium.registry and gymnasium.registry[name].entry_point is None else None


class Shaped(gymnasium.Wrapper):
    """Makes an environment's rewards and ends single numbers, and gives Box observations the shape of their space.

    The wrapped environment may return them as lists, or in another shape with the same count of numbers. Raises
    ValueError for another count.
    """

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        observation, info = self.env.reset(**arguments)
        return self._observation(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment."""
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
    """Make one environment. Raises ValueError if that fails."""
    find_spec(id)
    try:
        return Shaped(gymnasium.make(id, **kwargs, **more))
    except Exception as error:  # whatever a constructor raises
        raise ValueError(f"env.id={id} cannot be made: {type(error).__name__}: {error}") from error


def make_worker(id: str, kwargs: Mapping[str, Any], owner: int) -> gymnasium.Env:
    """Make one environment in a worker process, which ignores Ctrl-C and the loss of its terminal.

    The process with the id owner handles these. It makes an environment too, to learn its spaces, and keeps its
    signals.
    """
    if os.getpid() != owner:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    return make_single(id, kwargs)


def make_vector(
    id: str, num_envs: int, kwargs: Mapping[str, Any], *, batched: bool = True, threads: int = 0
) -> VectorEnv:
    """Make num_envs environments: batched by envs/mujoco, or as the id's own vector environment, or in processes.

    Raises ValueError for an id that is unknown, or that cannot be made with these kwargs.
    """
    spec, quick = find_spec(id), batched_id(id) if batched else None
    try:
        if quick:
            return gymnasium.make_vec(quick, num_envs, threads=threads, **kwargs)
        if spec.vector_entry_point is not None:
            return gymnasium.make_vec(id, num_envs, **kwargs)
    except Exception as error:
        raise ValueError(f"env.id={id} cannot be made: {type(error).__name__}: {error}") from error
    make_single(id, kwargs).close()  # an error in this process fits one line
    return AsyncVectorEnv(
        [partial(make_worker, id, kwargs, os.getpid())] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP
    )


def make_in_turn(id: str, num_envs: int, kwargs: Mapping[str, Any]) -> VectorEnv:
    """Make num_envs of Gymnasium's own environments, stepped one after the other in this process.

    An id without a single environment gives its own vector environment.
    """
    if find_spec(id).entry_point is None:
        return make_vector(id, num_envs, kwargs)
    return SyncVectorEnv([partial(make_single, id, kwargs)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
