"""The description of a robot: joints, feet, gains, limits, rates and the observation terms that its policies see."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rfx.settings.reader import read, read_yaml


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """One actuated joint: its limits, default pose, PD gains, how far an action of 1 moves it, and its mirror image.

    mirror names the joint's counterpart on the other side; a joint in the middle names itself. mirror_sign is -1 if the
    reflected motion turns the other way. Raises ValueError for a value out of range.
    """

    name: str
    min_rad: float = -3.14159
    max_rad: float = 3.14159
    max_velocity_rad_s: float = 30.0
    max_torque_nm: float = 30.0
    default_rad: float = 0.0
    kp: float = 35.0  # N m / rad
    kd: float = 0.5  # N m s / rad
    action_scale_rad: float = 0.5
    mirror: str | None = None
    mirror_sign: int = 1

    def __post_init__(self) -> None:
        where = f"joint {self.name!r}"
        _check_numbers(self, where)
        _require(
            self.min_rad < self.max_rad,
            f"{where}: got min_rad {self.min_rad} and max_rad {self.max_rad}; expected min < max",
        )
        _require(
            self.min_rad <= self.default_rad <= self.max_rad,
            f"{where}: got default_rad {self.default_rad}; expected it within [{self.min_rad}, {self.max_rad}]",
        )
        _require_positive(self, where, "max_velocity_rad_s", "max_torque_nm", "action_scale_rad")
        for name in ("kp", "kd"):
            _require(getattr(self, name) >= 0.0, f"{where}: got {name} {getattr(self, name)}; expected 0 or more")
        _require(self.mirror_sign in (-1, 1), f"{where}: got mirror_sign {self.mirror_sign}; expected 1 or -1")


@dataclass(frozen=True, kw_only=True)
class FootConfig:
    """One foot: where it is in the MJCF, and when the gait wants it in the air.

    site names a site that encloses all contacts of the foot; geoms names its collision geoms. One of the two is enough.
    gait_offset is the foot's place in the gait cycle, in cycles. mirror names the foot on the other side. Raises
    ValueError for a foot without site and geoms.
    """

    name: str
    site: str | None = None
    geoms: tuple[str, ...] = ()
    gait_offset: float = 0.0
    mirror: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "geoms", tuple(self.geoms))
        _check_numbers(self, f"foot {self.name!r}")
        _require(
            bool(self.site or self.geoms),
            f"foot {self.name!r}: got neither site nor geoms; expected the name of its site or its geoms",
        )


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """One camera: its name, picture size in pixels and frame rate in Hz.

    Raises ValueError for a size or rate that is not positive.
    """

    name: str
    width: int = 640
    height: int = 480
    fps_hz: float = 30.0

    def __post_init__(self) -> None:
        _check_numbers(self, f"camera {self.name!r}")
        _require_positive(self, f"camera {self.name!r}", "width", "height", "fps_hz")


@dataclass(frozen=True, kw_only=True)
class RobotConfig:
    """Everything that a policy and its robot must agree on. Joints are in motor order.

    state_dim and action_dim are the real widths; max_state_dim and max_action_dim are the padded widths. `load_robot`
    computes state_dim and action_dim from the observation terms and joints. mjcf is the path of the model file,
    absolute or inside rfx's assets. hardware holds settings that only a driver reads.
    Raises ValueError for a value out of range, a number of joints other than action_dim, or mirror images that do not
    match.
    """

    name: str
    mjcf: str | None = None
    state_dim: int = 12
    action_dim: int = 6
    max_state_dim: int = 64
    max_action_dim: int = 64
    cameras: tuple[CameraConfig, ...] = ()
    joints: tuple[JointConfig, ...] = ()
    feet: tuple[FootConfig, ...] = ()
    control_freq_hz: float = 50.0
    gait_freq_hz: float = 2.0
    swing_share: float = 0.4  # share of the gait cycle during which a foot is in the air
    observation_terms: tuple[str, ...] = ()
    hardware: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("cameras", "joints", "feet", "observation_terms"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "hardware", copy.deepcopy(dict(self.hardware)))
        where = f"robot {self.name!r}"
        _check_numbers(self, where)
        for real, padded in (("state_dim", "max_state_dim"), ("action_dim", "max_action_dim")):
            _require(
                0 < getattr(self, real) <= getattr(self, padded),
                f"{where}: got {real} {getattr(self, real)}; expected 1 to {padded}, {getattr(self, padded)}",
            )
        _require_positive(self, where, "control_freq_hz")
        _require(self.gait_freq_hz >= 0.0, f"{where}: got gait_freq_hz {self.gait_freq_hz}; expected 0 or more")
        _require(
            0.0 <= self.swing_share < 1.0,
            f"{where}: got swing_share {self.swing_share}; expected a share of the cycle, 0 to below 1",
        )
        if self.joints:
            _require(
                len(self.joints) == self.action_dim,
                f"{where}: got {len(self.joints)} joints; expected action_dim, {self.action_dim}",
            )
        for kind, parts in (("joint", self.joints), ("foot", self.feet)):
            _check_parts(where, kind, parts)

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """Joint names in motor order."""
        return tuple(joint.name for joint in self.joints)

    @cached_property
    def foot_names(self) -> tuple[str, ...]:
        """Names of the feet, in the order of every array over feet."""
        return tuple(foot.name for foot in self.feet)

    def joint_array(self, attribute: str) -> np.ndarray:
        """One attribute of every joint, in motor order. (num_joints,), float32, read-only."""
        array = np.array([getattr(joint, attribute) for joint in self.joints], np.float32)
        array.setflags(write=False)
        return array

    @cached_property
    def default_position(self) -> np.ndarray:
        """Default joint positions. (num_joints,), rad."""
        return self.joint_array("default_rad")

    @cached_property
    def action_scale(self) -> np.ndarray:
        """How far an action of 1 moves each joint's target from its default. (num_joints,), rad."""
        return self.joint_array("action_scale_rad")

    @cached_property
    def joint_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper joint limits. Two (num_joints,), rad."""
        return self.joint_array("min_rad"), self.joint_array("max_rad")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, in new containers."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RobotConfig:
        """Make the config that to_dict described. Fields that data leaves out get defaults; data is not changed.

        Raises ValueError for an unknown entry (the error names the nearest), a missing entry, and an entry of another
        type or out of range.
        """
        return read(cls, data)

    @classmethod
    def from_yaml(cls, path: str | Path) -> RobotConfig:
        """Read the config from a YAML file with the same entries as to_dict.

        Raises as from_dict, and ValueError for a file that is not YAML.
        """
        data = read_yaml(path)
        try:
            return cls.from_dict(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def differences(self, other: RobotConfig) -> list[str]:
        """The differences that matter to a policy of this config on a robot of the other config, one line each.

        The list is empty if the policy fits. Fields that change the meaning of an observation or an action are
        compared; name, mjcf, feet, cameras and hardware may differ.
        """
        ignored = ("name", "mjcf", "cameras", "feet", "hardware", "joints")
        found = [
            f"{item.name}: {getattr(self, item.name)!r}, the robot has {getattr(other, item.name)!r}"
            for item in dataclasses.fields(self)
            if item.name not in ignored and getattr(self, item.name) != getattr(other, item.name)
        ]
        if self.joint_names != other.joint_names:
            return [*found, f"joint names: {list(self.joint_names)}, the robot has {list(other.joint_names)}"]
        for ours, theirs in zip(self.joints, other.joints):
            found += [
                f"joint {ours.name} {item.name}: {getattr(ours, item.name)}, the robot has {getattr(theirs, item.name)}"
                for item in dataclasses.fields(ours)
                if getattr(ours, item.name) != getattr(theirs, item.name)
            ]
        return found


def joint_targets(config: RobotConfig, action: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Joint position targets that an action asks for: default + scale * action, clipped to the joint limits.

    action (N, num_joints) in [-1, 1]; returns (N, num_joints), rad. The simulator and the drivers call this one
    function.
    """
    out = np.multiply(action, config.action_scale, out=out)
    out += config.default_position
    return np.clip(out, *config.joint_range, out=out)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_positive(config: Any, where: str, *names: str) -> None:
    for name in names:
        _require(getattr(config, name) > 0, f"{where}: got {name} {getattr(config, name)}; expected more than 0")


def _check_numbers(config: Any, where: str) -> None:
    """Convert float fields to float and check all fields.

    Raises ValueError for a number that is not finite, an empty name, or text that is not printable. A config may come
    from a stranger's policy, and a terminal obeys characters that are not printable.
    """
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        for text in value if isinstance(value, tuple) else (value,):
            _require(
                not isinstance(text, str) or text.isprintable(),
                f"{where}: got {item.name} {text!r}; expected printable text",
            )
        if item.type == "float":
            try:
                value = float(getattr(config, item.name))
            except (OverflowError, TypeError, ValueError):
                value = math.nan
            _require(
                math.isfinite(value),
                f"{where}: got {item.name} {getattr(config, item.name)!r}; expected a finite number",
            )
            object.__setattr__(config, item.name, value)
    _require(bool(config.name), f"got an empty name for a {type(config).__name__}; expected at least one letter")


def _check_parts(where: str, kind: str, parts: Sequence[Any]) -> None:
    """Raise ValueError unless names are unique, and mirror images name each other and have the same sign."""
    by_name = {part.name: part for part in parts}
    _require(
        len(by_name) == len(parts), f"{where}: got {kind} names {[part.name for part in parts]}; expected each once"
    )
    if not any(part.mirror for part in parts):
        return
    for part in parts:
        _require(
            part.mirror in by_name,
            f"{where}: got mirror {part.mirror!r} of {kind} {part.name!r}; expected one of {', '.join(by_name)}",
        )
        image = by_name[part.mirror]
        _require(
            image.mirror == part.name,
            f"{where}: {kind} {part.name!r} has the mirror image {image.name!r}, whose own is "
            f"{image.mirror!r}; expected {part.name!r}",
        )
        if isinstance(part, JointConfig):
            _require(
                image.mirror_sign == part.mirror_sign,
                f"{where}: joints {part.name!r} and {image.name!r} have mirror_sign "
                f"{part.mirror_sign} and {image.mirror_sign}; expected the same for both",
            )


def _plain(value: Any) -> Any:
    """Convert all tuples in value to lists."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
