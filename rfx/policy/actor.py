"""The actor of a policy in NumPy: all that a robot's computer runs, and all that it needs to read a policy folder
without tinygrad.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rfx.settings.terms import nearest


def _tanh(x: np.ndarray) -> None:
    np.tanh(x, out=x)


def _elu(x: np.ndarray) -> None:
    np.copyto(x, np.expm1(np.minimum(x, 0.0)), where=~(x > 0.0))


def _relu(x: np.ndarray) -> None:
    np.maximum(x, 0.0, out=x)


# Of hidden layers, in place.
ACTIVATIONS: Mapping[str, Callable[[np.ndarray], None]] = {"tanh": _tanh, "elu": _elu, "relu": _relu}
CRITICS = ("critic_head.", "critic.", "log_std")  # of an actor-critic: what beginnings of weights' names mean
ACTORS = {
    "MLP": "layers",
    "ActorCritic": "backbone",
    "PrivilegedActorCritic": "backbone",
    "CategoricalMLP": "layers",
    "CategoricalActorCritic": "backbone",
}  # policy types by name; where their layers are
CHOOSERS = (
    "CategoricalMLP",
    "CategoricalActorCritic",
)  # of these, the ones that answer one number for each choice, the largest is taken


class Actor:
    """Layers with an activation after each but the last, which has tanh, or, of a type in CHOOSERS, nothing.

    With tanh, actions lie in [-1, 1]. layers are pairs of weight (out, in) and bias (out,), input to output. history
    is how many observations it reads side by side, obs_dim the width of one, act_dim that of its answer. Raises
    ValueError where they do not fit together, or for an unknown activation.
    """

    def __init__(
        self,
        layers: Sequence[tuple[np.ndarray, np.ndarray]],
        *,
        history: int = 1,
        activation: str = "tanh",
        policy_type: str = "Actor",
    ):
        shapes = {
            f"layers.{index}.{name}": array.shape
            for index, layer in enumerate(layers)
            for name, array in zip(("weight", "bias"), layer)
        }
        sizes = chain(shapes, "layers")
        if not sizes or isinstance(history, bool) or not isinstance(history, int) or history < 1 or sizes[0] % history:
            raise ValueError(
                f"got layers of widths {sizes} and history {reprlib.repr(history)}; expected how many observations the first reads"
            )
        self.obs_dim, self.act_dim, self.hidden, self.history = sizes[0] // history, sizes[-1], sizes[1:-1], history
        self.policy_type, self.chooses = policy_type, policy_type in CHOOSERS
        self.activation = check_activation(activation)
        # (in, out): a product with rows of observations then reads memory in order
        self.layers = [(np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32)) for weight, bias in layers]

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Actions for observations (N, history * obs_dim) -> (N, act_dim), float32."""
        x, activate = obs, ACTIVATIONS[self.activation]
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by whoever checks the action
            for index, (weight, bias) in enumerate(self.layers, 1):
                x = x @ weight
                x += bias
                if index < len(self.layers):
                    activate(x)
            if not self.chooses:
                np.tanh(x, out=x)
        return x

    @classmethod
    def of(cls, weights: Mapping[str, np.ndarray], policy_type: str, arguments: Mapping[str, Any]) -> Actor:
        """The actor of a policy of one of ACTORS, of its weights and constructor's arguments as its folder has them.

        Raises ValueError where weights and arguments do not fit together.
        """
        prefix, shapes = ACTORS[policy_type], {name: array.shape for name, array in weights.items()}
        names = [f"{prefix}.{index}" for index in range(max(len(chain(shapes, prefix)) - 1, 0))]
        names += ["actor_head"] if prefix == "backbone" else []
        known = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
        others = [
            name for name in weights if name not in known and (prefix == "layers" or not name.startswith(CRITICS))
        ]
        if others or known - weights.keys():
            raise ValueError(f"got weights {sorted(weights)}; expected those of a {policy_type}")
        if wrong := [f"{name} of {weights[name].dtype}" for name in sorted(known) if weights[name].dtype.kind != "f"]:
            raise ValueError(f"got {', '.join(wrong)}; expected floating-point numbers")
        actor = cls(
            [(weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in names],
            history=arguments.get("history", 1),
            activation=arguments.get("activation", "tanh"),
            policy_type=policy_type,
        )
        for name in ("obs_dim", "act_dim", "hidden"):
            if arguments.get(name) not in (None, getattr(actor, name)):
                raise ValueError(
                    f"got {name} {reprlib.repr(arguments[name])}, but the weights are those of {getattr(actor, name)!r}; save the "
                    "policy anew"
                )
        return actor


def check_activation(name: Any) -> str:
    """name, if it is one of ACTIVATIONS. Raises ValueError that names the nearest."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"got activation {reprlib.repr(name)}: {nearest(str(name), ACTIVATIONS)}")
    return name


def policy_widths(policy: Any) -> tuple[int | None, int | None]:
    """Widths of observation and action where the policy has attributes obs_dim and act_dim, else None."""
    obs_dim, act_dim = getattr(policy, "obs_dim", None), getattr(policy, "act_dim", None)
    return obs_dim if isinstance(obs_dim, int) else None, act_dim if isinstance(act_dim, int) else None


def policy_history(policy: Any) -> int:
    """How many observations the policy reads, its attribute history, or else 1."""
    history = getattr(policy, "history", None)
    return history if isinstance(history, int) else 1


def width(shapes: Mapping[str, tuple[int, ...]], name: str, num_inputs: int | None = None) -> tuple[int, int]:
    """Inputs and outputs of the linear layer called name.

    Raises ValueError unless these shapes have it, with num_inputs inputs.
    """
    weight, bias = shapes.get(f"{name}.weight", ()), shapes.get(f"{name}.bias", ())
    if len(weight) != 2 or bias != weight[:1] or 0 in weight or num_inputs not in (None, weight[1]):
        raise ValueError(
            f"got {name}.weight of shape {weight} and {name}.bias of shape {bias}; "
            f"expected (out, {num_inputs or 'in'}) and (out,)"
        )
    return weight[1], weight[0]


def chain(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> list[int]:
    """Widths of the layers prefix.0, prefix.1, ..., input to output; none without layers.

    Raises ValueError where two do not fit.
    """
    sizes: list[int] = []
    while f"{prefix}.{max(len(sizes) - 1, 0)}.weight" in shapes:
        num_inputs, num_outputs = width(shapes, f"{prefix}.{max(len(sizes) - 1, 0)}", sizes[-1] if sizes else None)
        sizes += [num_outputs] if sizes else [num_inputs, num_outputs]
    return sizes
