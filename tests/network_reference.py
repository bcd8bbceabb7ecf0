"""The network and its gradients in float64 NumPy, written from the definition: what the kernels are tested against."""

import numpy as np

# Of hidden layers: f, and its derivative as a function of f's value.
ACTIVATIONS = {
    "tanh": (np.tanh, lambda h: 1.0 - h**2),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), lambda h: np.where(h > 0, 1.0, h + 1.0)),
    "relu": (lambda x: np.maximum(x, 0), lambda h: np.where(h > 0, 1.0, 0.0)),
}


def forward(x, weights, biases, activation="tanh"):
    """Activations of every layer, input first, output last."""
    activations = [np.asarray(x, np.float64)]
    for i, (weight, bias) in enumerate(zip(weights, biases)):
        y = activations[-1] @ np.asarray(weight, np.float64).T + bias
        activations.append(ACTIVATIONS[activation][0](y) if i < len(weights) - 1 else y)
    return activations


def backward(activations, weights, gradient, activation="tanh"):
    """Gradients of input, weights and biases, from that of the output."""
    d_weights, d_biases = [], []
    for i in reversed(range(len(weights))):
        d_weights.insert(0, gradient.T @ activations[i])
        d_biases.insert(0, gradient.sum(axis=0))
        gradient = gradient @ np.asarray(weights[i], np.float64)
        if i > 0:
            gradient = gradient * ACTIVATIONS[activation][1](activations[i])
    return gradient, d_weights, d_biases
