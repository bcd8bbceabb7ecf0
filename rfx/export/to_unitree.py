"""Export a policy for Unitree's C++ deployment: a folder with exported/policy.onnx and params/deploy.yaml.

Keys and terms follow unitree_rl_lab and unitree_rl_mjlab (deploy/include/isaaclab/envs/manager_based_rl_env.h and
below).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfx.drivers.robot import MAX_VELOCITY_COMMAND
from rfx.export.to_onnx import export_onnx
from rfx.policy.folder import PolicyInfo, inspect_policy, local_folder
from rfx.policy.hub import SCHEME
from rfx.policy.onnx_policy import inspect_onnx, terms_of
from rfx.robot.config import RobotConfig
from rfx.system.folders import replace_file

ONNX, SETTINGS = Path("exported") / "policy.onnx", Path("params") / "deploy.yaml"
# Unitree's names for terms that are the same numbers there. All other terms keep their names.
TERMS = {
    "joint_position": "joint_pos_rel",
    "joint_velocity": "joint_vel_rel",
    "base_angular_velocity": "base_ang_vel",
    "velocity_command": "velocity_commands",
}
RANGES = {"vx": "lin_vel_x", "vy": "lin_vel_y", "yaw_rate": "ang_vel_z"}


def export_unitree(source: str | Path, folder: str | Path) -> Path:
    """Export the policy at source into folder. The two files are replaced if they exist. Returns folder.

    Raises ModuleNotFoundError without onnx and onnxruntime, ValueError for a policy that does not say which robot it is
    for, and otherwise as `export_onnx`.
    """
    import yaml

    folder = Path(folder)
    # Fetch once, so that the line about the commit is printed once
    source = local_folder(source) if str(source).startswith(SCHEME) else source
    if inspect_policy(source).robot_config is None:
        raise ValueError(f"{source} does not say which robot it is for; save it with robot_config")
    info = inspect_onnx(export_onnx(source, folder / ONNX))
    text = yaml.safe_dump(settings(info, info.robot_config), sort_keys=False, default_flow_style=None, width=140)
    replace_file(folder / SETTINGS, text.encode())
    return folder


def settings(info: PolicyInfo, robot: RobotConfig) -> dict[str, Any]:
    """The contents of deploy.yaml.

    Joints are in motor order, so joint_ids_map is the identity. Terms are stacked term after term, Unitree's default.
    """
    joints = robot.joints
    default = [joint.default_rad for joint in joints]
    return {
        "joint_ids_map": list(range(len(joints))),
        "step_dt": 1.0 / robot.control_freq_hz,
        "stiffness": [joint.kp for joint in joints],
        "damping": [joint.kd for joint in joints],
        "default_joint_pos": default,
        "commands": {"base_velocity": {"ranges": _ranges(info.training_info) | {"heading": None}}},
        "actions": {
            "JointPositionAction": {
                "clip": [[joint.min_rad, joint.max_rad] for joint in joints],
                "joint_names": [".*"],
                "scale": [joint.action_scale_rad for joint in joints],
                "offset": [*default],
                "joint_ids": None,
            }
        },
        "observations": {
            TERMS.get(name, name): {
                "params": {"gait_freq_hz": robot.gait_freq_hz} if name == "gait_clock" else {},
                "clip": None,
                "scale": [1.0] * width,
                "history_length": info.arguments["history"],
            }
            for name, width in terms_of(robot, info.arguments["obs_dim"]).items()
        },
    }


def _ranges(training_info: Mapping[str, Any]) -> dict[str, list[float]]:
    """The velocities that the policy was trained for; if unknown, the limits of rfx's own robots."""
    env = training_info.get("env")
    for command in (env.get("commands") or {}).values() if isinstance(env, Mapping) else ():
        if RANGES.keys() <= command.keys():
            return {name: [float(end) for end in command[key]] for key, name in RANGES.items()}
    return {name: [-limit, limit] for name, limit in zip(RANGES.values(), MAX_VELOCITY_COMMAND)}
