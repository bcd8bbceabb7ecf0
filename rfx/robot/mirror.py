"""A robot's mirror image: left is right.

What it observes and does, as its reflection in the plane that halves it lengthwise would.

A reflection in y keeps x and z of a vector and turns its y around; of a rotation (an axial vector: angular velocity) it
turns x and z around and keeps y. Joints change places with those that the config names as their mirror images. Where
the feet of the two sides are half a cycle apart, as in a walk or a trot, the clock is half a cycle on, but a clock that
waits (rfx.robot.state.advance) is its own image.
"""

from __future__ import annotations

import numpy as np

from rfx.robot.config import RobotConfig
from rfx.robot.state import Array

JOINT_TERMS = ("joint_position", "joint_velocity", "last_action")
VECTOR_SIGNS = {
    "base_angular_velocity": (-1.0, 1.0, -1.0),
    "projected_gravity": (1.0, -1.0, 1.0),
    "velocity_command": (1.0, -1.0, -1.0),
}


class Mirror:
    """Mirrors the actions and observations of a robot whose config says the mirror images of its joints and feet.

    Raises ValueError for one that does not, a default pose or action scales that are not their own mirror images, a
    gait whose image is neither itself nor half a cycle on, or an observation term that has no mirror image.
    """

    def __init__(self, config: RobotConfig):
        self._joint_from, self._joint_sign = _joints(config)
        if not np.allclose(self.action(config.default_position), config.default_position):
            raise ValueError(
                f"got a default pose of robot {config.name!r} that is not its own mirror image: {config.default_position.tolist()}"
            )
        if not np.allclose(config.action_scale[self._joint_from], config.action_scale):
            raise ValueError(
                f"got action scales of robot {config.name!r} that differ between left and right: {config.action_scale.tolist()}"
            )
        half_cycle_on = _half_cycle_on(config)
        sources, signs = [], []
        for name in config.observation_terms:
            begin = len(sources)
            if name in JOINT_TERMS:
                source, sign = self._joint_from, self._joint_sign
            elif name in VECTOR_SIGNS:
                source, sign = range(3), VECTOR_SIGNS[name]
            elif name == "gait_clock":
                source, sign = range(3), (-1.0, -1.0, 1.0) if half_cycle_on else (1.0, 1.0, 1.0)
            else:
                raise ValueError(
                    f"the observation term {name!r} has no mirror image; known are "
                    f"{', '.join([*JOINT_TERMS, *VECTOR_SIGNS, 'gait_clock'])}: set policy.symmetric=false, or add it"
                )
            sources.extend(begin + index for index in source)
            signs.extend(sign)
        self._from, self._sign = np.array(sources), np.array(signs, np.float32)

    def action(self, action: Array) -> Array:
        """What the mirror image of a robot does where the robot does action.

        (..., num_joints), a new array; also of joint angles, rad.
        """
        return action[..., self._joint_from] * self._joint_sign

    def permuted(self, values: Array) -> Array:
        """The entries of an observation's variances, or of anything that has no sign, in their mirror image's order.

        (..., state_dim).
        """
        return values[..., self._from]

    def observation(self, state: Array) -> Array:
        """What the mirror image of a robot observes where the robot observes state.

        (..., state_dim), a new array, not normalized.

        Applied twice it gives the state again.
        """
        return state[..., self._from] * self._sign


def _joints(config: RobotConfig) -> tuple[Array, Array]:
    """Of each joint's mirror image: the joint that it is taken from, and its sign. Two (num_joints,)."""
    for joint in config.joints:
        if joint.mirror is None:
            raise ValueError(
                f"joint {joint.name!r} of robot {config.name!r} has no mirror image; expected mirror and mirror_sign in its config"
            )
    sources = [config.joint_names.index(joint.mirror) for joint in config.joints]
    return np.array(sources), config.joint_array("mirror_sign")


def _half_cycle_on(config: RobotConfig) -> bool:
    """Whether the gait's mirror image is the gait half a cycle on; else it is the gait itself.

    Feet without mirror images count as the former.
    """
    offset = {foot.name: foot.gait_offset for foot in config.feet}
    apart = {round((offset[foot.mirror] - foot.gait_offset) % 1.0, 6) for foot in config.feet if foot.mirror}
    if not apart <= {0.5} and not apart <= {0.0}:
        raise ValueError(
            f"got gait offsets of robot {config.name!r} whose feet are {sorted(apart)} cycles apart from their mirror images; "
            "expected 0.5 for all of them, or 0"
        )
    return apart != {0.0}
