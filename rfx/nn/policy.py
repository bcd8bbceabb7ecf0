"""The base class of policies, and how policies are saved and loaded.

Calls are compiled for each input shape. A policy folder records the class and its constructor arguments.
"""

from __future__ import annotations

import inspect
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tinygrad import Tensor, TinyJit
from tinygrad.device import Buffer
from tinygrad.nn.state import get_state_dict
from tinygrad.uop.ops import UOp

from rfx.nn.deadlock import avoid_deadlock
from rfx.policy.actor import policy_widths
from rfx.policy.folder import PolicyInfo, check_finite, check_widths, inspect_policy, naming, read_weights, write_policy
from rfx.policy.normalizer import ObservationNormalizer
from rfx.robot.config import RobotConfig
from rfx.settings.terms import find_foreign, nearest, places_of
from rfx.system.compiler import ensure_compiler

P = TypeVar("P", bound="Policy")
_registered: dict[str, type[Policy]] = {}


class Policy:
    """A network that maps observations to actions.

    A subclass defines `forward` and an ordinary `__init__`, whose arguments are recorded.

    Every tinygrad Tensor in an attribute, directly or inside lists and layers, is a weight. Its attribute path is its
    name.
    """

    # True for a policy with one output for each choice: it chooses the action with the largest output.
    chooses = False
    # Slots keep these out of __dict__, where tinygrad looks for weights.
    __slots__ = ("_arguments", "_compiled", "_buffers", "__dict__", "__weakref__")

    def __new__(cls, *args, **kwargs):
        ensure_compiler()
        self = super().__new__(cls)
        self._arguments, self._compiled, self._buffers = (args, kwargs), {}, ()
        return self

    def __init__(self):
        pass

    def __reduce__(self):
        # A copied Tensor would not train. So a copy or unpickled policy is constructed, then given the weights.
        return _rebuild, (
            type(self),
            self._arguments,
            {name: tensor.numpy() for name, tensor in get_state_dict(self).items()},
        )

    def forward(self, obs: Tensor) -> Tensor:
        """Compute actions from observations, differentiable. obs (B, obs_dim) -> (B, act_dim).

        Raises NotImplementedError unless overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward(obs)")

    def __call__(self, obs: Tensor) -> Tensor:
        """Run inference without gradient. obs (B, obs_dim) -> (B, act_dim), in new memory.

        Calls are compiled for each shape, from the second call with it on. Raises TypeError unless obs is a tinygrad
        Tensor, otherwise like `forward`.
        """
        if not isinstance(obs, Tensor):
            raise TypeError(
                f"got {type(obs).__name__}; expected a tinygrad Tensor: pass Tensor(obs), or use rfx.load_policy"
            )
        if weights := self.parameters():
            Tensor.realize(*weights)
        # Weights were replaced; training writes in place and keeps the buffers.
        if (buffers := tuple(weight.uop.base for weight in weights)) != self._buffers:
            self._compiled, self._buffers = {}, buffers
        key = (obs.shape, obs.dtype, obs.device)
        if key not in self._compiled:
            avoid_deadlock()
            self._compiled[key] = TinyJit(lambda x: self.forward(x).clone())
        # A compiled call takes whole buffers, no views and no constants.
        if not (obs.uop.has_buffer_identity() and obs.uop.is_realized):
            obs = obs.clone().realize()
        return _copy(self._compiled[key](obs))

    def parameters(self) -> list[Tensor]:
        """Return all weights, in the order in which their names first appear."""
        return list(get_state_dict(self).values())

    def save(
        self,
        path: str | Path,
        *,
        robot_config: RobotConfig | None = None,
        normalizer: ObservationNormalizer | None = None,
        training_info: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save the policy as a self-describing folder at path, and return path.

        An older policy at path stays until the new one is complete.

        Raises ValueError for weights that are not finite, or a robot_config or normalizer that does not fit the policy;
        TypeError for constructor arguments or training_info that JSON cannot hold; FileExistsError if path holds
        anything but a policy.
        """
        weights = {name: tensor.numpy() for name, tensor in get_state_dict(self).items()}
        return write_policy(
            path,
            policy_type=type(self).__name__,
            module=_module_of(type(self)),
            arguments=self._named_arguments(),
            weights=weights,
            robot_config=robot_config,
            normalizer=normalizer,
            training_info=training_info,
            widths=policy_widths(self),
        )

    @classmethod
    def load(cls: type[P], path: str | Path) -> P:
        """Load the policy in the folder at path, or in a bare .safetensors file.

        For a bare file the constructor's arguments follow from the shapes. Policy.load finds the class by its recorded
        name: first among the registered classes, then in the recorded module, which it imports. A subclass's load makes
        an instance of that subclass. No code in the folder is run. Raises FileNotFoundError, or ValueError that says
        what does not fit.
        """
        if Path(path).is_file():
            weights = read_weights(path)
            with naming(path):
                return _build(_class_for(weights) if cls is Policy else cls, {}, weights)
        return cls.from_info(inspect_policy(path))

    @classmethod
    def from_info(cls: type[P], info: PolicyInfo) -> P:
        """Load the policy whose folder `rfx.inspect_policy` has read. Raises like `load`."""
        weights = info.read_weights()
        with naming(info.path):
            policy = _build(policy_class(info) if cls is Policy else cls, info.arguments, weights)
            check_widths(*policy_widths(policy), info.robot_config, info.normalizer)
        return policy

    @classmethod
    def infer_arguments(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Infer constructor arguments from the shapes of the weights; Policy itself infers none.

        For a class with a history, the result's obs_dim is the width of all observations together: the weights do not
        tell how many observations there are. Raises ValueError if no arguments give these weights.
        """
        return {}

    def _named_arguments(self) -> dict[str, Any]:
        """Constructor arguments by name, without random generators: their draws are already in the weights."""
        signature = inspect.signature(type(self).__init__)
        arguments = signature.bind(self, *self._arguments[0], **self._arguments[1]).arguments
        return {
            name: value for name, value in list(arguments.items())[1:] if not isinstance(value, np.random.Generator)
        }


def register_policy(cls: type[P]) -> type[P]:
    """Class decorator that registers a policy class under its name, so that `Policy.load` finds it.

    Raises TypeError for anything but a subclass of Policy, ValueError for a name that another class has.
    """
    if not (isinstance(cls, type) and issubclass(cls, Policy)):
        raise TypeError(f"got {cls!r}; expected a subclass of rfx.nn.Policy")
    known = _registered.get(cls.__name__, cls)
    # A class that is defined again replaces itself.
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"the name {cls.__name__} is taken by {known.__module__}.{known.__qualname__}; choose another name"
        )
    _registered[cls.__name__] = cls
    return cls


def registered_policy(name: str) -> type[Policy]:
    """Return the policy class registered under name. Raises ValueError that suggests the nearest name."""
    if name not in _registered:
        raise ValueError(
            f"no policy class {name!r} is registered; {nearest(name, _registered)}: import the module that defines it, "
            "with @register_policy above the class"
        )
    return _registered[name]


def policy_class(info: PolicyInfo) -> type[Policy]:
    """Find the class of the policy in a folder: first among registered classes, then by importing its module.

    Raises ValueError if the module cannot be imported here or lies in the folder: no code in the folder is run.
    """
    known = _registered.get(info.policy_type)
    if info.module is None or known is not None and known.__module__ == info.module:
        return registered_policy(info.policy_type)
    path = f"{info.module}:{info.policy_type}"
    if any(place.resolve().is_relative_to(info.path.resolve()) for place in places_of(info.module)):
        raise ValueError(
            f"its class {path} lies in the policy's folder, from which no code is run; move the module to "
            "where you trust it"
        )
    try:
        cls = find_foreign(path)
    except ValueError as error:
        if known is not None:  # its module has moved since, and registered it
            return known
        raise ValueError(f"this policy needs its class {path}, and a policy folder holds no code: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Policy)):
        raise ValueError(f"got {path}, which is {cls!r}; expected a subclass of rfx.nn.Policy")
    return cls


def _module_of(cls: type[Policy]) -> str | None:
    """Module from which others can import cls; None for a class of rfx or a class that cannot be imported by name."""
    module = cls.__module__
    importable = getattr(sys.modules.get(module), cls.__name__, None) is cls and module != "__main__"
    return module if importable and not module.startswith("rfx.") else None


def _copy(tensor: Tensor) -> Tensor:
    """Copy a realized tensor; Tensor.clone schedules a kernel for this and is ten times slower."""
    source = tensor.uop.buffer
    copy = Buffer(source.device, source.size, source.dtype).allocate()
    if hasattr(copy, "copy_from"):  # tinygrad 0.14 has copy_from instead of copyin
        copy.copy_from(source)
    else:
        copy.copyin(source.as_memoryview(allow_zero_copy=True))
    return Tensor(UOp.from_buffer(copy).reshape(tensor.shape))


def _class_for(weights: Mapping[str, np.ndarray]) -> type[Policy]:
    """Find the registered class that can infer its arguments from these weights. Raises ValueError without one."""
    shapes = {name: array.shape for name, array in weights.items()}
    for policy_class in _registered.values():
        try:
            if policy_class.infer_arguments(shapes):
                return policy_class
        except ValueError:
            continue
    raise ValueError(
        f"got weights {', '.join(weights) or 'none'}, which tell no registered class ({', '.join(_registered)}); "
        "call load on the class itself"
    )


def _build(cls: type[P], arguments: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> P:
    """Make an instance with these weights.

    Arguments are inferred first, so that a wrong argument is refused before memory is allocated for it.
    """
    signature = inspect.Signature(list(inspect.signature(cls.__init__).parameters.values())[1:])
    teller = next(base for base in cls.__mro__ if "infer_arguments" in vars(base))
    inferred = {}
    if cls.__init__ is teller.__init__:  # not so for a subclass with its own constructor
        inferred = _each(
            cls.infer_arguments({name: array.shape for name, array in weights.items()}), arguments.get("history", 1)
        )
    for name, value in inferred.items():
        if arguments.get(name) not in (None, value):
            raise ValueError(
                f"got {name} {reprlib.repr(arguments[name])}, but the weights are those of {value!r}; save the policy anew"
            )
    arguments = {**arguments, **inferred}
    for name in arguments:
        if name not in signature.parameters:
            raise ValueError(f"{cls.__name__} takes no argument {name!r}: {nearest(name, signature.parameters)}")
    bound = inspect.BoundArguments(
        signature, {name: arguments[name] for name in signature.parameters if name in arguments}
    )
    try:
        policy = cls(*bound.args, **bound.kwargs)
        tensors = get_state_dict(policy)
    except Exception as error:  # a user's constructor may raise anything
        raise ValueError(
            f"{cls.__name__} cannot be built from the recorded arguments {reprlib.repr(arguments)}: {error}"
        ) from error
    if set(tensors) != set(weights):
        raise ValueError(f"got weights {sorted(weights)}; {cls.__name__} has {sorted(tensors)}")
    for name, tensor in tensors.items():
        if tensor.shape != weights[name].shape:
            raise ValueError(f"got {name} of shape {weights[name].shape}; {cls.__name__} has {tuple(tensor.shape)}")
    _set_weights(tensors, weights)
    return policy


def _each(inferred: Mapping[str, Any], history: Any) -> dict[str, Any]:
    """Return inferred arguments with obs_dim as the width of one of history observations.

    Raises ValueError for a history that does not fit the weights.
    """
    width = inferred.get("obs_dim", 0)
    if isinstance(history, bool) or not isinstance(history, int) or history < 1 or width % history:
        raise ValueError(
            f"got history {reprlib.repr(history)}, but the weights read {width} numbers; expected how many observations "
            "these are"
        )
    return {**inferred, "obs_dim": width // history} if width else dict(inferred)


def _rebuild(cls: type[P], arguments: tuple[tuple, dict], weights: Mapping[str, np.ndarray]) -> P:
    """Make a copy of a policy from its constructor's positional and keyword arguments, and its weights."""
    policy = cls(*arguments[0], **arguments[1])
    _set_weights(get_state_dict(policy), weights)
    return policy


def _set_weights(tensors: Mapping[str, Tensor], weights: Mapping[str, np.ndarray]) -> None:
    """Give tensors new values of the same shapes.

    Raises ValueError unless they are finite, TypeError for another kind of number.
    """
    for name, tensor in tensors.items():
        with np.errstate(over="ignore"):
            # bfloat16 is saved as float32.
            array = weights[name].astype(tensor.dtype.fmt or np.float32, casting="same_kind")
        check_finite({name: array}, "weights")
        tensor.replace(Tensor(array, device=tensor.device).cast(tensor.dtype).contiguous())
    if tensors:
        Tensor.realize(*tensors.values())
