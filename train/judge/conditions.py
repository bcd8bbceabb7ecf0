"""The two conditions that every evaluation plays in addition to the nominal one: as trained, and the worst corner."""

from __future__ import annotations

from typing import Any

from envs.legged.config import EnvConfig
from rfx.robot.config import RobotConfig
from train.judge.play import DISTURBANCES

OTHERS_SHARE = 4  # 1 / OTHERS_SHARE of an evaluation's robots play each condition other than the nominal one
NOMINAL, AS_TRAINED, WORST_CORNER = "nominal", "as trained", "worst corner"
# The worst corner combines the ends of the ranges of preset deploy with the suite's targets.
FRICTION, PAYLOAD_SHARE, MOTOR_STRENGTH, TILT_RAD = 0.4, 0.2, 0.85, 0.035


def as_trained(task: EnvConfig) -> dict[str, Any]:
    """The keys of EnvConfig that switch on all disturbances of the task: randomization, noise, latency and pushes.

    Empty for a task without disturbances.
    """
    return {name: getattr(task, name) for name in DISTURBANCES} if task.randomize else {}


def worst_corner(robot: RobotConfig, mass_kg: float) -> dict[str, Any]:
    """The keys of EnvConfig for the worst corner, for a robot of mass_kg.

    It combines a floor friction of 0.4, a payload of a fifth of the mass, motors at 85% strength, actions that take
    effect a whole control step late, and an IMU that is tilted by 2 degrees about each axis, to either side.
    """
    payload, latency = PAYLOAD_SHARE * mass_kg, 1.0 / robot.control_freq_hz
    return {
        "randomize": True,
        "randomization": {
            "floor_friction": {"coefficient": (FRICTION, FRICTION)},
            "payload": {"range_kg": (payload, payload)},
            "motor_strength": {"scale": (MOTOR_STRENGTH, MOTOR_STRENGTH)},
            "action_latency": {"range_s": (latency, latency)},
            "imu_tilt_aside": {"range_rad": (TILT_RAD, TILT_RAD)},
        },
    }


def conditions(task: EnvConfig, robot: RobotConfig, mass_kg: float) -> dict[str, dict[str, Any]]:
    """The conditions in addition to the nominal one, by name: keys of EnvConfig."""
    named = {AS_TRAINED: as_trained(task), WORST_CORNER: worst_corner(robot, mass_kg)}
    return {name: changes for name, changes in named.items() if changes}


def fewer(num_envs: int) -> int:
    """Number of robots in a condition other than the nominal one."""
    return max(1, num_envs // OTHERS_SHARE)
