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
    num_hidden, weights, biases = len(weights) - 1, [*weights[:-1], *weight_heads], [*biases[:-1], *bias_heads]
    _check_shapes(x, weights, biases, num_hidden)
    if kernels.usable(x, *weights, *biases):
        sizes = Pass(x.shape[0], tuple(w.shape[1] for w in weights), tuple(w.shape[0] for w in weights), num_hidden, kernels.num_threads())
        if kernels.compile_kernels(*map(sizes.kernel, ("forward", "backward", "reduce") if Tensor.training else ("inference",))):
            return _run_kernels(sizes, x, weights, biases, keep=Tensor.training)
    for weight, bias in zip(weights[:num_hidden], biases):
        x = x.linear(weight.T, bias).tanh()
    return Tensor.cat(*(x.linear(weight.T, bias) for weight, bias in zip(weights[num_hidden:], biases[num_hidden:])), dim=1)


def _check_shapes(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], num_hidden: int) -> None:
    """Raise ValueError unless every layer takes what the one before it gives: a kernel would read beyond its memory."""
    inputs = [x.shape[-1], *(weight.shape[0] for weight in weights[:num_hidden])]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if x.ndim != 2 or weight.ndim != 2 or weight.shape[1] != inputs[min(i, num_hidden)] or bias.shape != weight.shape[:1]:
            raise ValueError(f"got x {x.shape}, weights {[w.shape for w in weights]} and biases {[b.shape for b in biases]}; "
                             "expected (batch, in), and for each layer (out, in) and (out,), in being the out of the layer before it")


def _run_kernels(sizes: Pass, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], keep: bool) -> Tensor:
    """The output of one pass; keep its hidden activations for the gradient, or compute them anew there."""
    num_weights, scratch = len(weights), Tensor.empty(sizes.threads * sizes.thread_scratch)

    def forward(x: Tensor, *parameters: Tensor) -> list[Tensor]:
        buffers = Tensor.empty(sizes.num_saved), scratch, x, *parameters
        return Tensor.empty(sizes.batch, sizes.widths[-1]).custom_kernel(*buffers, fxn=sizes.kernel("forward"), grad_fxn=gradients)

    def gradients(gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
        out_saved_scratch, (x, *parameters) = call.src[1:][:3 if keep else 2], (Tensor(u) for u in call.src[1:][3 if keep else 2:])
        saved = Tensor(out_saved_scratch[1].after(call)) if keep else forward(x, *parameters)[1]
        gradient, given = Tensor(gradient).contiguous(), parameters[:num_weights]
        partials = Tensor.empty(sizes.num_chunks * sizes.partial_size)
        partials = partials.custom_kernel(scratch, gradient, x, saved, *given, fxn=sizes.kernel("backward"))[0]
        reduced = [Tensor.empty(*parameter.shape) for parameter in parameters]
        *reduced, _ = reduced[0].custom_kernel(*reduced[1:], partials, fxn=sizes.kernel("reduce"))
        d_x = Tensor.empty(*x.shape)  # tinygrad computes it only where something needs it
        d_x = d_x.custom_kernel(scratch, gradient, saved, *given, fxn=sizes.kernel("input_gradient"))[0]
        return (*[None] * len(out_saved_scratch), d_x.uop, *(tensor.uop for tensor in reduced))

    if keep:
        return forward(x, *weights, *biases)[0]
    out = Tensor.empty(sizes.batch, sizes.widths[-1])
    return out.custom_kernel(scratch, x, *weights, *biases, fxn=sizes.kernel("inference"), grad_fxn=gradients)[0]


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

    @property
    def num_saved(self) -> int:
        return max(self.num_tiles * self.num_hidden * ROWS * self.row_stride, 1)

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

    def kernel(self, name: str) -> Kernel:
        """One of the functions that end dense.c, which tell their buffers."""
        pieces = len(self.piece_inputs)
        num_buffers = {"forward": 4 + 2 * pieces, "inference": 3 + 2 * pieces, "backward": 5 + pieces, "input_gradient": 4 + pieces,
                       "reduce": 1 + 2 * pieces}[name]
        return Kernel(name, self.text, num_buffers, 1 if name == "reduce" else self.threads)
