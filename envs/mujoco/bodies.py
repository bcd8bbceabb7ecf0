"""Ant and Humanoid, in batches: bodies with a free root, which observe contact forces and pay for them.

Formulas are gymnasium.envs.mujoco's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch

from envs.mujoco.batched import ALL, BatchedMujocoEnv, Options, Rows
from rfx.robot.state import Array


class ContactForceEnv(BatchedMujocoEnv):
    """A task that reads cfrc_ext, the external force on every body. (N, nbody, 6).

    mj_step does not compute it; mj_rnePostConstraint does. Gymnasium calls that after the step, with the contacts of
    the integrator's last stage. The batch has no such call, so each simulation's data is copied out. cfrc_ext is zero
    at an episode's start.
    """

    def bind(self) -> None:
        self.cfrc_ext = np.zeros((self.num_envs, self.model.nbody, 6))
        self._data = mujoco.MjData(self.model)

    def arrays(self) -> dict[str, Array]:
        return super().arrays() | {"cfrc_ext": self.cfrc_ext}

    def _make_batch(self, threads: int) -> Batch:
        return Batch(self.model, self.num_envs, threads, persistent=True)

    def _advance(self) -> None:
        super()._advance()
        for i in range(self.num_envs):
            mujoco.mj_rnePostConstraint(self.model, self.batch.get_data(i, self._data))
            self.cfrc_ext[i] = self._data.cfrc_ext

    def _begin(self, ids: Array) -> None:
        super()._begin(ids)
        self.cfrc_ext[ids] = 0.0

    def _distances(self, rows: Rows) -> dict[str, Array]:
        position = self.qpos[rows, :2].copy()
        return {
            "x_position": position[:, 0],
            "y_position": position[:, 1],
            "distance_from_origin": np.linalg.norm(position, axis=1),
        }


@dataclass(frozen=True, kw_only=True)
class AntOptions(Options):
    """Ant's options."""

    xml_file: str = "ant.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 0.5
    contact_cost_weight: float = 5e-4
    healthy_reward: float = 1.0
    main_body: int | str = 1
    terminate_when_unhealthy: bool = True
    healthy_z_range: tuple[float, float] = (0.2, 1.0)
    contact_force_range: tuple[float, float] = (-1.0, 1.0)
    reset_noise_scale: float = 0.1
    exclude_current_positions_from_observation: bool = True
    include_cfrc_ext_in_observation: bool = True


class AntEnv(ContactForceEnv):
    """Ant: rewards for the main body's forward velocity and for being healthy, minus control and contact costs."""

    options_type = AntOptions

    def bind(self) -> None:
        super().bind()
        main = self.options.main_body
        self._main = self.model.body(main).id
        self._xpos = self.batch.bind("xpos")
        # Of the main body after the last step. MuJoCo derives it, so it is a substep old.
        self._position = np.zeros((self.num_envs, 2))

    def arrays(self) -> dict[str, Array]:
        return super().arrays() | {"position": self._position}

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return self.noisy_start(rng, self.options.reset_noise_scale, normal=True)

    def _begin(self, ids: Array) -> None:
        super()._begin(ids)
        self._position[ids] = self._xpos[ids, self._main, :2]

    def _contact_forces(self, rows: Rows) -> Array:
        return self.cfrc_ext[rows].clip(*self.options.contact_force_range)

    def observe(self, rows: Rows) -> Array:
        skipped = 2 * int(self.options.exclude_current_positions_from_observation)
        parts = [self.qpos[rows, skipped:], self.qvel[rows]]
        if self.options.include_cfrc_ext_in_observation:
            parts.append(self._contact_forces(rows)[:, 1:].reshape(len(parts[0]), -1))
        return np.concatenate(parts, axis=1)

    def remember(self) -> Array:
        return self._position.copy()

    def outcome(self, action: Array, before: Array) -> tuple[Array, Array, dict[str, Array]]:
        options = self.options
        self._position[...] = self._xpos[:, self._main, :2]
        velocity = (self._position - before) / self.step_s
        low, high = options.healthy_z_range
        z = self.qpos[:, 2]
        healthy = np.isfinite(self.qpos).all(axis=1) & np.isfinite(self.qvel).all(axis=1) & (low <= z) & (z <= high)
        rewards = {
            "reward_forward": options.forward_reward_weight * velocity[:, 0],
            "reward_ctrl": -options.ctrl_cost_weight * np.square(action).sum(axis=1),
            "reward_contact": -options.contact_cost_weight * np.square(self._contact_forces(ALL)).sum(axis=(1, 2)),
            "reward_survive": healthy * options.healthy_reward,
        }
        info = self.start_info(ALL) | {"x_velocity": velocity[:, 0], "y_velocity": velocity[:, 1]} | rewards
        return sum(rewards.values()), ~healthy & options.terminate_when_unhealthy, info

    def start_info(self, rows: Rows) -> dict[str, Array]:
        return self._distances(rows)


@dataclass(frozen=True, kw_only=True)
class HumanoidOptions(Options):
    """Humanoid's options."""

    xml_file: str = "humanoid.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1.25
    ctrl_cost_weight: float = 0.1
    contact_cost_weight: float = 5e-7
    contact_cost_range: tuple[float, float] = (-math.inf, 10.0)
    healthy_reward: float = 5.0
    terminate_when_unhealthy: bool = True
    healthy_z_range: tuple[float, float] = (1.0, 2.0)
    reset_noise_scale: float = 1e-2
    exclude_current_positions_from_observation: bool = True
    include_cinert_in_observation: bool = True
    include_cvel_in_observation: bool = True
    include_qfrc_actuator_in_observation: bool = True
    include_cfrc_ext_in_observation: bool = True


class HumanoidEnv(ContactForceEnv):
    """Humanoid: rewards for the mass centre's forward velocity and for health, minus control and contact costs."""

    options_type = HumanoidOptions

    def bind(self) -> None:
        super().bind()
        self._xipos, self._cinert, self._cvel = (self.batch.bind(name) for name in ("xipos", "cinert", "cvel"))
        self._qfrc_actuator, self._ten_length, self._ten_velocity = (
            self.batch.bind(name) for name in ("qfrc_actuator", "ten_length", "ten_velocity")
        )
        self._mass_share = self.model.body_mass / self.model.body_mass.sum()
        # Centre of mass after the last step. MuJoCo derives the positions, so it is a substep old.
        self._center = np.zeros((self.num_envs, 2))

    def arrays(self) -> dict[str, Array]:
        return super().arrays() | {"center": self._center}

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        return self.noisy_start(rng, self.options.reset_noise_scale)

    def _begin(self, ids: Array) -> None:
        super()._begin(ids)
        self._center[ids] = self._mass_center(ids)

    def _mass_center(self, rows: Rows) -> Array:
        return np.einsum("b,nbj->nj", self._mass_share, self._xipos[rows, :, :2])

    def observe(self, rows: Rows) -> Array:
        options, skipped = self.options, 2 * int(self.options.exclude_current_positions_from_observation)
        parts = [self.qpos[rows, skipped:], self.qvel[rows]]
        included = (
            (options.include_cinert_in_observation, self._cinert),
            (options.include_cvel_in_observation, self._cvel),
            (options.include_qfrc_actuator_in_observation, self._qfrc_actuator),
            (options.include_cfrc_ext_in_observation, self.cfrc_ext),
        )
        for wanted, field in included:
            if wanted:  # without the world's row, or the root's six degrees of freedom
                values = field[rows, 6:] if field is self._qfrc_actuator else field[rows, 1:]
                parts.append(values.reshape(len(parts[0]), -1))
        return np.concatenate(parts, axis=1)

    def remember(self) -> Array:
        return self._center.copy()

    def outcome(self, action: Array, before: Any) -> tuple[Array, Array, dict[str, Array]]:
        options = self.options
        self._center[...] = self._mass_center(ALL)
        velocity = (self._center - before) / self.step_s
        low, high = options.healthy_z_range
        healthy = (low < self.qpos[:, 2]) & (self.qpos[:, 2] < high)
        contact = options.contact_cost_weight * np.square(self.cfrc_ext).sum(axis=(1, 2))
        rewards = {
            "reward_survive": healthy * options.healthy_reward,
            "reward_forward": options.forward_reward_weight * velocity[:, 0],
            "reward_ctrl": -options.ctrl_cost_weight * np.square(self.ctrl).sum(axis=1),
            "reward_contact": -contact.clip(*options.contact_cost_range),
        }
        info = self.start_info(ALL) | {"x_velocity": velocity[:, 0], "y_velocity": velocity[:, 1]} | rewards
        return sum(rewards.values()), ~healthy & options.terminate_when_unhealthy, info

    def start_info(self, rows: Rows) -> dict[str, Array]:
        tendons = {"tendon_length": self._ten_length[rows].copy(), "tendon_velocity": self._ten_velocity[rows].copy()}
        return self._distances(rows) | tendons
