"""The network and its gradients in float64 NumPy, written from the definition: what the kernels are tested against."""

import numpy as np


def forward(x, weights, biases):
    """Activations of every layer, input first, output last."""
    activations = [np.asarray(x, np.float64)]
    for i, (weight, bias) in enumerate(zip(weights, biases)):
        y = activations[-1] @ np.asarray(weight, np.float64).T + bias
        activations.append(np.tanh(y) if i < len(weights) - 1 else y)
    return activations


def backward(activations, weights, gradient):
    """Gradients of input, weights and biases, from that of the output."""
    d_weights, d_biases = [], []
    for i in reversed(range(len(weights))):
        d_weights.insert(0, gradient.T @ activations[i])
        d_biases.insert(0, gradient.sum(axis=0))
        gradient = gradient @ np.asarray(weights[i], np.float64)
        if i > 0:
            gradient = gradient * (1.0 - activations[i] ** 2)
    return gradient, d_weights, d_biases
