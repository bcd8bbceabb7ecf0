"""A robot's mirror image: left is right. What it observes and does, as its reflection in the plane that halves it lengthwise would.

A reflection in y keeps x and z of a vector and turns its y around; of a rotation (an axial vector: angular velocity) it turns x and z around
and keeps y. Joints change places with those that the config names as their mirror images. Where the feet of the two sides are half a cycle
apart, as in a walk or a trot, the clock is half a cycle on, but where the command is zero it waits (rfx.state.advance), and is its own image.
"""

from __future__ import annotations

import numpy as np

from rfx.config import RobotConfig
from rfx.state import Array

JOINT_TERMS = ("joint_position", "joint_velocity", "last_action")
VECTOR_SIGNS = {"base_angular_velocity": (-1.0, 1.0, -1.0), "projected_gravity": (1.0, -1.0, 1.0), "velocity_command": (1.0, -1.0, -1.0)}
HALF_ROOT = np.float32(np.sqrt(0.5))


class Mirror:
    """Mirrors the actions and observations of a robot whose config says the mirror images of its joints and feet.

    Raises ValueError for one that does not, a default pose, limits or gains that are not their own mirror images, a gait whose image is
    neither itself nor half a cycle on, or an observation term that has no mirror image.
    """

    def __init__(self, config: RobotConfig):
        self._joint_from, self._joint_sign = _joints(config)
        if not np.allclose(self.action(config.default_position), config.default_position):
            raise ValueError(f"got a default pose of robot {config.name!r} that is not its own mirror image: {config.default_position.tolist()}")
        if not np.allclose(config.action_scale[self._joint_from], config.action_scale):
            raise ValueError(f"got action scales of robot {config.name!r} that differ between left and right: {config.action_scale.tolist()}")
        half_cycle_on = _half_cycle_on(config)
        self._from, self._sign = [], []  # of every entry of an observation
        self._half_sines, self._command = [], []  # where half sines, and the velocity command, stand
        for name in config.observation_terms:
            begin = len(self._from)
            if name in JOINT_TERMS:
                sources, signs = self._joint_from, self._joint_sign
            elif name in VECTOR_SIGNS:
                sources, signs = range(3), VECTOR_SIGNS[name]
                if name == "velocity_command":
                    self._command = [begin, begin + 1, begin + 2]
            elif name == "gait_clock":
                sources, signs = range(3), (-1.0, -1.0, 1.0) if half_cycle_on else (1.0, 1.0, 1.0)
                if half_cycle_on:
                    self._half_sines.append(begin + 2)
            else:
                raise ValueError(f"the observation term {name!r} has no mirror image; known are "
                                 f"{', '.join([*JOINT_TERMS, *VECTOR_SIGNS, 'gait_clock'])}: set ppo.mirror_coefficient=0, or add it")
            self._from.extend(begin + source for source in sources)
            self._sign.extend(signs)
        self._from, self._sign = np.array(self._from), np.array(self._sign, np.float32)

    def action(self, action: Array) -> Array:
        """What the mirror image of a robot does where the robot does action. (..., num_joints), a new array; also of joint angles, rad."""
        return action[..., self._joint_from] * self._joint_sign

    @property
    def action_matrix(self) -> Array:
        """`action` as a matrix to multiply rows with from the right. (num_joints, num_joints), float32."""
        return self.action(np.eye(len(self._joint_sign), dtype=np.float32))

    def observation(self, state: Array) -> Array:
        """What the mirror image of a robot observes where the robot observes state. (..., state_dim), a new array, not normalized.

        Applied twice it gives the state again.
        """
        mirrored = state[..., self._from] * self._sign
        for i in self._half_sines:
            mirrored[..., i] = _mirrored_half_sine(state[..., i - 2], state[..., i])
            if self._command:
                standing = ~state[..., self._command].any(axis=-1, keepdims=True)
                mirrored[..., i - 2:i + 1] = np.where(standing, state[..., i - 2:i + 1], mirrored[..., i - 2:i + 1])
        return mirrored


def _joints(config: RobotConfig) -> tuple[Array, Array]:
    """Of each joint's mirror image: the joint that it is taken from, and its sign. Two (num_joints,)."""
    for joint in config.joints:
        if joint.mirror is None:
            raise ValueError(f"joint {joint.name!r} of robot {config.name!r} has no mirror image; expected mirror and mirror_sign in its config")
    sources = [config.joint_names.index(joint.mirror) for joint in config.joints]
    return np.array(sources), config.joint_array("mirror_sign")


def _half_cycle_on(config: RobotConfig) -> bool:
    """Whether the gait's mirror image is the gait half a cycle on; else it is the gait itself. Feet without mirror images count as the former."""
    offset = {foot.name: foot.gait_offset for foot in config.feet}
    apart = {round((offset[foot.mirror] - foot.gait_offset) % 1.0, 6) for foot in config.feet if foot.mirror}
    if not apart <= {0.5} and not apart <= {0.0}:
        raise ValueError(f"got gait offsets of robot {config.name!r} whose feet are {sorted(apart)} cycles apart from their mirror images; "
                         "expected 0.5 for all of them, or 0")
    return apart != {0.0}


def _mirrored_half_sine(sine: Array, half_sine: Array) -> Array:
    """sin(p'/2) of the clock half a cycle on, p' = p + pi or p - pi, from sin p and sin(p/2).

    Its size is |cos(p/2)|. Its sign is that of sin(p/2), which makes the mirror an involution: p' is p + pi in the first half of either of
    the clock's two cycles, and p - pi in the second. The other choice would be a whole cycle away: the same gait, as nothing but this
    number tells the two cycles apart. |cos(p/2)| is sqrt(1 - sin^2(p/2)), or for accuracy near 0 |sin p| / |2 sin(p/2)|.
    """
    size = np.abs(half_sine)
    root = np.sqrt(np.maximum(1.0 - np.square(size), 0.0))
    return np.copysign(np.where(size < HALF_ROOT, root, np.abs(sine) / np.maximum(2.0 * size, HALF_ROOT)), half_sine)
