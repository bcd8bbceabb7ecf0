"""Linear layers with an activation between them: the computation of every rfx network.

`mlp` is plain tinygrad, for any device. `Inference` and `Training` compute the same in C (dense.c), on arrays in
memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tinygrad import Tensor

from rfx.nn import kernels
from rfx.nn.kernels import Kernel
from rfx.nn.threads import MAX_THREADS
from rfx.policy.actor import ACTIVATIONS
from rfx.system.compiler import ensure_compiler

# Rows of one tile, a multiple of every register block. In training a tile's activations fit a 1 MB L2 cache beside the
# weights. Tiles for inference are smaller, because a few hundred rows must be spread evenly over the threads.
TRAINING_ROWS, INFERENCE_ROWS = 96, 24
# Number of partial weight gradients, each as large as the network. At most this many threads share the backward pass.
MAX_CHUNKS = 16
PAD, PANEL = 16, 32  # floats: PAD as in dense.c, PANEL the widest panel there


def _relu(x: Tensor) -> Tensor:
    return (x < 0.0).where(0.0, x)  # Tensor.relu turns NaN into zero, which would hide broken training


def _elu(x: Tensor) -> Tensor:
    positive = x > 0.0
    return positive.where(x, positive.where(0.0, x).exp() - 1.0)  # Tensor.elu's gradient is NaN where exp(x) overflows


PLAIN: Mapping[str, Callable[[Tensor], Tensor]] = {"tanh": Tensor.tanh, "elu": _elu, "relu": _relu}
assert PLAIN.keys() == ACTIVATIONS.keys()


def mlp(
    x: Tensor,
    weights: Sequence[Tensor | Sequence[Tensor]],
    biases: Sequence[Tensor | Sequence[Tensor]],
    activation: str = "tanh",
) -> Tensor:
    """Compute linear -> activation -> ... -> linear, differentiable.

    x (B, in), weights (out, in), biases (out,); returns (B, out of the last layer). The last entry of weights and of
    biases may be a sequence, one element for each head; the outputs of the heads are then side by side, (B, sum of
    their outs). Raises ValueError for layers that do not fit.
    """
    ensure_compiler()
    weight_heads, bias_heads = ([last] if isinstance(last, Tensor) else [*last] for last in (weights[-1], biases[-1]))
    num_hidden, weights, biases = len(weights) - 1, [*weights[:-1], *weight_heads], [*biases[:-1], *bias_heads]
    _check_shapes(x, weights, biases, num_hidden)
    for weight, bias in zip(weights[:num_hidden], biases):
        x = PLAIN[activation](x.linear(weight.T, bias))
    return Tensor.cat(
        *(x.linear(weight.T, bias) for weight, bias in zip(weights[num_hidden:], biases[num_hidden:])), dim=1
    )


def _check_shapes(x: Tensor | np.ndarray, weights: Sequence, biases: Sequence, num_hidden: int) -> None:
    """Raise ValueError unless each layer fits the one before it: otherwise a kernel would read beyond its memory."""
    inputs = [x.shape[-1], *(weight.shape[0] for weight in weights[:num_hidden])]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if (
            x.ndim != 2
            or weight.ndim != 2
            or weight.shape[1] != inputs[min(i, num_hidden)]
            or bias.shape != weight.shape[:1]
        ):
            raise ValueError(
                f"got x {x.shape}, weights {[w.shape for w in weights]} and biases {[b.shape for b in biases]}; "
                "expected (batch, in), and for each layer (out, in) and (out,), in being the out of the layer before it"
            )


class Inference:
    """Computes a network's output in C.

    Each call reads x (B, in) and the weights as they are then, and writes out (B, sum of the heads' outs). weights
    (out, in) and biases (out,) list the num_hidden hidden layers first, then the heads. All arrays are float32 and
    contiguous; out may be some columns of such an array. Raises ValueError for layers that do not fit.
    """

    def __init__(
        self,
        x: np.ndarray,
        weights: Sequence[np.ndarray],
        biases: Sequence[np.ndarray],
        num_hidden: int,
        out: np.ndarray,
        activation: str = "tanh",
    ):
        sizes = Pass.of(x, weights, biases, num_hidden, out, INFERENCE_ROWS, activation)
        self._forward = sizes.kernel("inference").bind(out, sizes.scratch(), x, *weights, *biases)

    def __call__(self) -> None:
        self._forward()


class Training:
    """Computes a network's output and its gradients in C.

    The forward pass is that of Inference. The backward pass reads d_out, the gradient of the output, and writes
    d_weights and d_biases. d_out has the memory layout of out; d_weights and d_biases are contiguous, like weights and
    biases. Raises like Inference.
    """

    def __init__(
        self,
        x: np.ndarray,
        weights: Sequence[np.ndarray],
        biases: Sequence[np.ndarray],
        num_hidden: int,
        out: np.ndarray,
        d_out: np.ndarray,
        d_weights: Sequence[np.ndarray],
        d_biases: Sequence[np.ndarray],
        activation: str = "tanh",
    ):
        sizes = Pass.of(x, weights, biases, num_hidden, out, TRAINING_ROWS, activation)
        if d_out.strides != out.strides or [d.shape for d in (*d_weights, *d_biases)] != [
            w.shape for w in (*weights, *biases)
        ]:
            raise ValueError(
                f"got gradients {[d.shape for d in (*d_weights, *d_biases)]} and d_out of strides {d_out.strides}; expected the "
                f"shapes of weights and biases, {[w.shape for w in (*weights, *biases)]}, and strides {out.strides}"
            )
        kernels.compile_kernels(*map(sizes.kernel, ("forward", "backward")))  # both at once
        scratch, saved = sizes.scratch(), np.empty(sizes.num_saved, np.float32)
        partials = np.empty(sizes.num_chunks * sizes.partial_size, np.float32)
        self.forward = sizes.kernel("forward").bind(out, scratch, x, *weights, *biases, saved)
        self.backward = sizes.kernel("backward").bind(
            *d_weights, *d_biases, partials, scratch, d_out, x, saved, *weights
        )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class Pass:
    """The sizes of one network pass, and its kernels.

    A piece is one weight matrix with its bias: a hidden layer or a head.
    """

    batch: int
    piece_inputs: tuple[int, ...]
    piece_outputs: tuple[int, ...]
    num_hidden: int
    out_stride: int
    rows: int  # rows of a tile
    activation: str = "tanh"  # activation of the hidden layers

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        weights: Sequence[np.ndarray],
        biases: Sequence[np.ndarray],
        num_hidden: int,
        out: np.ndarray,
        rows: int,
        activation: str = "tanh",
    ) -> Pass:
        """Make the pass for these arrays. Raises ValueError where they do not fit together."""
        _check_shapes(x, weights, biases, num_hidden)
        if out.shape != (len(x), sum(len(w) for w in weights[num_hidden:])) or not len(x):
            raise ValueError(
                f"got x {x.shape} and out {out.shape}; expected rows, and as many outputs as the heads have"
            )
        if (
            not all(array.flags.c_contiguous for array in (x, *weights, *biases))
            or out.strides[1] != 4
            or out.strides[0] % 4
        ):
            raise ValueError("got arrays with gaps; expected contiguous ones, out at least within its rows")
        return cls(
            len(x),
            tuple(w.shape[1] for w in weights),
            tuple(len(w) for w in weights),
            num_hidden,
            out.strides[0] // 4,
            rows,
            activation,
        )

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Widths of all layers, input to output."""
        return (*self.piece_inputs[: self.num_hidden + 1], sum(self.piece_outputs[self.num_hidden :]))

    @functools.cached_property
    def num_tiles(self) -> int:
        return -(-self.batch // self.rows)

    @functools.cached_property
    def row_stride(self) -> int:
        """Row stride of activation tiles, in floats.

        It is one PAD more than needed, because rows a power of two apart would share few cache lines.
        """
        return _round_up(max(self.widths), PAD) + PAD

    @functools.cached_property
    def num_chunks(self) -> int:
        """Number of partial gradients.

        Each covers at least two tiles, so that their sum stays cheap: 2% of the backward pass, against 8% with one tile
        each.
        """
        return next(c for c in (16, 8, 4, 2, 1) if c <= MAX_CHUNKS and (c == 1 or 2 * c <= self.num_tiles))

    @functools.cached_property
    def partial_size(self) -> int:
        return sum(b * _round_up(a, PAD) + _round_up(b, PAD) for a, b in zip(self.widths, self.widths[1:]))

    @functools.cached_property
    def packed_size(self) -> int:
        """Floats for weights in the kernels' own order and for biases: the larger of forward and backward pass."""
        pairs = [*zip(self.widths, self.widths[1:])]
        return max(sum(_round_up(b, PANEL) * (a + 1) for a, b in pairs), sum(_round_up(a, PANEL) * b for a, b in pairs))

    @functools.cached_property
    def tile_space(self) -> int:
        return self.row_stride + 3 * self.rows * self.row_stride

    @property
    def num_saved(self) -> int:
        return max(self.num_tiles * self.num_hidden * self.rows * self.row_stride, 1)

    def scratch(self) -> np.ndarray:
        """Allocate scratch memory for one kernel at a time, aligned to a cache line.

        The system provides pages only where threads use them.
        """
        size = self.packed_size + MAX_THREADS * self.tile_space
        memory = np.empty(size + PAD, np.float32)
        begin = -memory.ctypes.data % (4 * PAD) // 4
        return memory[begin : begin + size]

    @functools.cached_property
    def text(self) -> str:
        """Text of dense.c with this pass's constants."""
        constants = {
            "ACTIVATION": self.activation.upper(),
            "LAYERS": self.num_hidden + 1,
            "PIECES": len(self.piece_inputs),
            "BATCH": self.batch,
            "ROWS": self.rows,
            "TILES": self.num_tiles,
            "LD": self.row_stride,
            "OUT_STRIDE": self.out_stride,
            "CHUNKS": self.num_chunks,
            "PARTIAL": self.partial_size,
            "PACKED": self.packed_size,
            "TILE_SPACE": self.tile_space,
        }
        heads = self.piece_outputs[self.num_hidden :]
        arrays = {
            "width": self.widths,
            "piece_layer": (min(i, self.num_hidden) for i in range(len(self.piece_inputs))),
            "piece_begin": (*[0] * self.num_hidden, *(sum(heads[:i]) for i in range(len(heads)))),
            "piece_rows": self.piece_outputs,
        }
        return kernels.program_text("vector.c", "dense.c", constants=constants, arrays=arrays)

    def kernel(self, name: str) -> Kernel:
        """One of the functions at the end of dense.c, inference, forward or backward; comments there list buffers."""
        return Kernel(name, self.text)
