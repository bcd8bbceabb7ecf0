"""Gymnasium environments of the tests' own. `tests.gym_envs:ID` is found wherever the checkout is importable."""

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

PRIZE = 7.0


class Door(VectorEnv):
    """A number is shown; an action of its sign stays, for a reward of 1, and one of the other sign leaves, for PRIZE
    and the end.

    With a discount of 0.97 staying is worth 33. Episodes are cut after 5 steps and would have gone on: a learner that
    takes the cut for an end thinks that staying is worth less than 5, and leaves.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, max_episode_steps: int = 5):
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-3.0, 3.0, (1,), np.float32)
        self.observation_space, self.action_space = (
            batch_space(space, num_envs) for space in (self.single_observation_space, self.single_action_space)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = np.zeros(self.num_envs, int)
        return self._show(), {}

    def step(self, actions):
        terminated, self.age = (actions * self.shown < 0.0)[:, 0], self.age + 1
        truncated = (self.age >= self.max_episode_steps) & ~terminated
        final, done = self._show(), terminated | truncated
        info = {"final_obs": np.array([*final, None], object)[:-1], "_final_obs": done} if done.any() else {}
        self.age[done] = 0
        return self._show(), np.where(terminated, PRIZE, 1.0), terminated, truncated, info

    def _show(self):
        self.shown = self.np_random.uniform(-1.0, 1.0, (self.num_envs, 1)).astype(np.float32)
        return self.shown


class Odd(gymnasium.Env):
    """Observations (2, 2), integers; actions (2, 1) within uneven bounds, or choices from 3.

    It remembers what it was told. 3 steps.
    """

    def __init__(self, choices=False, fail_at=None, observation=None):
        self.observation_space = observation or gymnasium.spaces.Box(-100, 100, (2, 2), np.int64)
        self.action_space = (
            gymnasium.spaces.Discrete(4, start=3)
            if choices
            else gymnasium.spaces.Box(np.array([[0.0], [-1.0]], np.float32), np.array([[10.0], [3.0]], np.float32))
        )
        self.fail_at, self.age = fail_at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return np.zeros((2, 2), np.int64), {}

    def step(self, action):
        self.age += 1
        if self.age == self.fail_at:
            raise RuntimeError("the sensor\nis wet")
        assert self.action_space.contains(action), action
        return np.full((2, 2), self.age), float(np.sum(action)), False, self.age == 3, {}


class Strange(Odd):
    """Observations that no policy reads."""

    def __init__(self):
        super().__init__(observation=gymnasium.spaces.Discrete(3))


gymnasium.register("Door-v0", vector_entry_point="gym_envs:Door", max_episode_steps=5)
for _name, _class, _kwargs in (
    ("Odd-v0", Odd, {}),
    ("Choice-v0", Odd, {"choices": True}),
    ("Wet-v0", Odd, {"fail_at": 2}),
    ("Strange-v0", Strange, {}),
):
    gymnasium.register(_name, entry_point=_class, kwargs=_kwargs)
