"""The base class of policies: compiled calls, and saving and loading by registered name."""

from __future__ import annotations

from typing import TypeVar

import rfx.nn.compiler  # noqa: F401  (before tinygrad)
from tinygrad import Tensor, TinyJit
from tinygrad.nn.state import get_state_dict

REGISTRY: dict[str, type[Policy]] = {}
P = TypeVar("P", bound="type[Policy]")


class Policy:
    """A network that maps observations to actions; subclasses define `forward`."""

    __slots__ = ("_arguments", "_compiled", "__dict__", "__weakref__")  # outside __dict__, where tinygrad looks for weights

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        self._arguments, self._compiled = (args, kwargs), {}
        return self

    def __init__(self):
        pass

    def forward(self, obs: Tensor) -> Tensor:
        """Observations to actions: (B, obs_dim) -> (B, act_dim). Subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward(obs)")

    def __call__(self, obs: Tensor) -> Tensor:
        """Run inference, compiled for each shape from its second call on; no later call overwrites the result."""
        key = (obs.shape, obs.dtype, obs.device)
        if key not in self._compiled:
            Tensor.realize(*self.parameters())
            self._compiled[key] = TinyJit(self.forward)
        return self._compiled[key](obs.clone().realize()).clone().realize()

    def parameters(self) -> list[Tensor]:
        """Every weight, in a fixed order."""
        return list(get_state_dict(self).values())


def register_policy(cls: P) -> P:
    """Register a policy class under its name, so that `Policy.load` finds it."""
    REGISTRY[cls.__name__] = cls
    return cls
