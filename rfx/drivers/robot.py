"""The interface of every robot, simulated or real, and the registry that finds a driver by its name."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from rfx.observation.arrays import to_numpy
from rfx.robot.config import RobotConfig
from rfx.robot.observe import observe
from rfx.robot.state import Array, RobotState
from rfx.settings.terms import nearest

Factory = TypeVar("Factory", bound=Callable[..., "Robot"])


MAX_VELOCITY_COMMAND = (1.0, 0.4, 0.8)  # vx, vy m/s, yaw rate rad/s: the walking tasks' range


@runtime_checkable
class Robot(Protocol):
    """A robot that a policy can drive.

    state_dim and action_dim are the real widths; max_state_dim and max_action_dim are the padded widths.
    Call reset first, then observe and act in turn at the control rate, then stop. Used as a context manager, the robot
    always stops on exit and releases what it holds. A robot that needs time to come to rest may have two more methods.
    `abort()`, for emergencies, takes the stiffness out of the motors at once. `brake()` commands zero velocity and
    returns for how many seconds the policy should go on, before `stop`.
    """

    @property
    def num_envs(self) -> int: ...
    @property
    def state_dim(self) -> int: ...
    @property
    def action_dim(self) -> int: ...
    @property
    def max_state_dim(self) -> int: ...
    @property
    def max_action_dim(self) -> int: ...

    def observe(self) -> dict[str, Any]:
        """Return what the robot senses now.

        The dictionary holds "state" (num_envs, max_state_dim), which is zero beyond state_dim. A robot may add more
        entries.
        """

    def act(self, action: Any) -> None:
        """Apply an action for one control step.

        action is (num_envs, action_dim), or padded (num_envs, max_action_dim); it is clipped to [-1, 1].
        Raises ValueError for another shape or a value that is not finite, RuntimeError while the robot is stopped.
        """

    def reset(self) -> None:
        """Stand in the default pose, with no last action and the gait clock at zero.

        The velocity command stays as it is.
        """

    def command(self, vx: float, vy: float, yaw_rate: float) -> None:
        """Set the velocity to walk at from now on, base frame, m/s and rad/s.

        Raises ValueError for a value that is not finite.
        """

    def stop(self) -> None:
        """Come to rest safely and stay at rest until reset.

        May be called at any time and repeatedly, and from another thread during reset.

        A robot that needs time to stop, for example to lie down, may also have a method `abort`, which stops at once.
        A robot that must not be stopped in mid-stride may have a method `brake`. It commands zero velocity from then
        on, whatever is asked, and returns how many seconds the policy should go on before stop.
        """

    def __enter__(self) -> Robot: ...

    def __exit__(self, *exception: Any) -> None: ...


class SingleRobot:
    """Base class of one simulated or real robot: it observes one RobotState through the terms in its config."""

    num_envs = 1

    def __init__(self, config: RobotConfig, max_velocity_command: tuple[float, float, float] = MAX_VELOCITY_COMMAND):
        self.config, self.max_velocity_command = config, max_velocity_command
        self.state = RobotState.zeros(config, self.num_envs)
        self.state_dim, self.action_dim = config.state_dim, config.action_dim
        self.max_state_dim, self.max_action_dim = config.max_state_dim, config.max_action_dim

    def command(self, vx: float, vy: float, yaw_rate: float) -> None:
        """Set the velocity to walk at from now on, base frame, m/s and rad/s, limited to max_velocity_command.

        Raises ValueError for a value that is not finite.
        """
        if not all(map(math.isfinite, (vx, vy, yaw_rate))):
            raise ValueError(f"got the command vx {vx}, vy {vy}, yaw_rate {yaw_rate}; expected finite numbers")
        self._set_command(
            [max(-limit, min(limit, value)) for value, limit in zip((vx, vy, yaw_rate), self.max_velocity_command)]
        )

    def _set_command(self, velocity: list[float]) -> None:
        self.state.velocity_command[0] = velocity  # all at once: another thread may be reading

    def _clear(self) -> None:
        """Forget the last action and start the gait clock at zero."""
        self.state.last_action[...] = 0.0
        self.state.gait_phase[...] = 0.0

    def _observation(self) -> dict[str, Array]:
        return {"state": observe(self.state)}

    def _action(self, action: Any) -> Array:
        return checked_action(action, self.num_envs, self.action_dim, self.max_action_dim)


def checked_action(action: Any, num_envs: int, action_dim: int, max_action_dim: int) -> Array:
    """Return the action without padding, clipped to [-1, 1]. (num_envs, action_dim), float32, a new array.

    Raises ValueError for a shape other than (num_envs, action_dim) or (num_envs, max_action_dim), and for values that
    are not finite.
    """
    values = np.asarray(action if isinstance(action, (list, tuple)) else to_numpy(action), np.float32)
    if values.shape not in ((num_envs, action_dim), (num_envs, max_action_dim)):
        raise ValueError(
            f"got an action of shape {values.shape}; expected ({num_envs}, {action_dim}), or padded ({num_envs}, {max_action_dim})"
        )
    values = values[:, :action_dim]
    if not np.isfinite(values).all():
        raise ValueError(
            f"got an action with values that are not finite: {values.tolist()}; the policy's output or weights are broken"
        )
    return np.clip(values, -1.0, 1.0)


_DRIVERS: dict[str, Callable[..., Robot] | str] = {
    "mock": "rfx.drivers.mock:MockRobot",
    "sim": "rfx.drivers.sim:SimRobot",
    "go2": "rfx.drivers.go2.driver.driver:Go2",
}


def register_driver(name: str, factory: Factory | None = None) -> Any:
    """Register a robot by name: `register_driver("spot", Spot)`, or as a decorator `@register_driver("spot")`.

    factory takes keyword options and returns a Robot. An installed package registers its robots with entry points of
    the group `rfx.drivers`. Raises ValueError for a name that is taken.
    """
    if factory is None:
        return lambda decorated: register_driver(name, decorated)
    if _DRIVERS.get(name, factory) is not factory:
        raise ValueError(f"a driver called {name!r} is registered already: choose another name")
    _DRIVERS[name] = factory
    return factory


def make_robot(name: str, **options: Any) -> Robot:
    """Make the robot called name with options. Raises ValueError for an unknown name, suggesting the nearest one."""
    installed = {entry.name: entry for entry in entry_points(group="rfx.drivers")}
    if name not in _DRIVERS and name not in installed:
        raise ValueError(f"unknown robot {name!r}: {nearest(name, {*_DRIVERS, *installed})}")
    factory = _DRIVERS[name] if name in _DRIVERS else installed[name].load()
    if isinstance(factory, str):
        module, _, attribute = factory.partition(":")
        factory = getattr(importlib.import_module(module), attribute)
    return factory(**options)
