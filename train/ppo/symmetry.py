"""A policy that treats left and right exactly alike: an ordinary network whose weights are their own mirror image.

In every hidden layer of H units, the second half of the units mirrors the first half: unit i + H/2 computes from the
mirrored observation what unit i computes from the observation. So the actor is equivariant and the critic invariant,
with the layers and the cost of any other network. Weights that begin as their own mirror image stay so, bit for bit, if
every gradient is made its own mirror image before the optimizer uses it. This is exact, because a sum of two numbers
does not depend on their order. Group-equivariant layers after Cohen and Welling 2016, "Group Equivariant Convolutional
Networks".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tinygrad import Tensor

from rfx.nn import kernels
from rfx.nn.kernels import Kernel
from rfx.robot.state import Array

BLOCK = 4096  # a thread takes this many numbers at a time


class Symmetry:
    """The mirror images of an actor-critic's parameters: signed permutations of rows and columns, by name.

    observation (D, D) and action (A, A) are signed permutations; multiplying by them mirrors an observation or an
    action. hidden has the widths of the hidden layers. history is the number of observations that the actor reads.
    Parameters with other names, such as a privileged critic's, stay unchanged.
    Raises ValueError for a hidden layer with an odd number of units.
    """

    def __init__(self, observation: Array, action: Array, hidden: Sequence[int], history: int = 1):
        observation, action = observation.T, action.T  # weights multiply column vectors
        if any(width % 2 for width in hidden):
            raise ValueError(
                f"got hidden layers of {list(hidden)} units; expected even numbers: each unit of a symmetric policy has a mirror image"
            )
        swaps = [np.roll(np.eye(width, dtype=np.float32), width // 2, axis=0) for width in hidden]
        self._parts: dict[str, tuple[Array, Array | None]] = {}  # rows, columns; None for a vector
        before = np.kron(np.eye(history, dtype=np.float32), observation)
        for index, swap in enumerate(swaps):
            self._parts |= {f"backbone.{index}.weight": (swap, before), f"backbone.{index}.bias": (swap, None)}
            before = swap
        self._parts |= {
            "actor_head.weight": (action, before),
            "actor_head.bias": (action, None),
            "critic_head.weight": (np.eye(1, dtype=np.float32), before),
            "log_std": (np.abs(action), None),
        }
        self._tensors: dict[str, tuple[Tensor | None, ...]] = {}

    def initial(self, name: str, values: Array) -> Array:
        """Make weights of the same scale that are their own mirror image.

        One half of the rows, or of the columns, becomes the image of the other half.
        """
        if name not in self._parts:
            return values
        image = self._image(name, values)
        axis = 0 if name.startswith("backbone") else 1
        if values.ndim == 1 and not name.startswith("backbone"):
            return 0.5 * (values + image)
        half = values.shape[axis] // 2
        return np.concatenate((values.take(range(half), axis), image.take(range(half, 2 * half), axis)), axis)

    def bind(self, gradients: Mapping[str, Array]) -> tuple[Callable[[], None], dict[str, Array]]:
        """Make a function that symmetrizes the gradients in these arrays, in C.

        Returns the function, and the arrays that it writes, by the parameters' names. A gradient without a mirror image
        keeps its own array.
        """
        given = {name: gradient for name, gradient in gradients.items() if name in self._parts}
        means = {name: np.empty_like(gradient) for name, gradient in given.items()}
        places, signs = zip(*(self._image_places(name, gradient.shape) for name, gradient in given.items()))
        call = mean_kernel([gradient.size for gradient in given.values()]).bind(
            *means.values(), *given.values(), *places, *signs
        )
        return call, {name: means.get(name, gradient) for name, gradient in gradients.items()}

    def gradient(self, name: str, gradient: Tensor) -> Tensor:
        """The mean of a gradient and its mirror image, as a new tensor, in tinygrad."""
        if name not in self._parts:
            return gradient
        if name not in self._tensors:
            self._tensors[name] = tuple(None if part is None else Tensor(part).realize() for part in self._parts[name])
        rows, columns = self._tensors[name]
        gradient = gradient.contiguous()
        return ((gradient + (rows @ gradient if columns is None else rows @ gradient @ columns)) * 0.5).contiguous()

    def _image_places(self, name: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """For each entry of a parameter's mirror image: its source index in the flat parameter, and its sign."""
        numbered = self._image(name, np.arange(1.0, np.prod(shape) + 1.0).reshape(shape))
        return np.abs(numbered).astype(np.int32) - 1, np.sign(numbered).astype(np.float32)

    def _image(self, name: str, values: Array) -> Array:
        rows, columns = self._parts[name]
        return rows @ values if columns is None else rows @ values @ columns


def mean_kernel(sizes: Sequence[int]) -> Kernel:
    """A kernel that averages arrays of these sizes with their mirror images.

    Its buffers are the means, the arrays, and the source indices and signs of the images.
    """
    text = (
        kernels.program_text(constants={"PIECES": len(sizes), "BLOCK": BLOCK}, arrays={"size": sizes})
        + """
static void take_mean(float* const* b, long block, int thread) {
  int p = 0;
  for (long count; block >= (count = (size[p] + BLOCK - 1) / BLOCK); p++) block -= count;
  const float *given = b[PIECES + p], *sign = b[3 * PIECES + p];
  const int* place = (const int*)b[2 * PIECES + p];
  const long end = (block + 1) * BLOCK < size[p] ? (block + 1) * BLOCK : size[p];
  float* restrict mean = b[p];
  for (long i = block * BLOCK; i < end; i++) mean[i] = (given[i] + given[place[i]] * sign[i]) * 0.5f;
}
static void take_means(float* const* b, Pool* pool) {
  long blocks = 0;
  for (int p = 0; p < PIECES; p++) blocks += (size[p] + BLOCK - 1) / BLOCK;
  run(pool, take_mean, b, blocks);
}
"""
    )
    return Kernel("take_means", text)
