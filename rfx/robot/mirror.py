"""Mirrors a robot's observations and actions: left becomes right.

The mirror is the plane that divides the robot into a left and a right half. The reflection keeps x and z of a vector
and negates y. For a rotation (an axial vector: angular velocity) it negates x and z and keeps y. Joints change places
with their mirror images in the config. If the feet of the two sides are half a cycle apart, as in a walk or a trot, the
mirrored gait clock is half a cycle ahead. A waiting clock (rfx.robot.state.advance) does not change.
"""

from __future__ import annotations

import numpy as np

from rfx.robot.config import RobotConfig
from rfx.robot.mirror_images import half_cycle_on, image_of, joints
from rfx.robot.observe import term_widths, terms
from rfx.robot.state import Array


class Mirror:
    """Mirrors the actions and observations of a robot whose config names the mirror images of its joints and feet.

    Raises ValueError if the config does not name them, if the default pose or the action scales differ between left and
    right, if the mirrored gait is neither the same gait nor the gait half a cycle ahead, or if an observation term has
    no mirror image.
    """

    def __init__(self, config: RobotConfig):
        self._joint_from, self._joint_sign = joints(config)
        if not np.allclose(self.action(config.default_position), config.default_position):
            raise ValueError(
                f"got a default pose of robot {config.name!r} that is not its own mirror image: "
                f"{config.default_position.tolist()}"
            )
        if not np.allclose(config.action_scale[self._joint_from], config.action_scale):
            raise ValueError(
                f"got action scales of robot {config.name!r} that differ between left and right: "
                f"{config.action_scale.tolist()}"
            )
        half_cycle_on(config)  # rewards depend on the gait even if no term shows the clock
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
        """Mirror an action, (..., num_joints). Returns a new array. Joint angles in rad can be mirrored too."""
        return action[..., self._joint_from] * self._joint_sign

    def permuted(self, values: Array) -> Array:
        """Reorder values without a sign, such as an observation's variances, as `observation` does.

        (..., state_dim).
        """
        return values[..., self._from]

    def observation(self, state: Array) -> Array:
        """Mirror an observation, (..., state_dim), not normalized. Returns a new array.

        Mirroring twice gives the same observation again.
        """
        return state[..., self._from] * self._sign
