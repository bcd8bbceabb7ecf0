"""The one thing every rfx network computes: linear layers with tanh between them.

On the CPU a whole pass is one C kernel (dense.c); elsewhere, or where that does not build, it is plain tinygrad.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from rfx.nn import kernels
from rfx.nn.kernels import Kernel
from tinygrad import Tensor, UOp

ROWS = 96  # of one tile: a multiple of every register block, and its activations fit a 1 MB L2 cache beside the weights
MAX_CHUNKS = 16  # partial weight gradients, each as large as the network; no more threads than this share the backward pass
PAD, PANEL = 16, 32  # floats: PAD as in dense.c, PANEL the widest there


def mlp(x: Tensor, weights: Sequence[Tensor | Sequence[Tensor]], biases: Sequence[Tensor | Sequence[Tensor]]) -> Tensor:
    """linear -> tanh -> ... -> linear, differentiable. x (B, in), weights (out, in), biases (out,); returns (B, out of the last).

    The last of weights and biases may be sequences, heads: their outputs come side by side, (B, sum of their outs).
    Gradients cost least under `Tensor.train()`: without it the pass keeps no activations, and a gradient computes them again.
    """
    weight_heads, bias_heads = ([last] if isinstance(last, Tensor) else [*last] for last in (weights[-1], biases[-1]))
    hidden, weights, biases = len(weights) - 1, [*weights[:-1], *weight_heads], [*biases[:-1], *bias_heads]
    if kernels.usable(x, *weights, *biases):
        sizes = Pass(x.shape[0], tuple(w.shape[1] for w in weights), tuple(w.shape[0] for w in weights), hidden, kernels.num_threads())
        if kernels.compile_kernels(*([sizes.forward, sizes.backward, sizes.reduce] if Tensor.training else [sizes.inference])):
            return _mlp_kernel(sizes, x, weights, biases, keep=Tensor.training)
    for weight, bias in zip(weights[:hidden], biases):
        x = x.linear(weight.T, bias).tanh()
    return Tensor.cat(*(x.linear(weight.T, bias) for weight, bias in zip(weights[hidden:], biases[hidden:])), dim=1)


def _mlp_kernel(sizes: Pass, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], keep: bool) -> Tensor:
    """The output of one pass; keep its hidden activations for the gradient, or compute them anew there."""
    out, scratch, pieces = Tensor.empty(sizes.batch, sizes.widths[-1]), Tensor.empty(sizes.num_scratch), len(weights)

    def forward(x: Tensor, *parameters: Tensor) -> list[Tensor]:
        return out.custom_kernel(Tensor.empty(sizes.num_saved), scratch, x, *parameters, fxn=sizes.forward, grad_fxn=gradients)

    def gradients(gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
        buffers = call.src[1:]
        x, *parameters = (Tensor(u) for u in buffers[3 if keep else 2:])
        saved = Tensor(buffers[1].after(call)) if keep else forward(x, *parameters)[1]
        upstream = Tensor(gradient).contiguous()
        partials = Tensor.empty(sizes.num_partials).custom_kernel(scratch, upstream, x, saved, *parameters[:pieces], fxn=sizes.backward)[0]
        outputs = [Tensor.empty(*parameter.shape) for parameter in parameters]
        reduced = outputs[0].custom_kernel(*outputs[1:], partials, fxn=sizes.reduce)[:-1]
        # tinygrad runs this one only where something needs the gradient of x
        dx = Tensor.empty(*x.shape).custom_kernel(scratch, upstream, saved, *parameters[:pieces], fxn=sizes.input_gradient)[0]
        return (*[None] * (3 if keep else 2), dx.uop, *(tensor.uop for tensor in reduced))

    if keep:
        return forward(x, *weights, *biases)[0]
    return out.custom_kernel(scratch, x, *weights, *biases, fxn=sizes.inference, grad_fxn=gradients)[0]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class Pass:
    """The sizes of one network pass, and its kernels. A piece is one weight matrix with its bias: a hidden layer, or a head."""

    batch: int
    piece_inputs: tuple[int, ...]
    piece_outputs: tuple[int, ...]
    num_hidden: int
    threads: int

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Of every layer, input to output."""
        return (*self.piece_inputs[:self.num_hidden + 1], sum(self.piece_outputs[self.num_hidden:]))

    @functools.cached_property
    def num_tiles(self) -> int:
        return -(-self.batch // ROWS)

    @functools.cached_property
    def row_stride(self) -> int:
        """Of activation tiles; one PAD more than they need, since rows a power of two apart would share few cache lines."""
        return _round_up(max(self.widths), PAD) + PAD

    @functools.cached_property
    def num_chunks(self) -> int:
        """Of partial gradients: at least four tiles each, so that adding them up stays cheap."""
        return next(c for c in (16, 8, 4, 2, 1) if c <= MAX_CHUNKS and (c == 1 or 4 * c <= self.num_tiles))

    @functools.cached_property
    def partial_size(self) -> int:
        return sum(b * _round_up(a, PAD) + _round_up(b, PAD) for a, b in zip(self.widths, self.widths[1:]))

    @functools.cached_property
    def thread_scratch(self) -> int:
        packed = sum(max(_round_up(b, PANEL) * (a + 1), _round_up(a, PANEL) * b) for a, b in zip(self.widths, self.widths[1:]))
        return packed + self.row_stride + 3 * ROWS * self.row_stride + 4 * PAD

    num_saved = property(lambda self: max(self.num_tiles * self.num_hidden * ROWS * self.row_stride, 1))
    num_partials = property(lambda self: self.num_chunks * self.partial_size)
    num_scratch = property(lambda self: self.threads * self.thread_scratch)

    @functools.cached_property
    def text(self) -> str:
        """dense.c with this pass's constants."""
        constants = {"LAYERS": self.num_hidden + 1, "PIECES": len(self.piece_inputs), "BATCH": self.batch, "ROWS": ROWS,
                     "TILES": self.num_tiles, "LD": self.row_stride, "THREADS": self.threads, "CHUNKS": self.num_chunks,
                     "SCRATCH": self.thread_scratch, "PARTIAL": self.partial_size}
        heads = self.piece_outputs[self.num_hidden:]
        arrays = {"width": self.widths, "piece_layer": (min(i, self.num_hidden) for i in range(len(self.piece_inputs))),
                  "piece_begin": (*[0] * self.num_hidden, *(sum(heads[:i]) for i in range(len(heads)))), "piece_rows": self.piece_outputs}
        return kernels.program_text("vector.c", "dense.c", constants=constants, arrays=arrays)

    def _kernel(self, name: str, num_buffers: int, threads: int) -> Kernel:
        return Kernel(name, self.text, num_buffers, threads)

    forward = functools.cached_property(lambda self: self._kernel("forward", 4 + 2 * len(self.piece_inputs), self.threads))
    inference = functools.cached_property(lambda self: self._kernel("inference", 3 + 2 * len(self.piece_inputs), self.threads))
    backward = functools.cached_property(lambda self: self._kernel("backward", 5 + len(self.piece_inputs), self.threads))
    input_gradient = functools.cached_property(lambda self: self._kernel("input_gradient", 4 + len(self.piece_inputs), self.threads))
    reduce = functools.cached_property(lambda self: self._kernel("reduce", 2 * len(self.piece_inputs) + 1, 1))
