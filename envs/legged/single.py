"""One robot as an ordinary Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from envs.legged.env import LeggedEnv
from rfx.robot.state import Array


class LeggedSingleEnv(gymnasium.Env):
    """One robot of LeggedEnv, without autoreset.

    The observation is {"state": (max_state_dim,)}, the action (action_dim,) in [-1, 1]. At an episode's end, info has
    the figures that the vector environment puts into final_info. With render_mode="rgb_array" render() returns a
    picture; after the last step of an episode it shows the start of the next one.
    """

    metadata = LeggedEnv.metadata

    def __init__(self, *, render_mode: str | None = None, **kwargs: Any):
        self._env = LeggedEnv(1, render_mode=render_mode, **{"random_start_age": False, "threads": 1, **kwargs})
        self.render_mode, self.metadata = render_mode, self._env.metadata
        self.observation_space, self.action_space = self._env.single_observation_space, self._env.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start a new episode."""
        super().reset(seed=seed)
        observation, _ = self._env.reset(seed=seed)
        return {name: values[0] for name, values in observation.items()}, {}

    def step(self, action: Array) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """Take one control step. action (action_dim,) in [-1, 1]."""
        observed, reward, terminated, truncated, info = self._env.step(np.asarray(action)[None])
        observation = {name: values[0] for name, values in observed.items()}
        figures: dict[str, Any] = {}
        if terminated[0] or truncated[0]:
            observation = info["final_obs"][0]
            figures = {
                name: float(values[0]) for name, values in info["final_info"].items() if not name.startswith("_")
            }
        return observation, float(reward[0]), bool(terminated[0]), bool(truncated[0]), figures

    def render(self) -> Array | None:
        """A picture (H, W, 3), uint8; None without a render_mode."""
        frames = self._env.render()
        return frames and frames[0]

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()
