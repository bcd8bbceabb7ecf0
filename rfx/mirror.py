"""The Go2's mirror image: left is right. What it observes and does, as its reflection in the plane that halves it lengthwise would.

A reflection in y keeps x and z of a vector and turns its y around; of a rotation (an axial vector: angular velocity, hip abduction about x)
it turns x and z around and keeps y. Legs change places: FR with FL, RR with RL. The trot's clock is half a cycle on, but where the command is
zero it waits (rfx.state.advance), and is its own image.
"""

from __future__ import annotations

import numpy as np

from rfx.config import RobotConfig
from rfx.state import Array

LEGS = {"FR": "FL", "FL": "FR", "RR": "RL", "RL": "RR"}
JOINT_SIGNS = {"hip": -1.0, "thigh": 1.0, "calf": 1.0}  # abduction turns about x, the others about y
JOINT_TERMS = ("joint_position", "joint_velocity", "last_action")
VECTOR_SIGNS = {"base_angular_velocity": (-1.0, 1.0, -1.0), "projected_gravity": (1.0, -1.0, 1.0), "velocity_command": (1.0, -1.0, -1.0)}
HALF_ROOT = np.float32(np.sqrt(0.5))


class Mirror:
    """Mirrors the actions and observations of a robot whose joints are called {leg}_{part}_joint, as the Go2's are.

    Raises ValueError for other joints, a default pose that is not its own mirror image, or an observation term that has none.
    """

    def __init__(self, config: RobotConfig):
        self._joint_from, self._joint_sign = _joints(config)
        if not np.allclose(self.action(config.default_position), config.default_position):
            raise ValueError(f"got a default pose of robot {config.name!r} that is not its own mirror image: {config.default_position.tolist()}")
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
                sources, signs = range(3), (-1.0, -1.0, 1.0)
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
    sources, signs = [], []
    for name in config.joint_names:
        leg, _, rest = name.partition("_")
        part, other = rest.removesuffix("_joint"), f"{LEGS.get(leg)}_{rest}"
        if part not in JOINT_SIGNS or other not in config.joint_names:
            raise ValueError(f"joint {name!r} of robot {config.name!r} has no mirror image; expected joints called LEG_PART_joint, with "
                             f"LEG of {', '.join(LEGS)} and PART of {', '.join(JOINT_SIGNS)}")
        sources.append(config.joint_names.index(other))
        signs.append(JOINT_SIGNS[part])
    return np.array(sources), np.array(signs, np.float32)


def _mirrored_half_sine(sine: Array, half_sine: Array) -> Array:
    """sin(p'/2) of the clock half a cycle on, p' = p + pi or p - pi, from sin p and sin(p/2).

    Its size is |cos(p/2)|. Its sign is that of sin(p/2), which makes the mirror an involution: p' is p + pi in the first half of either of
    the clock's two cycles, and p - pi in the second. The other choice would be a whole cycle away: the same gait, as nothing but this
    number tells the two cycles apart. |cos(p/2)| is sqrt(1 - sin^2(p/2)), or for accuracy near 0 |sin p| / |2 sin(p/2)|.
    """
    size = np.abs(half_sine)
    root = np.sqrt(np.maximum(1.0 - np.square(size), 0.0))
    return np.copysign(np.where(size < HALF_ROOT, root, np.abs(sine) / np.maximum(2.0 * size, HALF_ROOT)), half_sine)
