"""A policy that does to the left what it does to the right, exactly: an ordinary network whose weights are their own mirror image.

Of every hidden layer the second half of the units is the mirror image of the first: what unit i computes from an observation, unit
i + H/2 computes from the mirrored one. The actor is then equivariant, the critic invariant, with the layers and the cost of any other
network. Weights that begin so stay so, to the bit, if every gradient is made its own mirror image before the optimizer sees it: sums of two
numbers do not depend on their order. Group-equivariant layers after Cohen and Welling 2016, "Group Equivariant Convolutional Networks".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rfx.state import Array
from tinygrad import Tensor


class Symmetry:
    """How the parameters of an actor-critic mirror: by name, the signed permutations of their rows and columns.

    observation (D, D) and action (A, A) are signed permutations that mirror an observation and an action by multiplication; hidden are the
    widths of the layers between, history is how many observations are read. What it has no name for, as a privileged critic, stays as it is.
    Raises ValueError for a hidden layer of an odd number of units.
    """

    def __init__(self, observation: Array, action: Array, hidden: Sequence[int], history: int = 1):
        observation, action = observation.T, action.T  # columns that are multiplied, as weights are
        if any(width % 2 for width in hidden):
            raise ValueError(f"got hidden layers of {list(hidden)} units; expected even numbers: each unit of a symmetric policy has a mirror image")
        swaps = [np.roll(np.eye(width, dtype=np.float32), width // 2, axis=0) for width in hidden]
        self._parts: dict[str, tuple[Array, Array | None]] = {}  # rows, columns; None for a vector
        before = np.kron(np.eye(history, dtype=np.float32), observation)
        for index, swap in enumerate(swaps):
            self._parts |= {f"backbone.{index}.weight": (swap, before), f"backbone.{index}.bias": (swap, None)}
            before = swap
        self._parts |= {"actor_head.weight": (action, before), "actor_head.bias": (action, None),
                        "critic_head.weight": (np.eye(1, dtype=np.float32), before), "log_std": (np.abs(action), None)}
        self._places: dict[str, tuple[Array, Array]] = {}
        self._tensors: dict[str, tuple[Tensor | None, ...]] = {}

    def initial(self, name: str, values: Array) -> Array:
        """Weights of the same scale that are their own mirror image: one half of the rows, or of the columns, is the image of the other."""
        if name not in self._parts:
            return values
        image = self._image(name, values)
        axis = 0 if name.startswith("backbone") else 1
        if values.ndim == 1 and not name.startswith("backbone"):
            return 0.5 * (values + image)
        half = values.shape[axis] // 2
        return np.concatenate((values.take(range(half), axis), image.take(range(half, 2 * half), axis)), axis)

    def symmetrize(self, gradients: Mapping[str, Array]) -> None:
        """Make every gradient the mean of itself and its mirror image, in place. Arrays by the parameters' names."""
        for name, gradient in gradients.items():
            if name in self._parts:
                if name not in self._places:
                    self._places[name] = self._image_places(name, gradient.shape)
                places, signs = self._places[name]
                image = gradient.ravel()[places]
                image *= signs
                gradient += image
                gradient *= np.float32(0.5)

    def gradient(self, name: str, gradient: Tensor) -> Tensor:
        """One of them in tinygrad: a new tensor."""
        if name not in self._parts:
            return gradient
        if name not in self._tensors:
            self._tensors[name] = tuple(None if part is None else Tensor(part).realize() for part in self._parts[name])
        rows, columns = self._tensors[name]
        gradient = gradient.contiguous()
        return ((gradient + (rows @ gradient if columns is None else rows @ gradient @ columns)) * 0.5).contiguous()

    def _image_places(self, name: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Where each entry of a parameter's mirror image comes from, as a place in the flat parameter, and its sign."""
        numbered = self._image(name, np.arange(1.0, np.prod(shape) + 1.0).reshape(shape))
        return np.abs(numbered).astype(np.int64) - 1, np.sign(numbered).astype(np.float32)

    def _image(self, name: str, values: Array) -> Array:
        rows, columns = self._parts[name]
        return rows @ values if columns is None else rows @ values @ columns
