"""The actor of a policy in NumPy.

A robot's computer runs only this. It can read a policy folder with this module, without tinygrad.
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


# Activations of the hidden layers. Each works in place.
ACTIVATIONS: Mapping[str, Callable[[np.ndarray], None]] = {"tanh": _tanh, "elu": _elu, "relu": _relu}
# Weights of an actor-critic whose names begin like this are not part of its actor.
CRITICS = ("critic_head.", "critic.", "log_std")
# For each policy type, the attribute that holds its layers.
ACTORS = {
    "MLP": "layers",
    "ActorCritic": "backbone",
    "PrivilegedActorCritic": "backbone",
    "CategoricalMLP": "layers",
    "CategoricalActorCritic": "backbone",
}
# These policy types choose: they give one number for each choice, and the largest number wins.
CHOOSERS = ("CategoricalMLP", "CategoricalActorCritic")


class Actor:
    """A feed-forward network that turns observations into actions.

    Each hidden layer has the activation. The last layer has tanh, so actions lie in [-1, 1]; the last layer of a type
    in CHOOSERS has none. layers are pairs of weight (out, in) and bias (out,), from input to output. The network reads
    history observations side by side. obs_dim is the width of one observation, act_dim the width of the output.
    Raises ValueError if the layers and history do not fit together, or if the activation is unknown.
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
                f"got layers of widths {sizes} and history {reprlib.repr(history)}; expected how many "
                "observations the first reads"
            )
        self.obs_dim, self.act_dim, self.hidden, self.history = sizes[0] // history, sizes[-1], sizes[1:-1], history
        self.policy_type, self.chooses = policy_type, policy_type in CHOOSERS
        self.activation = check_activation(activation)
        # Weights are stored as (in, out), so that a product with rows of observations reads memory in order
        self.layers = [(np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32)) for weight, bias in layers]

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Compute actions: observations (N, history * obs_dim) -> (N, act_dim), float32."""
        x, activate = obs, ACTIVATIONS[self.activation]
        with np.errstate(over="ignore", invalid="ignore"):  # callers check that the action is finite
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
        """Make the actor of a policy from the weights and constructor arguments in its folder.

        policy_type is one of ACTORS. Raises ValueError if weights and arguments do not fit together.
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
                    f"got {name} {reprlib.repr(arguments[name])}, but the weights are those of "
                    f"{getattr(actor, name)!r}; save the policy anew"
                )
        return actor


def check_activation(name: Any) -> str:
    """Return name if it is one of ACTIVATIONS. Otherwise raises ValueError, which names the nearest one."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"got activation {reprlib.repr(name)}: {nearest(str(name), ACTIVATIONS)}")
    return name


def policy_widths(policy: Any) -> tuple[int | None, int | None]:
    """Widths of observation and action: the policy's attributes obs_dim and act_dim, None for a missing one."""
    obs_dim, act_dim = getattr(policy, "obs_dim", None), getattr(policy, "act_dim", None)
    return obs_dim if isinstance(obs_dim, int) else None, act_dim if isinstance(act_dim, int) else None


def policy_history(policy: Any) -> int:
    """How many observations the policy reads: its attribute history, or 1 without that attribute."""
    history = getattr(policy, "history", None)
    return history if isinstance(history, int) else 1


def width(shapes: Mapping[str, tuple[int, ...]], name: str, num_inputs: int | None = None) -> tuple[int, int]:
    """Number of inputs and outputs of the linear layer called name.

    Raises ValueError if shapes has no such layer, or if num_inputs is given and the layer has another number.
    """
    weight, bias = shapes.get(f"{name}.weight", ()), shapes.get(f"{name}.bias", ())
    if len(weight) != 2 or bias != weight[:1] or 0 in weight or num_inputs not in (None, weight[1]):
        raise ValueError(
            f"got {name}.weight of shape {weight} and {name}.bias of shape {bias}; "
            f"expected (out, {num_inputs or 'in'}) and (out,)"
        )
    return weight[1], weight[0]


def chain(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> list[int]:
    """Widths of the layers prefix.0, prefix.1, ..., from input to output; empty if there are no layers.

    Raises ValueError if two layers do not fit together.
    """
    sizes: list[int] = []
    while f"{prefix}.{max(len(sizes) - 1, 0)}.weight" in shapes:
        num_inputs, num_outputs = width(shapes, f"{prefix}.{max(len(sizes) - 1, 0)}", sizes[-1] if sizes else None)
        sizes += [num_outputs] if sizes else [num_inputs, num_outputs]
    return sizes
