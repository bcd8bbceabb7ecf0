"""Reacher and Pusher, in batches: arms that earn rewards for being near. Formulas are gymnasium.envs.mujoco's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.mujoco.batched import ALL, BatchedMujocoEnv, Options, Rows
from rfx.robot.state import Array

# Largest distance of Reacher's target from the origin; smallest distance of Pusher's object from its goal
MAX_GOAL_M, MIN_PUSH_M = 0.2, 0.17
VELOCITY_NOISE = 0.005  # rad/s


class ArmEnv(BatchedMujocoEnv):
    """A task that reads positions of bodies. MuJoCo derives them, so they are a substep old."""

    def bind(self) -> None:
        self._xpos = self.batch.bind("xpos")

    def position(self, body: str, rows: Rows) -> Array:
        """Positions (n, 3) of a body in environments rows, m."""
        return self._xpos[rows, self.model.body(body).id]


@dataclass(frozen=True, kw_only=True)
class ReacherOptions(Options):
    """Reacher's options."""

    xml_file: str = "reacher.xml"
    frame_skip: int = 2
    reward_dist_weight: float = 1.0
    reward_control_weight: float = 1.0


class ReacherEnv(ArmEnv):
    """Reacher: costs for control, and for the fingertip's distance from a target, which every episode draws anew."""

    options_type = ReacherOptions

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        qpos = rng.uniform(low=-0.1, high=0.1, size=self.model.nq) + self.init_qpos
        goal = rng.uniform(low=-MAX_GOAL_M, high=MAX_GOAL_M, size=2)
        while np.linalg.norm(goal) >= MAX_GOAL_M:
            goal = rng.uniform(low=-MAX_GOAL_M, high=MAX_GOAL_M, size=2)
        qvel = self.init_qvel + rng.uniform(-VELOCITY_NOISE, VELOCITY_NOISE, self.model.nv)
        qpos[-2:], qvel[-2:] = goal, 0.0
        return qpos, qvel

    def observe(self, rows: Rows) -> Array:
        qpos = self.qpos[rows]
        offset = self.position("fingertip", rows) - self.position("target", rows)
        return np.concatenate(
            (np.cos(qpos[:, :2]), np.sin(qpos[:, :2]), qpos[:, 2:], self.qvel[rows, :2], offset[:, :2]), axis=1
        )

    def outcome(self, action: Array, before: None) -> tuple[Array, Array, dict[str, Array]]:
        offset = self.position("fingertip", ALL) - self.position("target", ALL)
        rewards = {
            "reward_dist": -np.linalg.norm(offset, axis=1) * self.options.reward_dist_weight,
            "reward_ctrl": -np.square(action).sum(axis=1) * self.options.reward_control_weight,
        }
        return sum(rewards.values()), np.zeros(self.num_envs, bool), rewards


@dataclass(frozen=True, kw_only=True)
class PusherOptions(Options):
    """Pusher's options."""

    xml_file: str = "pusher_v5.xml"
    frame_skip: int = 5
    reward_near_weight: float = 0.5
    reward_dist_weight: float = 1.0
    reward_control_weight: float = 0.1


class PusherEnv(ArmEnv):
    """Pusher: costs for control, and for the distances from object to goal and from the arm's tip to the object."""

    options_type = PusherOptions

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        cylinder = np.zeros(2)
        while np.linalg.norm(cylinder) <= MIN_PUSH_M:
            cylinder = np.concatenate(
                (rng.uniform(low=-0.3, high=0.0, size=1), rng.uniform(low=-0.2, high=0.2, size=1))
            )
        qpos = self.init_qpos.copy()
        qpos[-4:-2], qpos[-2:] = cylinder, 0.0
        qvel = self.init_qvel + rng.uniform(-VELOCITY_NOISE, VELOCITY_NOISE, self.model.nv)
        qvel[-4:] = 0.0
        return qpos, qvel

    def observe(self, rows: Rows) -> Array:
        bodies = (self.position(name, rows) for name in ("tips_arm", "object", "goal"))
        return np.concatenate((self.qpos[rows, :7], self.qvel[rows, :7], *bodies), axis=1)

    def outcome(self, action: Array, before: None) -> tuple[Array, Array, dict[str, Array]]:
        object_, options = self.position("object", ALL), self.options
        rewards = {
            "reward_dist": -np.linalg.norm(object_ - self.position("goal", ALL), axis=1) * options.reward_dist_weight,
            "reward_ctrl": -np.square(action).sum(axis=1) * options.reward_control_weight,
            "reward_near": -np.linalg.norm(object_ - self.position("tips_arm", ALL), axis=1)
            * options.reward_near_weight,
        }
        return sum(rewards.values()), np.zeros(self.num_envs, bool), rewards
