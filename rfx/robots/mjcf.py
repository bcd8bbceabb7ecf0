"""From a Go2 MJCF to a MuJoCo model that a RobotConfig drives: gains, torque limits and addresses, all by joint name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from rfx.config import RobotConfig

GO2_MJCF = Path(__file__).parents[2] / "assets" / "go2" / "go2.xml"


@dataclass(frozen=True, kw_only=True)
class MotorAddresses:
    """Where each motor of the config, in motor order, lives in a model. Three int arrays (num_joints,)."""

    qpos: np.ndarray  # into qpos
    qvel: np.ndarray  # into qvel and every other array over degrees of freedom
    actuator: np.ndarray  # into ctrl and actuator_force


def load_model(config: RobotConfig, path: str | Path | None = None, *, timestep_s: float = 0.005) -> mujoco.MjModel:
    """The compiled model at path (rfx's own Go2 by default), driven by position actuators with the config's gains.

    Raises FileNotFoundError without such a file, ValueError for one that does not have the config's joints.
    """
    path = GO2_MJCF if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no MJCF at {path}: give the path of a model file, or none for rfx's own Go2 ({GO2_MJCF})")
    spec = mujoco.MjSpec.from_file(str(path))
    model = spec.compile()
    model.opt.timestep = timestep_s
    addresses = motor_addresses(model, config)
    kp, kd, torque = (config.joint_array(name) for name in ("kp", "kd", "max_torque_nm"))
    model.actuator_gainprm[addresses.actuator, 0] = kp
    model.actuator_biasprm[addresses.actuator, 1] = -kp
    model.actuator_biasprm[addresses.actuator, 2] = -kd
    model.actuator_forcerange[addresses.actuator] = np.stack((-torque, torque), axis=1)
    return model


def motor_addresses(model: mujoco.MjModel, config: RobotConfig) -> MotorAddresses:
    """Addresses of the config's motors in the model, found by joint name. Raises ValueError naming the joints it lacks."""
    names = [model.joint(index).name for index in range(model.njnt)]
    if missing := [name for name in config.joint_names if name not in names]:
        raise ValueError(f"the model has no joint {', '.join(missing)}; its joints are {', '.join(filter(None, names)) or 'unnamed'}")
    joints = np.array([names.index(name) for name in config.joint_names])
    driven = [int(joint) for joint in model.actuator_trnid[:, 0]]
    actuator = np.array([driven.index(joint) for joint in joints])
    return MotorAddresses(qpos=model.jnt_qposadr[joints].astype(int), qvel=model.jnt_dofadr[joints].astype(int), actuator=actuator)
