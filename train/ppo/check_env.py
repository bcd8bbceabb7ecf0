"""A check that the trainer can learn in an environment."""

from __future__ import annotations

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv


def check_env(env: VectorEnv, privileged: bool) -> None:
    """Raises ValueError, which says what is missing, for an environment that the trainer cannot learn in."""
    if (mode := env.metadata.get("autoreset_mode")) is not AutoresetMode.SAME_STEP:
        raise ValueError(
            f"got an environment with autoreset mode {mode}; expected AutoresetMode.SAME_STEP: make it in that mode"
        )
    space = env.single_observation_space
    spaces = dict(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else {"state": space}
    for name in ("state", "critic") if privileged else ("state",):
        if not isinstance(spaces.get(name), gymnasium.spaces.Box) or len(spaces[name].shape) != 1:
            raise ValueError(
                f"got observations of {space}; expected a Box of one axis as {name!r}"
                + (", for policy.critic=privileged" if name == "critic" else "")
            )
    action = env.single_action_space
    if isinstance(action, gymnasium.spaces.Discrete):
        if action.start != 0 or privileged:
            raise ValueError(f"got actions of {action}; expected choices counted from 0, and policy.critic=shared")
        return
    if (
        not isinstance(action, gymnasium.spaces.Box)
        or len(action.shape) != 1
        or (action.low != -1.0).any()
        or (action.high != 1.0).any()
    ):
        raise ValueError(
            f"got actions of {action}; expected a Box of one axis in [-1, 1]: wrap the environment so that it has such actions"
        )
