"""A robot of four legs with a joint each, small enough to be written in a test, in as many ways as files are
written.
"""

from pathlib import Path

import yaml

from rfx.robot.config import RobotConfig
from rfx.robot.files import load_robot

LEGS = {"FR": (0.2, -0.3), "FL": (0.2, 0.3), "RR": (-0.2, -0.3), "RL": (-0.2, 0.3)}
FOOT_M, LEG_M = 0.02, 0.2  # radius of a foot; from a joint to the middle of its foot
MASS_KG = 5.4  # a base of 3 kg, four thighs of 0.5 kg and feet of 0.1 kg
FLOOR = '<geom name="floor" type="plane" size="0 0 1" priority="1" friction="0.8"/>'
BASE = '<geom name="box" type="box" size="0.15 0.1 0.05" mass="3"/>'
FOOT = '<geom name="{name}_foot" size="0.02" pos="0 0 -0.2" mass="0.1"/>'


def small_robot(
    folder: Path,
    *,
    floor: str = FLOOR,
    before: str = "",
    base: str = BASE,
    base_name: str = 'name="base"',
    shin: str = "",
    foot: str = FOOT,
    after: str = "",
    option: str = "",
    leg_name: str = 'name="{name}_leg"',
) -> RobotConfig:
    """Write it, and read it. before is what the world has ahead of it; in shin, foot and leg_name {name} is the
    leg's.
    """
    legs = "".join(
        f'''<body {leg_name} pos="{x} {y} 0"><joint name="{{name}}" axis="0 1 0" range="-1 1" damping="0.1" armature="0.01"/>
                       <geom type="capsule" size="0.01" fromto="0 0 -0.02 0 0 -0.12" mass="0.5"/>{shin}{foot}</body>'''.replace(
            "{name}", name
        )
        for name, (x, y) in LEGS.items()
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.xml").write_text(f"""<mujoco><compiler angle="radian"/>{option}<worldbody>{floor}{before}
        <body {base_name} pos="0 0 1"><freejoint/>{base}{legs}</body></worldbody>{after}</mujoco>""")
    joints = [
        {
            "name": name,
            "min_rad": -1.0,
            "max_rad": 1.0,
            "default_rad": 0.0,
            "kp": 60.0,
            "kd": 1.0,
            "max_torque_nm": 20.0,
            "mirror": name[0] + {"R": "L", "L": "R"}[name[1]],
            "mirror_sign": 1,
        }
        for name in LEGS
    ]
    feet = [
        {
            "name": name,
            "geoms": [f"{name}_foot"],
            "gait_offset": 0.5 * (name in ("FR", "RL")),
            "mirror": name[0] + {"R": "L", "L": "R"}[name[1]],
        }
        for name in LEGS
    ]
    (folder / "robot.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "small",
                "mjcf": "small.xml",
                "joints": joints,
                "feet": feet,
                "observation_terms": [
                    "joint_position",
                    "joint_velocity",
                    "base_angular_velocity",
                    "projected_gravity",
                    "velocity_command",
                    "last_action",
                    "gait_clock",
                ],
            }
        )
    )
    return load_robot(folder)
