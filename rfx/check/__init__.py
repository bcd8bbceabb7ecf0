"""Checks of a robot's folder, for `rfx check-robot`.

They compare robot.yaml with the MJCF, and both with MuJoCo's physics.
"""

from __future__ import annotations

from pathlib import Path

import mujoco

from rfx.check.files import check_feet_names, check_joints, check_observation
from rfx.check.finding import MISTAKE, Check, mistake
from rfx.check.gait import check_gains, check_gait
from rfx.check.geometry import check_feet, check_mirror
from rfx.check.physics import TIMESTEPS_S, check_speed, check_standing, check_torque, check_world, stand
from rfx.drivers.mjcf import load_model
from rfx.robot.files import find_mjcf, load_robot


def check_robot(source: str | Path) -> list[Check]:
    """Run all checks of the robot in a folder, or of the robot with this name.

    A check is left out if it needs something that an earlier check found missing. Takes about three seconds. Raises
    ValueError and OSError for files that cannot be read, or a robot.yaml that contradicts itself.
    """
    config = load_robot(source)
    file = mujoco.MjSpec.from_file(str(find_mjcf(config))).compile()
    checks = [check_observation(config), check_gait(config), check_joints(config, file), check_feet_names(config, file)]
    if any(check.verdict == MISTAKE for check in checks[2:]):
        return checks
    checks.append(check_gains(config, file))
    try:
        model = load_model(config)
    except ValueError as error:
        return [*checks, Check(name="model", findings=[mistake(str(error), "correct the MJCF")])]
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, model.key("home").id)
    mujoco.mj_forward(model, data)
    stands = [stand(config, timestep_s) for timestep_s in TIMESTEPS_S]
    return [
        *checks,
        check_world(model),
        check_feet(config, model, data),
        check_mirror(config, model, data),
        check_standing(config, stands),
        check_torque(config, stands[0]),
        check_speed(config, model),
    ]
