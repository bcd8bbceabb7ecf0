"""One robot in MuJoCo: its physics, and a Robot that drives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from rfx.drivers.base import base_addresses
from rfx.drivers.mjcf import load_model, motor_addresses
from rfx.drivers.realtime import WALL_CLOCK, Clock
from rfx.drivers.robot import MAX_VELOCITY_COMMAND, SingleRobot
from rfx.observation.arrays import is_installed
from rfx.robot.config import RobotConfig, joint_targets
from rfx.robot.files import load_robot
from rfx.robot.height_field import HeightField
from rfx.robot.state import Array, advance, projected_gravity
from rfx.system.extras import missing

LEVEL = (1.0, 0.0, 0.0, 0.0)


class Physics:
    """Physics of one robot whose motors obey the law of real motors.

    torque = tau + kp (position - q) + kd (velocity - dq), within the motors' limits.
    Arrays over motors are (num_joints,), in the config's motor order. viewer shows the robot in a window.
    """

    def __init__(
        self,
        config: RobotConfig,
        *,
        timestep_s: float = 0.005,
        mjcf: str | Path | None = None,
        viewer: bool = False,
        ground: HeightField | None = None,
    ):
        self.config, self.timestep_s, self.ground = config, timestep_s, ground
        self.model = load_model(config, mjcf, timestep_s=timestep_s, visual=viewer, ground=ground)
        self.data = mujoco.MjData(self.model)
        self._motors, self._base = motor_addresses(self.model, config), base_addresses(self.model)
        self._accelerometer = self.model.sensor("imu_accelerometer").adr[0]
        self._viewer = None
        self.place(config.default_position)
        if viewer:
            if not is_installed("glfw"):
                raise missing("the viewer", "glfw")
            from mujoco import viewer as window  # imported here because it loads a display library

            self._viewer = window.launch_passive(self.model, self.data)

    def place(
        self, joint_position: Array, *, height: float | None = None, quaternion: Array | tuple[float, ...] = LEVEL
    ) -> None:
        """Put the robot down at rest.

        Joint positions (num_joints,) in rad, height of the base in m (default: standing), orientation of the base wxyz.
        """
        mujoco.mj_resetDataKeyframe(self.model, self.data, self.model.key("home").id)
        if height is not None:
            self.data.qpos[self._base.position][2] = height
        self.data.qpos[self._base.quaternion] = quaternion
        self.data.qpos[self._motors.qpos] = joint_position
        self.data.ctrl[self._motors.actuator] = joint_position
        mujoco.mj_forward(self.model, self.data)

    def set_motors(
        self, position: Array, *, kp: Array, kd: Array, velocity: Array | float = 0.0, torque: Array | float = 0.0
    ) -> None:
        """Set what the motors do from now on.

        position rad, velocity rad/s, torque N m, gains kp N m/rad and kd N m s/rad.
        """
        model, motors = self.model, self._motors.actuator
        model.actuator_gainprm[motors, 0] = kp
        model.actuator_biasprm[motors, 0] = torque + np.multiply(kd, velocity)
        model.actuator_biasprm[motors, 1] = -np.asarray(kp)
        model.actuator_biasprm[motors, 2] = -np.asarray(kd)
        self.data.ctrl[motors] = position

    def push(self, velocity: Array) -> None:
        """Change the base's velocity by velocity (3,), m/s in the world's frame."""
        self.data.qvel[self._base.linear_velocity] += velocity

    def step(self, num_steps: int = 1) -> None:
        """Advance the simulation by num_steps timesteps."""
        mujoco.mj_step(self.model, self.data, num_steps)
        self.sync()

    def sync(self) -> None:
        """Update the viewer, if there is one."""
        if self._viewer is not None:
            self._viewer.sync()

    def close(self) -> None:
        """Close the viewer's window."""
        if self._viewer is not None:
            self._viewer.close()

    @property
    def joint_position(self) -> Array:
        """Joint positions, rad."""
        return self.data.qpos[self._motors.qpos]

    @property
    def joint_velocity(self) -> Array:
        """Joint velocities, rad/s."""
        return self.data.qvel[self._motors.qvel]

    @property
    def joint_torque(self) -> Array:
        """Motor torques over the last timestep, N m."""
        return self.data.actuator_force[self._motors.actuator]

    @property
    def base_position_w(self) -> Array:
        """Position of the base in the world. (3,), m."""
        return self.data.qpos[self._base.position]

    @property
    def base_quaternion(self) -> Array:
        """Orientation of the base. (4,), wxyz."""
        return self.data.qpos[self._base.quaternion]

    @property
    def base_linear_velocity_w(self) -> Array:
        """Velocity of the base in the world's frame. (3,), m/s."""
        return self.data.qvel[self._base.linear_velocity]

    @property
    def base_angular_velocity_b(self) -> Array:
        """Angular velocity in the base's frame, as a gyroscope measures it. (3,), rad/s."""
        return self.data.qvel[self._base.angular_velocity]

    @property
    def base_acceleration_b(self) -> Array:
        """Acceleration over the last timestep, gravity included, as an accelerometer measures it. (3,), m/s^2."""
        return self.data.sensordata[self._accelerometer : self._accelerometer + 3]


class SimRobot(SingleRobot):
    """One simulated robot, made from a config or from a name that load_robot knows.

    act advances the simulation by one control step. With realtime, act follows clock; otherwise a step takes only its
    computing time (a Session paces steps too). viewer opens a window. timestep_s is the physics step. ground replaces
    the flat floor; it must be level at height 0 around the origin. Commands are limited to max_velocity_command, vx, vy
    m/s, yaw rate rad/s. Raises ValueError when timestep_s does not divide the control step.
    """

    def __init__(
        self,
        config: RobotConfig | str = "go2",
        *,
        realtime: bool = False,
        viewer: bool = False,
        timestep_s: float = 0.005,
        mjcf: str | Path | None = None,
        ground: HeightField | None = None,
        max_velocity_command: tuple[float, float, float] = MAX_VELOCITY_COMMAND,
        clock: Clock = WALL_CLOCK,
    ):
        config = load_robot(config) if isinstance(config, str) else config
        super().__init__(config, max_velocity_command)
        self._control_step_s = 1.0 / config.control_freq_hz
        self._num_substeps = round(self._control_step_s / timestep_s)
        if self._num_substeps < 1 or abs(self._num_substeps * timestep_s - self._control_step_s) > 1e-9:
            raise ValueError(
                f"got timestep_s {timestep_s}; expected a whole fraction of the control step, {self._control_step_s} s"
            )
        self.physics = Physics(config, timestep_s=timestep_s, mjcf=mjcf, viewer=viewer, ground=ground)
        self._kp, self._kd = config.joint_array("kp"), config.joint_array("kd")
        self._realtime, self._due_s, self._clock = realtime, 0.0, clock
        self._stopped = False
        self.reset()

    def reset(self) -> None:
        """Stand in the default pose, at rest."""
        self.physics.place(self.config.default_position)
        self._clear()
        self._measure()
        self._stopped, self._due_s = False, self._clock.now()

    def observe(self) -> dict[str, Array]:
        """Return {"state": (1, max_state_dim)}, float32.

        Raises FloatingPointError when the simulation is no longer finite.
        """
        observation = self._observation()
        if not np.isfinite(observation["state"]).all():
            self.stop()
            raise FloatingPointError(
                "the simulated robot's state is not finite: reset it, or take a smaller timestep_s"
            )
        return observation

    def act(self, action: Any) -> None:
        """Apply an action for one control step.

        For a wrong action it stops and raises ValueError. Raises RuntimeError while stopped.
        """
        if self._stopped:
            raise RuntimeError("the robot is stopped: call reset() first")
        try:
            values = self._action(action)
        except ValueError:
            self.stop()
            raise
        self.physics.set_motors(joint_targets(self.config, values)[0], kp=self._kp, kd=self._kd)
        self.physics.step(self._num_substeps)
        advance(self.state, values)
        self._measure()
        if self._realtime:
            self._pace()

    def stop(self) -> None:
        """Switch the motors off until reset."""
        self._stopped = True
        self.physics.set_motors(self.physics.joint_position, kp=0.0 * self._kp, kd=self._kd)

    def __enter__(self) -> SimRobot:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stop()
        self.physics.close()

    def _measure(self) -> None:
        state, physics = self.state, self.physics
        state.joint_position[0] = physics.joint_position
        state.joint_velocity[0] = physics.joint_velocity
        state.base_angular_velocity_b[0] = physics.base_angular_velocity_b
        projected_gravity(physics.base_quaternion[None].astype(np.float32), out=state.projected_gravity_b)

    def _pace(self) -> None:
        self._due_s = max(self._due_s + self._control_step_s, self._clock.now() - self._control_step_s)
        self._clock.sleep(max(0.0, self._due_s - self._clock.now()))
