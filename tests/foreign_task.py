"""A task as a user writes it, outside of our packages: task=foreign_task:PointTask."""

import dataclasses

from point_task import PointEnv

from rfx.settings.reader import read
from train.task.task import Judgement


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointConfig:
    num_envs: int = 64


class PointTask:
    state_dim, shown = None, ()

    def __init__(self, config):
        self.config = config

    @classmethod
    def read_env(cls, values):
        return read(PointConfig, values.get("env") or {}, "env")

    def make_env(self, rows=None):
        return PointEnv(self.config.env.num_envs if rows is None else len(rows))

    def judge(self, policy, *, final=False, after_step=None):
        return Judgement(score=0.0, figures=(), conditions={}, note="not judged")

    def export(self, policy, path, training_info):
        policy.policy.save(path, normalizer=policy.normalizer, training_info=training_info)

    def mirror(self):
        raise ValueError("points have no left and right: set policy.symmetric=false")

    def meaning(self):
        return {"points": 2}

    def commands(self, path):
        return {}
