"""The one thing every rfx network computes: linear layers with tanh between them."""

from __future__ import annotations

import rfx.nn.compiler  # noqa: F401  (before tinygrad)
from tinygrad import Tensor


def mlp(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """linear -> tanh -> ... -> linear, differentiable. x (B, in), weights (out, in), biases (out,); returns (B, out of the last)."""
    for weight, bias in zip(weights[:-1], biases[:-1]):
        x = x.linear(weight.T, bias).tanh()
    return x.linear(weights[-1].T, biases[-1])
