"""Observation dictionaries: make, pad, unpad and stack them. Results keep the array library of the input.

Every dictionary has "state" (N, max_state_dim), which is zero beyond state_dim. "images" (N, num_cameras, H, W, 3) and
"language" (N, length) are optional.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rfx.observation import arrays
from rfx.observation.arrays import Array


@dataclass(frozen=True)
class ObservationSpec:
    """The structure of a robot's observations. image_shape is (H, W, 3); language_dim is the number of tokens.

    Raises ValueError for a width that is not a positive integer, or a state wider than its padding.
    """

    state_dim: int
    max_state_dim: int = 64
    image_shape: tuple[int, int, int] | None = None
    num_cameras: int = 0
    language_dim: int | None = None

    def __post_init__(self) -> None:
        _check_count("state_dim", self.state_dim)
        _check_count("max_state_dim", self.max_state_dim)
        if self.state_dim > self.max_state_dim:
            raise ValueError(f"got state_dim {self.state_dim}; expected at most max_state_dim, {self.max_state_dim}")
        _check_count("num_cameras", self.num_cameras, least=0)
        if self.language_dim is not None:
            _check_count("language_dim", self.language_dim)
        if self.image_shape is not None:
            if len(self.image_shape) != 3 or self.image_shape[2] != 3:
                raise ValueError(f"got image_shape {self.image_shape}; expected (height, width, 3)")
            object.__setattr__(self, "image_shape", tuple(self.image_shape))
            for size in self.image_shape:
                _check_count("image_shape", size)

    @property
    def has_images(self) -> bool:
        """Whether observations hold images."""
        return self.num_cameras > 0

    @property
    def has_language(self) -> bool:
        """Whether observations hold language tokens."""
        return self.language_dim is not None


def make_observation(
    state: Array,
    state_dim: int,
    max_state_dim: int,
    images: Array | None = None,
    language: Array | None = None,
    device: Any = None,
) -> dict[str, Array]:
    """Make an observation dictionary. Its state is a zero-padded copy.

    state (N, state_dim), floating point -> "state" (N, max_state_dim), float32. images (N, num_cameras, H, W, 3) and
    language (N, length), integers, pass unchanged. If device is given, all arrays are moved to it; a CUDA device that
    this machine lacks only gives a warning.
    Raises ValueError for another shape, TypeError for another element type or arrays of different libraries.
    """
    _check_count("state_dim", state_dim)
    if state_dim > max_state_dim:
        raise ValueError(f"got state_dim {state_dim}; expected at most max_state_dim, {max_state_dim}")
    library = arrays.library(state)
    if state.ndim != 2 or state.shape[1] != state_dim:
        raise ValueError(
            f"got a state of shape {tuple(state.shape)}; expected (batch, state_dim), here (batch, {state_dim})"
        )
    if arrays.kind(state) != "float":
        raise TypeError(f"got a state of {state.dtype}; expected floating-point numbers")
    obs = {"state": arrays.pad_last(arrays.as_float32(state), max_state_dim)}
    for name, array, ndim, shape in (
        ("images", images, 5, "(batch, cameras, height, width, 3)"),
        ("language", language, 2, "(batch, length)"),
    ):
        if array is None:
            continue
        if arrays.library(array) != library:
            raise TypeError(
                f"got {name} of {arrays.library(array)} with a state of {library}; expected one array library"
            )
        if array.ndim != ndim or array.shape[0] != state.shape[0] or (name == "images" and array.shape[-1] != 3):
            raise ValueError(
                f"got {name} of shape {tuple(array.shape)} with a batch of {state.shape[0]}; expected {shape}"
            )
        if arrays.kind(array) not in (("integer", "float") if name == "images" else ("integer",)):
            raise TypeError(f"got {name} of {array.dtype}; expected {'numbers' if name == 'images' else 'integers'}")
        obs[name] = array
    return {name: arrays.to_device(array, device) for name, array in obs.items()}


def unpad_action(action: Array, action_dim: int) -> Array:
    """The first action_dim columns of a padded action: (N, max_action_dim) -> (N, action_dim).

    With a horizon T: (N, T, max_action_dim) -> (N, T, action_dim). Raises ValueError for a narrower action, or one with
    another number of dimensions.
    """
    _check_count("action_dim", action_dim)
    arrays.library(action)
    if action.ndim not in (2, 3) or action.shape[-1] < action_dim:
        raise ValueError(
            f"got an action of shape {tuple(action.shape)}; expected (batch, width) or (batch, horizon, width) "
            f"with a width of action_dim, {action_dim}, or more"
        )
    return action[..., :action_dim]


class ObservationBuffer:
    """The last capacity observations, for frame stacking.

    Raises ValueError for a capacity that is not a positive integer.
    """

    def __init__(self, capacity: int):
        _check_count("capacity", capacity)
        self.capacity = capacity
        self._frames: deque[dict[str, Array]] = deque(maxlen=capacity)

    def push(self, obs: Mapping[str, Array]) -> None:
        """Append a copy of an observation dictionary. A full buffer drops its oldest frame.

        Raises ValueError if entries or shapes differ from those of the frames before.
        """
        if not isinstance(obs, Mapping) or "state" not in obs:
            raise ValueError(
                f"got {list(obs) if isinstance(obs, Mapping) else type(obs).__name__}; expected a "
                "dictionary with 'state'"
            )
        if self._frames:
            shapes = {name: tuple(array.shape) for name, array in obs.items()}
            expected = {name: tuple(array.shape) for name, array in self._frames[-1].items()}
            if shapes != expected:
                raise ValueError(
                    f"got an observation of {shapes}; expected {expected}, as the frames before: clear the buffer first"
                )
        self._frames.append({name: arrays.clone(array) for name, array in obs.items()})

    def get_stacked(self) -> dict[str, Array]:
        """The frames stacked along a new second axis, oldest first: "state" (N, frames, max_state_dim).

        Raises IndexError when empty.
        """
        if not self._frames:
            raise IndexError("the observation buffer is empty; push an observation before get_stacked")
        return {name: arrays.stack([frame[name] for frame in self._frames], axis=1) for name in self._frames[-1]}

    def clear(self) -> None:
        """Forget every frame."""
        self._frames.clear()

    def __len__(self) -> int:
        return len(self._frames)


def _check_count(name: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"got {name} {value!r}; expected an integer of {least} or more")
