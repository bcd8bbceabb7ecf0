"""A wrapper for Gymnasium vector environments: flat observations, actions in [-1, 1], same-step autoreset."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rfx.policy.spaces import Spaces
from rfx.robot.state import FAILED, Array


class GymEnv(VectorEnv):
    """Wraps env: observations (N, D), float32; actions a Box (A,) in [-1, 1], or Discrete(n) from 0.

    env may have observations in a Box of any shape, and actions in a Box with bounds, or Discrete. If env resets in the
    step after an episode's end, that step is flagged in info[FAILED], because training must ignore it, and does not
    count as an end. An episode that terminates in its last step is not truncated. Rewards and ends are reshaped to
    (N,) if they have one number for each environment. Raises ValueError for other spaces, autoreset modes or numbers of
    values.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, env: VectorEnv, id: str):
        self.env, self.num_envs, self.spec = env, env.num_envs, env.spec
        self.spaces = spaces_of(env.single_observation_space, env.single_action_space, id)
        mode = env.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
            raise ValueError(f"env.id={id}: got autoreset mode {mode}; expected SAME_STEP or NEXT_STEP")
        self._next_step = mode is AutoresetMode.NEXT_STEP
        self._ended = np.zeros(self.num_envs, bool)  # episodes that ended in the last step; the next step resets them
        width = int(np.prod(self.spaces.observation_shape, dtype=int))
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        choices, width = self.spaces.num_actions, len(self.spaces.action_low)
        self.single_action_space = (
            gymnasium.spaces.Discrete(choices) if choices else gymnasium.spaces.Box(-1.0, 1.0, (width,), np.float32)
        )
        self.observation_space, self.action_space = (
            batch_space(space, self.num_envs) for space in (self.single_observation_space, self.single_action_space)
        )
        if hasattr(env, "state_dict") and hasattr(env, "load_state_dict") and not self._next_step:
            self.state_dict, self.load_state_dict = env.state_dict, env.load_state_dict

    @property
    def num_threads(self) -> int | None:
        """The number of threads that step the environments; None if they do not have this number."""
        return getattr(self.env.unwrapped, "num_threads", None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._ended[:] = False
        return self._flat(observation, self.num_envs), info

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take one step in every environment. actions (N, A) are clipped to [-1, 1]; choices are (N,).

        info has only FAILED and final_obs.
        """
        observation, reward, terminated, truncated, info = self.env.step(self.spaces.scale(actions))
        observation, terminated = self._flat(observation, self.num_envs), self._row(terminated, bool, "ends")
        truncated = self._row(truncated, bool, "ends") & ~terminated
        told = {}
        if self._next_step:
            told[FAILED], self._ended = self._ended, terminated | truncated
        elif FAILED in info:
            told[FAILED] = info[FAILED]
        if truncated.any():
            final = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(truncated):
                final[i] = observation[i].copy() if self._next_step else self._flat(info["final_obs"][i], 1)[0]
            told["final_obs"] = final
        return observation, self._row(reward, np.float32, "rewards"), terminated, truncated, told

    def _flat(self, observation: Any, num: int) -> Array:
        """Flatten the observations of num environments to rows (num, D)."""
        array, width = np.asarray(observation, np.float32), math.prod(self.spaces.observation_shape)
        if array.size != num * width:
            expected = (num, *self.spaces.observation_shape)
            raise ValueError(f"got observations of shape {array.shape}; expected {expected}, as its space says")
        return array.reshape(num, width)

    def _row(self, values: Any, dtype: type, what: str) -> Array:
        array = np.asarray(values, dtype)
        if array.size != self.num_envs:
            raise ValueError(f"got {what} of shape {array.shape}; expected ({self.num_envs},), one an environment")
        return array.reshape(self.num_envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the wrapped environment."""
        self.env.close(**kwargs)


def spaces_of(observation: gymnasium.Space, action: gymnasium.Space, id: str) -> Spaces:
    """The Spaces of an environment. Raises ValueError for spaces that a policy cannot observe or act in."""
    if not isinstance(observation, gymnasium.spaces.Box):
        raise ValueError(
            f"env.id={id}: got observations of {observation}; expected a Box: gymnasium.wrappers.FlattenObservation makes one of "
            "most spaces, in an environment that you register"
        )
    if isinstance(action, gymnasium.spaces.Discrete):
        return Spaces(
            observation_shape=observation.shape,
            action_dtype=str(action.dtype),
            num_actions=int(action.n),
            start=int(action.start),
        )
    if not isinstance(action, gymnasium.spaces.Box) or not (
        np.isfinite(action.low).all() and np.isfinite(action.high).all()
    ):
        raise ValueError(f"env.id={id}: got actions of {action}; expected a Box with finite bounds, or Discrete")
    low, high = (tuple((bound + 0).ravel().tolist()) for bound in (action.low, action.high))  # a bool + 0 is a number
    return Spaces(
        observation_shape=observation.shape,
        action_shape=action.shape,
        action_dtype=str(action.dtype),
        action_low=low,
        action_high=high,
    )
