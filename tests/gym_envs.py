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


class Unsolved(Door):
    """A Door that says `failed`, a word of its own, of every step in which nobody left."""

    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        told = {"failed": ~terminated, "_failed": np.ones(self.num_envs, bool)}
        return observation, reward, terminated, truncated, info | told


class Faint(Door):
    """A number of +-`size` is shown; an action of its sign earns 1, another one nothing.

    Episodes are cut after 5 steps.
    """

    size = 5e-5

    def step(self, actions):
        reward = (actions * self.shown > 0.0)[:, 0].astype(float)
        observation, _, terminated, truncated, info = super().step(np.zeros_like(actions))
        return observation, reward, terminated, truncated, info

    def _show(self):
        self.shown = self.np_random.choice(np.array([-self.size, self.size], np.float32), (self.num_envs, 1))
        return self.shown


class Blind(Door):
    """A Door of two numbers, whose environment 2 gives `value` as the second, or as its reward, at step fail_at, or at
    once.
    """

    def __init__(self, num_envs=1, max_episode_steps=5, value=np.nan, fail_at=20, reward=False):
        super().__init__(num_envs, max_episode_steps)
        self.value, self.fail_at, self.reward, self.steps = value, fail_at, reward, 0
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2, 1), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(self, **arguments):
        observation, info = super().reset(**arguments)
        return self._two(observation), info

    def step(self, actions):
        assert np.isfinite(actions).all()
        self.steps += 1
        observation, reward, terminated, truncated, info = super().step(actions)
        if "final_obs" in info:
            info["final_obs"] = np.array([*self._two(np.stack(info["final_obs"])), None], object)[:-1]
        if self.reward and self.steps == self.fail_at:
            reward[2] = self.value
        return self._two(observation), reward, terminated, truncated, info

    def _two(self, observation):
        two = np.repeat(observation[:, None], 2, axis=1)
        if self.steps == self.fail_at and not self.reward:
            two[2, 1] = self.value
        return two


class Pick(VectorEnv):
    """One of the whole numbers from 0 to 3 is shown, between -1 and 1; naming it gives a reward of 1.

    Episodes of 10 steps: the most is 10.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int = 1, max_episode_steps: int = 10):
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(0, 3, (1,), np.int8)
        self.observation_space, self.action_space = (
            batch_space(space, num_envs) for space in (self.single_observation_space, self.single_action_space)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self._show(), {}

    def step(self, actions):
        assert self.action_space.contains(actions), actions
        reward, self.age = np.float64(actions[:, 0] == self.shown), self.age + 1
        truncated = np.full(self.num_envs, self.age == self.max_episode_steps)
        info = (
            {"final_obs": np.array([*self._show(), None], object)[:-1], "_final_obs": truncated}
            if truncated.any()
            else {}
        )
        self.age %= self.max_episode_steps
        return self._show(), reward, np.zeros(self.num_envs, bool), truncated, info

    def _show(self):
        self.shown = self.np_random.integers(4, size=self.num_envs)
        return np.float32(self.shown / 1.5 - 1.0)[:, None]


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


# What an environment may give otherwise than Gymnasium asks for, and how that is the same numbers, or not as many.
BENDS = {
    "reward": lambda o, r, t: (o, np.array([r]), t),
    "reward in a list": lambda o, r, t: (o, [[r]], t),
    "end": lambda o, r, t: (o, r, np.array([t])),
    "observation in lists": lambda o, r, t: (o.tolist(), r, t),
    "observation of another axis": lambda o, r, t: (o[None], r, t),
    "flat observation": lambda o, r, t: (o.ravel(), r, t),
}
BREAKS = {
    "two rewards": lambda o, r, t: (o, np.array([r, r]), t),
    "two ends": lambda o, r, t: (o, r, np.array([t, t])),
    "half an observation": lambda o, r, t: (o[0], r, t),
    "no reward": lambda o, r, t: (o, None, t),
}


class Bent(Odd):
    """An Odd one that gives what it gives as BENDS or BREAKS says."""

    def __init__(self, bend):
        super().__init__()
        self.bend = (BENDS | BREAKS)[bend]

    def reset(self, **arguments):
        observation, info = super().reset(**arguments)
        return self.bend(observation, 0.0, False)[0], info

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        observation, reward, truncated = self.bend(observation, reward, truncated)
        return observation, reward, terminated, truncated, info


class BentDoor(Door):
    """A Door that gives columns where rows are asked for, and its observations in lists; or what BREAKS says."""

    def __init__(self, num_envs=1, wide=False, **arguments):
        super().__init__(num_envs, **arguments)
        self.wide = wide

    def reset(self, **arguments):
        observation, info = super().reset(**arguments)
        return observation.tolist(), info

    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        if "final_obs" in info:
            lists = [None if row is None else row.tolist() for row in info["final_obs"]]
            info["final_obs"] = np.array([*lists, None], object)[:-1]
        observation = np.hstack([observation] * (1 + self.wide))
        return observation.tolist(), reward[:, None], terminated[:, None], truncated[:, None].tolist(), info


class Told(Odd):
    """It takes keyword arguments of any kind, and keeps them."""

    def __init__(self, **kwargs):
        super().__init__()
        self.kwargs = kwargs


class Strange(Odd):
    """Observations that no policy reads."""

    def __init__(self):
        super().__init__(observation=gymnasium.spaces.Discrete(3))


gymnasium.register("Pick-v0", vector_entry_point="gym_envs:Pick", max_episode_steps=10)
for _name in ("Door", "Unsolved", "Faint", "BentDoor", "Blind"):
    gymnasium.register(f"{_name}-v0", vector_entry_point=f"gym_envs:{_name}", max_episode_steps=5)
for _name, _class, _kwargs in (
    ("Odd-v0", Odd, {}),
    ("Choice-v0", Odd, {"choices": True}),
    ("Wet-v0", Odd, {"fail_at": 2}),
    ("Strange-v0", Strange, {}),
    ("Bent-v0", Bent, {}),
    ("Told-v0", Told, {}),
):
    gymnasium.register(_name, entry_point=_class, kwargs=_kwargs)
