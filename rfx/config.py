"""What a robot is, as data: joints, gains, limits, rates and the observation terms its policies see."""

from __future__ import annotations

import copy
import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rfx.terms import nearest

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """One actuated joint: its place in the robot's motor order, its limits, its default pose and its PD gains.

    Raises TypeError for a value of another type, ValueError for one out of range.
    """

    name: str
    index: int
    min_rad: float = -3.14159
    max_rad: float = 3.14159
    max_velocity_rad_s: float = 30.0
    max_torque_nm: float = 30.0
    default_rad: float = 0.0
    kp: float = 35.0  # N m / rad
    kd: float = 0.5  # N m s / rad

    def __post_init__(self) -> None:
        _check_types(self, f"joint {self.name!r}")
        _require(self.index >= 0, f"joint {self.name!r}: got index {self.index}; expected 0 or more")
        _require(self.min_rad < self.max_rad,
                 f"joint {self.name!r}: got min_rad {self.min_rad} and max_rad {self.max_rad}; expected min < max")
        _require(self.min_rad <= self.default_rad <= self.max_rad,
                 f"joint {self.name!r}: got default_rad {self.default_rad}; expected it within [{self.min_rad}, {self.max_rad}]")
        for name in ("max_velocity_rad_s", "max_torque_nm"):
            _require(getattr(self, name) > 0.0, f"joint {self.name!r}: got {name} {getattr(self, name)}; expected more than 0")
        for name in ("kp", "kd"):
            _require(getattr(self, name) >= 0.0, f"joint {self.name!r}: got {name} {getattr(self, name)}; expected 0 or more")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JointConfig:
        """The joint that to_dict described; data is not changed. Raises ValueError for an unknown or missing entry."""
        return _from_dict(cls, data)


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """One camera: its name, picture size in pixels and frame rate in Hz.

    Raises TypeError for a value of another type, ValueError for one that is not positive.
    """

    name: str
    width: int = 640
    height: int = 480
    fps_hz: float = 30.0

    def __post_init__(self) -> None:
        _check_types(self, f"camera {self.name!r}")
        for name in ("width", "height", "fps_hz"):
            _require(getattr(self, name) > 0, f"camera {self.name!r}: got {name} {getattr(self, name)}; expected more than 0")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CameraConfig:
        """The camera that to_dict described; data is not changed. Raises ValueError for an unknown or missing entry."""
        return _from_dict(cls, data)


@dataclass(frozen=True, kw_only=True)
class RobotConfig:
    """Everything a policy must agree on with the robot it runs on. Joints stand in motor order.

    state_dim and action_dim are the real widths, max_state_dim and max_action_dim the padded ones. hardware holds what only a driver reads.
    Raises TypeError for a value of another type, ValueError for one out of range or joints that do not number action_dim.
    """

    name: str
    urdf_path: str | None = None
    state_dim: int = 12
    action_dim: int = 6
    max_state_dim: int = 64
    max_action_dim: int = 64
    cameras: tuple[CameraConfig, ...] = ()
    joints: tuple[JointConfig, ...] = ()
    control_freq_hz: float = 50.0
    action_scale_rad: float = 0.5
    gait_freq_hz: float = 2.0
    observation_terms: tuple[str, ...] = ()
    hardware: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("cameras", "joints", "observation_terms"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.hardware, Mapping):
            object.__setattr__(self, "hardware", copy.deepcopy(dict(self.hardware)))
        where = f"robot {self.name!r}"
        _check_types(self, where)
        for real, padded in (("state_dim", "max_state_dim"), ("action_dim", "max_action_dim")):
            _require(0 < getattr(self, real) <= getattr(self, padded),
                     f"{where}: got {real} {getattr(self, real)}; expected 1 to {padded}, {getattr(self, padded)}")
        for name in ("control_freq_hz", "action_scale_rad"):
            _require(getattr(self, name) > 0.0, f"{where}: got {name} {getattr(self, name)}; expected more than 0")
        _require(self.gait_freq_hz >= 0.0, f"{where}: got gait_freq_hz {self.gait_freq_hz}; expected 0 or more")
        if self.joints:
            _require(len(self.joints) == self.action_dim,
                     f"{where}: got {len(self.joints)} joints; expected action_dim, {self.action_dim}")
            _require(len(set(self.joint_names)) == len(self.joints), f"{where}: got joint names {self.joint_names}; expected each once")
            indices = [joint.index for joint in self.joints]
            _require(indices == list(range(len(indices))), f"{where}: got joints of index {indices}; expected 0, 1, 2, ... in this order")

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """Joint names in motor order."""
        return tuple(joint.name for joint in self.joints)

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
    def joint_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper joint limits. Two (num_joints,), rad."""
        return self.joint_array("min_rad"), self.joint_array("max_rad")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, in new containers."""
        data = dataclasses.asdict(self)
        for name in ("cameras", "joints", "observation_terms"):
            data[name] = list(data[name])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RobotConfig:
        """The config that to_dict described, or part of one with defaults for the rest; data is not changed.

        Raises ValueError for an unknown entry, naming the nearest, and for a missing one; otherwise as the constructor.
        """
        return _from_dict(cls, data, cameras=CameraConfig, joints=JointConfig)

    @classmethod
    def from_yaml(cls, path: str | Path) -> RobotConfig:
        """The config in a YAML file of the same entries as to_dict. Raises as from_dict, and ValueError for a file that is not YAML."""
        import yaml

        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is not a YAML file: {error}") from error
        try:
            return cls.from_dict(data)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from error

    def differences(self, other: RobotConfig) -> list[str]:
        """What a policy of this config would find different on a robot of the other, one line each; none when it fits.

        Compared is all that changes what an observation or an action means; name, urdf_path, cameras and hardware may differ.
        """
        ignored = ("name", "urdf_path", "cameras", "hardware", "joints")
        found = [f"{item.name}: {getattr(self, item.name)!r}, the robot has {getattr(other, item.name)!r}"
                 for item in dataclasses.fields(self) if item.name not in ignored and getattr(self, item.name) != getattr(other, item.name)]
        if self.joint_names != other.joint_names:
            return [*found, f"joint names: {list(self.joint_names)}, the robot has {list(other.joint_names)}"]
        for ours, theirs in zip(self.joints, other.joints):
            found += [f"joint {ours.name} {item.name}: {getattr(ours, item.name)}, the robot has {getattr(theirs, item.name)}"
                      for item in dataclasses.fields(ours) if getattr(ours, item.name) != getattr(theirs, item.name)]
        return found


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_types(config: Any, where: str) -> None:
    """Raise TypeError for a field of another type than annotated, ValueError for a number that is not finite or an empty name."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _matches(value, hint):
            expected = hint if isinstance(hint, types.GenericAlias | types.UnionType) else hint.__name__
            raise TypeError(f"{where}: got {name}={value!r}; expected {expected}")
        if hint is float:
            _require(abs(value) <= sys.float_info.max, f"{where}: got {name} {value}; expected a finite number")
            object.__setattr__(config, name, float(value))
    _require(bool(config.name), f"got an empty name for a {type(config).__name__}; expected at least one letter")


def _matches(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_matches(value, option) for option in typing.get_args(hint))
    if isinstance(hint, types.GenericAlias):
        inner = typing.get_args(hint)[0]
        return isinstance(value, typing.get_origin(hint)) and all(_matches(entry, inner) for entry in value)
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _from_dict(cls: type[T], data: Mapping[str, Any], **nested: Any) -> T:
    """A dataclass from a mapping of its fields; nested names the fields that are lists of other dataclasses."""
    if not isinstance(data, Mapping):
        raise ValueError(f"got {type(data).__name__} for a {cls.__name__}; expected a mapping of its fields")
    fields = {item.name: item for item in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise ValueError(f"{cls.__name__} has no field {key!r}: {nearest(str(key), fields)}")
    missing = [name for name, item in fields.items() if name not in data
               and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING]
    if missing:
        raise ValueError(f"{cls.__name__} needs a value for {', '.join(missing)}")
    values = dict(data)
    for name, inner in nested.items():
        if isinstance(values.get(name), (list, tuple)):
            values[name] = tuple(entry if isinstance(entry, inner) else inner.from_dict(entry) for entry in values[name])
    return cls(**values)


def joint_targets(config: RobotConfig, action: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Joint position targets that an action asks for: default + scale * action, clipped to the joint limits.

    action (N, num_joints) in [-1, 1]; returns (N, num_joints), rad. The simulator and the drivers call this one function.
    """
    out = np.multiply(action, np.float32(config.action_scale_rad), out=out)
    out += config.default_position
    return np.clip(out, *config.joint_range, out=out)


def _go2_joints() -> tuple[JointConfig, ...]:
    # Limits, torques and velocities: Unitree's go2_description. Gains: actuator stiffness and damping trained with.
    thigh_range = {"F": (-1.5708, 3.4907), "R": (-0.5236, 4.5379)}
    joints = []
    for leg in ("FR", "FL", "RR", "RL"):
        for part, (low, high), default, torque, velocity in (
            ("hip", (-1.0472, 1.0472), 0.0, 23.7, 30.1),
            ("thigh", thigh_range[leg[0]], 0.9, 23.7, 30.1),
            ("calf", (-2.7227, -0.83776), -1.8, 45.43, 15.7),
        ):
            joints.append(JointConfig(name=f"{leg}_{part}_joint", index=len(joints), min_rad=low, max_rad=high,
                                      max_velocity_rad_s=velocity, max_torque_nm=torque, default_rad=default))
    return tuple(joints)


GO2_CONFIG = RobotConfig(
    name="go2", gait_freq_hz=2.5, state_dim=48, action_dim=12, joints=_go2_joints(),
    observation_terms=("joint_position", "joint_velocity", "base_angular_velocity", "projected_gravity",
                       "velocity_command", "last_action", "gait_clock"),
)
