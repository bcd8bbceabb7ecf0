"""Mirror images of observation terms. The decorator `mirrored` sets them; rfx/robot/mirror.py reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rfx.robot.config import RobotConfig
from rfx.robot.state import Array

# For each number of the mirrored term: the index of the number it comes from, and its sign. Two arrays (width,).
Image = tuple[Array, Array]

_images: dict[Callable, Callable[[RobotConfig], Image]] = {}


def mirrored(image: Callable[[RobotConfig], Image] | Sequence[float]) -> Callable[[Callable], Callable]:
    """A decorator that sets the mirror image of an observation term.

    image is joints, feet, or a sign for each number: (1, -1, 1) for a vector in the base frame, (-1, 1, -1) for a
    rotation. For any other term, image is a function of the RobotConfig. Raises ValueError for signs other than 1 and
    -1.
    """
    if not callable(image):
        signs = np.array(image, np.float32)
        if signs.ndim != 1 or not np.isin(signs, (-1.0, 1.0)).all():
            raise ValueError(
                f"got the mirror image {image!r}; expected joints, feet, or a sign for each number, such as (1, -1, 1)"
            )

    def say(term: Callable) -> Callable:
        _images[term] = image if callable(image) else lambda config: (np.arange(len(signs)), signs)
        return term

    return say


def image_of(term: Callable) -> Callable[[RobotConfig], Image] | None:
    """The mirror image that `mirrored` set for a term; None if the term has none."""
    return _images.get(term)


def joints(config: RobotConfig) -> Image:
    """The mirror image of a term with one number per joint, in motor order.

    Joints change places, and a number changes sign if its joint has mirror_sign -1. Raises ValueError for a joint
    without a mirror image.
    """
    for joint in config.joints:
        if joint.mirror is None:
            raise ValueError(
                f"joint {joint.name!r} of robot {config.name!r} has no mirror image; expected mirror and "
                "mirror_sign in its config"
            )
    sources = [config.joint_names.index(joint.mirror) for joint in config.joints]
    return np.array(sources), config.joint_array("mirror_sign")


def feet(config: RobotConfig) -> Image:
    """The mirror image of a term with one number per foot, in the config's order: feet change places.

    Raises ValueError for a foot without a mirror image.
    """
    for foot in config.feet:
        if foot.mirror is None:
            raise ValueError(
                f"foot {foot.name!r} of robot {config.name!r} has no mirror image; expected mirror in its config"
            )
    sources = [config.foot_names.index(foot.mirror) for foot in config.feet]
    return np.array(sources), np.ones(len(config.feet), np.float32)


def gait_clock(config: RobotConfig) -> Image:
    """The mirror image of the gait clock: half a cycle ahead, or unchanged if the gait is its own mirror image.

    Raises ValueError for any other gait.
    """
    return np.arange(3), np.array((-1.0, -1.0, 1.0) if half_cycle_on(config) else (1.0, 1.0, 1.0), np.float32)


def half_cycle_on(config: RobotConfig) -> bool:
    """Whether the gait's mirror image is the gait half a cycle ahead. If False, the mirror image is the same gait.

    True if no foot has a mirror image. Raises ValueError for a gait that is neither.
    """
    offset = {foot.name: foot.gait_offset for foot in config.feet}
    apart = {round((offset[foot.mirror] - foot.gait_offset) % 1.0, 6) for foot in config.feet if foot.mirror}
    if not apart <= {0.5} and not apart <= {0.0}:
        raise ValueError(
            f"got gait offsets of robot {config.name!r} whose feet are {sorted(apart)} cycles apart from "
            "their mirror images; expected 0.5 for all of them, or 0"
        )
    return apart != {0.0}
