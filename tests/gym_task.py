"""A Task that has nothing to do with walking: any Gymnasium id, in as few lines as it takes.

What trains here needed no change elsewhere.
"""

import dataclasses
from functools import partial

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers.vector import RescaleAction

from rfx.settings.reader import read
from train.task.task import Figure, Judgement


@dataclasses.dataclass(frozen=True, kw_only=True)
class GymConfig:
    id: str
    num_envs: int = 8
    tell_critic: bool = False  # the observation once more, as what a privileged critic is given


class TakeLargest(VectorWrapper):
    """Actions of a Box in place of Discrete ones: the largest of n numbers chooses."""

    def __init__(self, env):
        super().__init__(env)
        shape = (int(env.single_action_space.n),)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (env.num_envs, *shape), np.float32)

    def step(self, actions):
        return self.env.step(actions.argmax(axis=1))


class TellCritic(gymnasium.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Dict(
            {"state": env.observation_space, "critic": env.observation_space}
        )

    def observation(self, observation):
        return {"state": observation, "critic": observation}


class GymTask:
    state_dim = None
    shown = (Figure(name="episode/length", label="length", unit="steps", format=".0f"),)

    def __init__(self, config):
        self.config = config

    @classmethod
    def read_env(cls, values):
        return read(GymConfig, values["env"], "env")

    def make_env(self, num_envs=None):
        config = self.config.env
        make = (
            (lambda: TellCritic(gymnasium.make(config.id)))
            if config.tell_critic
            else partial(gymnasium.make, config.id)
        )
        env = SyncVectorEnv([make] * (num_envs or config.num_envs), autoreset_mode=AutoresetMode.SAME_STEP)
        if isinstance(env.single_action_space, gymnasium.spaces.Discrete):
            return TakeLargest(env)
        return RescaleAction(env, min_action=np.float32(-1.0), max_action=np.float32(1.0))

    def judge(self, policy, *, final=False, after_step=None):
        """Every environment plays one episode."""
        num_envs = self.config.trainer.final_evaluation_envs if final else self.config.trainer.evaluation_envs
        env = self.make_env(num_envs)
        observation, going_on = env.reset(seed=10_000 + final)[0], np.ones(num_envs, bool)
        returns, lengths = np.zeros(num_envs), np.zeros(num_envs, int)
        while going_on.any():
            state = observation["state"] if isinstance(observation, dict) else observation
            observation, reward, terminated, truncated, _ = env.step(policy({"state": np.float32(state)}))
            returns += np.where(going_on, reward, 0.0)
            lengths += going_on
            going_on &= ~(terminated | truncated)
            if after_step:
                after_step()
        figures = (
            Figure(name="return", label="return", format=".1f", value=float(returns.mean()), main=True),
            Figure(name="length", label="episode length", unit="steps", format=".0f", value=float(lengths.mean())),
        )
        return Judgement(
            score=-float(returns.mean()),
            figures=figures,
            conditions={"id": self.config.env.id, "num_envs": num_envs},
            note=f"{num_envs} episodes",
        )

    def export(self, policy, path, training_info):
        policy.policy.save(path, normalizer=policy.normalizer, training_info=training_info)

    def mirror(self):
        raise ValueError(f"{self.config.env.id} has no mirror: set ppo.mirror_coefficient=0")

    def meaning(self):
        return {"env": {"id": self.config.env.id}}

    def commands(self, path):
        return {"look": f"rfx inspect {path}"}
