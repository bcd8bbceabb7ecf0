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
from rfx.robot.mirror_images import half_cycle_on, image_of, joints
from rfx.robot.observe import term_widths, terms
from rfx.robot.state import Array


class Mirror:
    """Mirrors the actions and observations of a robot whose config says the mirror images of its joints and feet.

    Raises ValueError for one that does not, a default pose or action scales that are not their own mirror images, a
    gait whose image is neither itself nor half a cycle on, or an observation term that has no mirror image.
    """

    def __init__(self, config: RobotConfig):
        self._joint_from, self._joint_sign = joints(config)
        if not np.allclose(self.action(config.default_position), config.default_position):
            raise ValueError(
                f"got a default pose of robot {config.name!r} that is not its own mirror image: {config.default_position.tolist()}"
            )
        if not np.allclose(config.action_scale[self._joint_from], config.action_scale):
            raise ValueError(
                f"got action scales of robot {config.name!r} that differ between left and right: {config.action_scale.tolist()}"
            )
        half_cycle_on(config)  # rewards know the gait, also where no term shows its clock
        sources, signs = [], []
        for name, term, width in zip(config.observation_terms, terms(config), term_widths(config)):
            if (image := image_of(term)) is None:
                raise ValueError(
                    f"the observation term {name!r} has no mirror image: say it with @mirrored "
                    "(rfx.robot.mirror_images), or set policy.symmetric=false"
                )
            source, sign = image(config)
            if not len(source) == len(sign) == width:
                raise ValueError(
                    f"the mirror image of the observation term {name!r} has {len(sign)} signs; expected "
                    f"{width}, one for each number"
                )
            sources.extend(len(sources) + source)
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
