"""The physics: N robots stepped by mujoco.batch, and the SimState they fill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mujoco
import numpy as np
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError

from envs.legged.randomization import Draw
from envs.legged.state import SimState, load_arrays
from rfx.drivers.base import base_addresses, robot_mass_kg, trunk_body
from rfx.drivers.contacts import floor_id, sliding_friction
from rfx.drivers.mjcf import load_model, motor_addresses, quiet_mujoco
from rfx.drivers.sensors import foot_geoms
from rfx.robot.config import RobotConfig, joint_targets
from rfx.robot.height_field import HeightField
from rfx.robot.state import Array, advance, projected_gravity, stepping


class Simulation:
    """num_envs copies of one robot on one ground, controlled at the config's rate by actions in [-1, 1].

    The default ground is a plane. Raises ValueError if timestep_s does not divide the control step.
    """

    def __init__(
        self,
        config: RobotConfig,
        num_envs: int,
        *,
        timestep_s: float = 0.005,
        threads: int = 0,
        mjcf: str | Path | None = None,
        ground: HeightField | None = None,
    ):
        self.config, self.ground = config, ground
        self.control_step_s = 1.0 / config.control_freq_hz
        self.num_substeps = round(self.control_step_s / timestep_s)
        if self.num_substeps < 1 or abs(self.num_substeps * timestep_s - self.control_step_s) > 1e-9:
            raise ValueError(f"timestep_s {timestep_s} does not divide the control step of {self.control_step_s} s")
        self.model = load_model(config, mjcf, timestep_s=timestep_s, ground=ground)
        self.batch = Batch(self.model, num_envs, threads)
        self.state = SimState.zeros(config, num_envs)
        self.failed = np.zeros(num_envs, bool)

        motors = motor_addresses(self.model, config)
        self.base = base_addresses(self.model)
        self._joint_qpos, self._joint_dof, self._actuator = map(_as_slice, (motors.qpos, motors.qvel, motors.actuator))
        self._qpos, self._qvel, self._ctrl = (self.batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._force, self._sensor = self.batch.bind("actuator_force"), self.batch.bind("sensordata")
        sensors = {
            name: self.model.sensor(name).adr[0]
            for name in [
                "base_touch",
                *(f"{foot}_foot_{kind}" for foot in config.foot_names for kind in ("touch", "position")),
            ]
        }
        self._floor_geom, self._foot_geom = floor_id(self.model), foot_geoms(self.model, config.feet[0])[0]
        self._base_touch = sensors["base_touch"]
        self._foot_touch = _as_slice(np.array([sensors[f"{foot}_foot_touch"] for foot in config.foot_names]))
        self._foot_position = np.array(
            [[sensors[f"{foot}_foot_position"] + axis for axis in range(3)] for foot in config.foot_names]
        )
        self._gait_offset = np.array([foot.gait_offset for foot in config.feet], np.float32)  # cycles
        self._stance_share = 1.0 - config.swing_share  # of the cycle
        # The weight of the newest velocity in the running mean
        self._mean_share = np.float32(min(1.0, self.control_step_s * 2.0 * config.gait_freq_hz))
        self._last_foot_position = np.zeros((num_envs, len(config.feet), 3), np.float32)
        self._target, self._last_target = np.zeros((2, num_envs, len(config.joints)), np.float32)
        self.encoder_offset = np.zeros((num_envs, len(config.joints)), np.float32)  # rad, measured minus true position
        self.latency = np.zeros(num_envs, np.int64)  # substeps until a new target takes effect
        self._last_warnings = np.array(self.batch.warning, copy=True)
        self._note_robots(slice(None), {})

    def step(self, action: Array) -> Array:
        """Apply one action for one control step. action (N, num_joints) in [-1, 1].

        Returns failed (N,), bool: True for a simulation that MuJoCo gave up or warned about, or whose state is not
        finite. The caller must reset it.
        """
        state = self.state
        state.earlier_action[...] = state.previous_action
        state.previous_action[...] = state.robot.last_action
        self.failed[:] = False
        try:
            with quiet_mujoco():
                self._drive(action)
        except SimulationError as error:
            self.failed[error.ids] = True
        advance(state.robot, action)
        state.step[...] += 1
        self._refresh(slice(None))
        mean_velocity = state.mean_velocity_b
        mean_velocity += self._mean_share * (self._velocity() - mean_velocity)
        self.failed |= ~np.isfinite(self.batch.state.sum(axis=1))
        warnings = self.batch.warning
        if not np.array_equal(warnings, self._last_warnings):
            self.failed |= (warnings != self._last_warnings).reshape(len(self.failed), -1).any(axis=1)
            self._last_warnings[...] = warnings
        return self.failed

    def _drive(self, action: Array) -> None:
        """Step MuJoCo through one control step, with the last targets until the new action's targets take effect."""
        target = joint_targets(self.config, action, out=self._target)
        target -= self.encoder_offset
        if not self.latency.any():
            self._ctrl[:, self._actuator] = target
            self.batch.step(nstep=self.num_substeps)
            return
        last = joint_targets(self.config, self.state.robot.last_action, out=self._last_target)
        last -= self.encoder_offset
        control = np.repeat(self._ctrl[:, None], self.num_substeps, axis=1)
        for substep in range(self.num_substeps):
            control[:, substep, self._actuator] = np.where((self.latency <= substep)[:, None], target, last)
        self.batch.rollout(self.num_substeps, control, record=())  # same result and speed as step

    def vary(self, ids: Array, draw: Draw) -> None:
        """Give simulations ids (n,), sorted, the drawn robots until the next call; reset them afterwards.

        Raises ValueError for a latency that is longer than a control step.
        """
        latency = np.rint(draw.latency_s / self.model.opt.timestep)
        if len(ids) and not 0 <= latency.min() <= latency.max() <= self.num_substeps:
            raise ValueError(
                f"got action latencies of {draw.latency_s.min():g} to {draw.latency_s.max():g} s; "
                f"expected 0 to {self.control_step_s:g} s, one control step"
            )
        self.latency[ids], self.encoder_offset[ids] = latency, draw.encoder_offset
        for name, values in draw.fields.items():
            self.batch.expand(name)[ids] = values
        self._note_robots(ids, draw.fields)
        if draw.fields.keys() & mujoco.MjModel._setconst_inputs:
            self.batch.set_const(ids)  # 40 us each: what MuJoCo derives from masses and armatures

    def _note_robots(self, rows: slice | Array, fields: Mapping[str, Array]) -> None:
        """Write friction and mass into rows of SimState, from the robots' own fields of MjModel or else the model's."""

        def field(name: str) -> Array:
            return fields[name] if name in fields else getattr(self.model, name)[None]

        self.state.floor_friction[rows] = sliding_friction(field, self.model, self._floor_geom, self._foot_geom)
        self.state.trunk_mass[rows] = field("body_mass")[:, trunk_body(self.model)]

    def push(self, ids: Array, change: Array) -> None:
        """Add change (n, 6) to the base velocity of simulations ids (n,).

        change is m/s in the world frame, then rad/s in the base frame.
        """
        self._qvel[ids, self.base.velocity] += change

    def reset(self, ids: Array, qpos: Array, qvel: Array) -> None:
        """Start simulations ids (n,), sorted, anew from qpos (n, nq) and qvel (n, nv).

        Actions, gait phase and step begin at zero.
        """
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        self._qpos[ids], self._qvel[ids] = qpos, qvel
        motors = np.arange(self.model.nu)[self._actuator]
        self._ctrl[np.asarray(ids)[:, None], motors] = self.config.default_position - self.encoder_offset[ids]
        self.batch.forward(ids)
        self._last_warnings[ids] = self.batch.warning[ids]
        state = self.state
        for array in (
            state.robot.last_action,
            state.previous_action,
            state.earlier_action,
            state.robot.gait_phase,
            state.step,
        ):
            array[ids] = 0
        self._refresh(ids)
        state.mean_velocity_b[ids] = self._velocity()[ids]
        state.joint_acceleration[ids] = 0.0
        state.foot_velocity_w[ids] = 0.0
        state.foot_landed[ids] = False

    def state_dict(self) -> dict[str, Array]:
        """Everything that the next step depends on, copied: MuJoCo's state, randomized model fields, and SimState.

        It leaves out MuJoCo's derived fields and warning counters. Every call computes the derived fields before
        anything reads them. A simulation whose warning counter moved is reset, which clears the counter.
        """
        return {name: array.copy() for name, array in self._arrays().items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Continue from the state that state_dict returned.

        Raises ValueError for an entry that is missing, unknown or of another shape.
        """
        for name in state:
            if name.startswith("model."):
                self.batch.expand(name.removeprefix("model."))
        load_arrays(self._arrays(), state)

    def _arrays(self) -> dict[str, Array]:
        """Live arrays by name."""
        own_fields = [name for name in sorted(MODEL_FIELDS) if self.batch.expanded(name) is not None]
        return (
            self.state.arrays()
            | {
                "mujoco": self.batch.state,
                "last_foot_position": self._last_foot_position,
                "encoder_offset": self.encoder_offset,
                "latency": self.latency,
            }
            | {f"model.{name}": self.batch.expand(name) for name in own_fields}
        )

    def home(self, num: int) -> tuple[Array, Array]:
        """qpos (num, nq) and qvel (num, nv) of robots at rest in the default pose, feet on the floor."""
        qpos = np.tile(self.model.key("home").qpos, (num, 1))
        qpos[:, self._joint_qpos] = self.config.default_position
        return qpos, np.zeros((num, self.model.nv))

    def write_joints(self, qpos: Array, qvel: Array, position: Array, velocity: Array) -> None:
        """Write joint positions and velocities (n, num_joints), in motor order, into qpos and qvel, in place."""
        qpos[:, self._joint_qpos], qvel[:, self._joint_dof] = position, velocity

    @property
    def base_position_w(self) -> Array:
        """Positions of the bases, as a live view. (N, 3), m, world."""
        return self._qpos[:, self.base.position]

    @property
    def base_quaternion(self) -> Array:
        """Orientations of the bases, as a live view. (N, 4), wxyz."""
        return self._qpos[:, self.base.quaternion]

    @property
    def mass_kg(self) -> Array:
        """The mass of each robot, with its payload. (N,), kg."""
        own = self.batch.expanded("body_mass")
        masses = np.broadcast_to(self.model.body_mass, (len(self.failed), self.model.nbody)) if own is None else own
        return robot_mass_kg(self.model, masses)

    @property
    def joint_qpos(self) -> slice | Array:
        """The columns of qpos that hold the joint positions, in motor order."""
        return self._joint_qpos

    def _velocity(self) -> Array:
        """The actual velocity in a command's terms: vx, vy in m/s, yaw rate in rad/s, base frame. (N, 3)."""
        state = self.state
        return np.concatenate([state.base_linear_velocity_b[:, :2], state.robot.base_angular_velocity_b[:, 2:]], axis=1)

    def _refresh(self, rows: slice | Array) -> None:
        """Copy MuJoCo's state into rows of SimState.

        Derived quantities (sensors, torque) are one substep old, as they are after mj_step.
        """
        state, robot, base = self.state, self.state.robot, self.base
        qpos, qvel = self._qpos[rows], self._qvel[rows]
        velocity = qvel[:, self._joint_dof].astype(np.float32)
        state.joint_acceleration[rows] = (velocity - robot.joint_velocity[rows]) * np.float32(
            self.config.control_freq_hz
        )
        robot.joint_velocity[rows] = velocity
        robot.joint_position[rows] = qpos[:, self._joint_qpos]
        # MuJoCo gives a free joint's angular velocity in the body frame.
        robot.base_angular_velocity_b[rows] = qvel[:, base.angular_velocity]
        quaternion = np.ascontiguousarray(qpos[:, base.quaternion].T, np.float32).T  # columns contiguous
        robot.projected_gravity_b[rows] = projected_gravity(quaternion)
        state.base_height[rows] = qpos[:, base.position][:, 2]
        state.base_linear_velocity_b[rows] = rotate_inverse(
            quaternion, qvel[:, base.linear_velocity].astype(np.float32)
        )
        state.joint_torque[rows] = self._force[rows][:, self._actuator]
        sensor = self._sensor[rows]
        foot_position = sensor[:, self._foot_position].astype(np.float32)
        state.foot_velocity_w[rows] = (foot_position - self._last_foot_position[rows]) * np.float32(
            self.config.control_freq_hz
        )
        self._last_foot_position[rows] = foot_position
        state.foot_height[rows] = foot_position[:, :, 2]
        if self.ground is not None:
            state.base_height[rows] -= self.ground.height_at(*qpos[:, base.position].T[:2])
            state.foot_height[rows] -= self.ground.height_at(foot_position[:, :, 0], foot_position[:, :, 1])
        contact = sensor[:, self._foot_touch] > 0.0
        state.foot_landed[rows] = contact & ~state.foot_contact[rows]
        state.foot_contact[rows] = contact
        state.base_contact[rows] = sensor[:, self._base_touch] > 0.0
        cycle = (robot.gait_phase[rows, None] * np.float32(0.5 / np.pi) + self._gait_offset) % np.float32(1.0)
        state.foot_swing[rows] = (cycle >= self._stance_share) & stepping(robot)[rows, None]


def rotate_inverse(quaternion: Array, vector: Array) -> Array:
    """Turn world vectors (N, 3) into the body frame of unit quaternions (N, 4), wxyz: R(q)^T v. (N, 3), float32."""
    w, x, y, z = quaternion.T
    vx, vy, vz = vector.T
    # v + 2 u x (u x v - w v), u = (x, y, z): the rotation by the conjugate quaternion
    tx, ty, tz = y * vz - z * vy - w * vx, z * vx - x * vz - w * vy, x * vy - y * vx - w * vz
    out = np.empty(vector.shape, np.float32)
    out[:, 0] = vx + 2.0 * (y * tz - z * ty)
    out[:, 1] = vy + 2.0 * (z * tx - x * tz)
    out[:, 2] = vz + 2.0 * (x * ty - y * tx)
    return out


def _as_slice(indices: Array) -> slice | Array:
    """Turn consecutive indices into a slice, because a view is faster than a gather."""
    indices = np.asarray(indices)
    if (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices
