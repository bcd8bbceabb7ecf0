"""The base class of policies: calls compiled for each input shape, and policy folders that know the class and its
arguments.
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

    Every tinygrad Tensor that an attribute holds, directly, in lists or in layers, is a weight; its attribute path is
    its name.
    """

    chooses = False  # True: of the outputs, one for each choice, the largest is the choice
    __slots__ = (
        "_arguments",
        "_compiled",
        "_buffers",
        "__dict__",
        "__weakref__",
    )  # not in __dict__, where tinygrad looks for weights

    def __new__(cls, *args, **kwargs):
        ensure_compiler()
        self = super().__new__(cls)
        self._arguments, self._compiled, self._buffers = (args, kwargs), {}, ()
        return self

    def __init__(self):
        pass

    def __reduce__(
        self,
    ):  # copied and pickled as it is loaded: constructed, then given the weights; a copied Tensor would not train
        return _rebuild, (
            type(self),
            self._arguments,
            {name: tensor.numpy() for name, tensor in get_state_dict(self).items()},
        )

    def forward(self, obs: Tensor) -> Tensor:
        """Observations to actions, differentiable. obs (B, obs_dim) -> (B, act_dim). Raises NotImplementedError unless
        overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward(obs)")

    def __call__(self, obs: Tensor) -> Tensor:
        """Run inference. obs (B, obs_dim) -> (B, act_dim), in memory of its own, without gradient.

        Compiled for each shape from its second call on. Raises TypeError unless obs is a tinygrad Tensor, otherwise as
        `forward`.
        """
        if not isinstance(obs, Tensor):
            raise TypeError(
                f"got {type(obs).__name__}; expected a tinygrad Tensor: pass Tensor(obs), or use rfx.load_policy"
            )
        if weights := self.parameters():
            Tensor.realize(*weights)
        if (
            buffers := tuple(weight.uop.base for weight in weights)
        ) != self._buffers:  # replaced, where training would write in place
            self._compiled, self._buffers = {}, buffers
        key = (obs.shape, obs.dtype, obs.device)
        if key not in self._compiled:
            avoid_deadlock()
            self._compiled[key] = TinyJit(lambda x: self.forward(x).clone())
        if not (
            obs.uop.has_buffer_identity() and obs.uop.is_realized
        ):  # a compiled call takes whole buffers, no views and no constants
            obs = obs.clone().realize()
        return _copy(self._compiled[key](obs))

    def parameters(self) -> list[Tensor]:
        """Every weight, in the order of its name's first appearance."""
        return list(get_state_dict(self).values())

    def save(
        self,
        path: str | Path,
        *,
        robot_config: RobotConfig | None = None,
        normalizer: ObservationNormalizer | None = None,
        training_info: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save as a folder at path that describes itself; an older policy there stays until the new one is whole.

        Returns path.

        Raises ValueError for weights that are not finite, or a robot_config or normalizer that does not fit the policy;
        TypeError for constructor arguments or training_info that JSON cannot hold; FileExistsError where path holds
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
        """The policy in the folder at path, or in a bare .safetensors file whose shapes tell the constructor's
        arguments.

        Called on Policy, the class is the one of the recorded name: a registered one, or else that of the recorded
        module, which is imported; called on a subclass, it is that subclass. No code is run from the folder. Raises
        FileNotFoundError, or ValueError that says what does not fit.
        """
        if Path(path).is_file():
            weights = read_weights(path)
            with naming(path):
                return _build(_class_for(weights) if cls is Policy else cls, {}, weights)
        return cls.from_info(inspect_policy(path))

    @classmethod
    def from_info(cls: type[P], info: PolicyInfo) -> P:
        """The policy whose folder `rfx.inspect_policy` has read. Raises as `load`."""
        weights = info.read_weights()
        with naming(info.path):
            policy = _build(policy_class(info) if cls is Policy else cls, info.arguments, weights)
            check_widths(*policy_widths(policy), info.robot_config, info.normalizer)
        return policy

    @classmethod
    def infer_arguments(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """The constructor arguments that weights of these shapes tell; none unless a subclass knows better.

        Of a class that takes a history, obs_dim is the width of all its observations together: weights do not tell how
        many they are.
        Raises ValueError where no arguments give these weights.
        """
        return {}

    def _named_arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name, random generators left out: what they drew is in the weights."""
        signature = inspect.signature(type(self).__init__)
        arguments = signature.bind(self, *self._arguments[0], **self._arguments[1]).arguments
        return {
            name: value for name, value in list(arguments.items())[1:] if not isinstance(value, np.random.Generator)
        }


def register_policy(cls: type[P]) -> type[P]:
    """Register a policy class under its name, so that `Policy.load` finds it; a class decorator.

    Raises TypeError for anything but a subclass of Policy, ValueError for a name that another class has.
    """
    if not (isinstance(cls, type) and issubclass(cls, Policy)):
        raise TypeError(f"got {cls!r}; expected a subclass of rfx.nn.Policy")
    known = _registered.get(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (
        cls.__module__,
        cls.__qualname__,
    ):  # a class that is defined again replaces itself
        raise ValueError(
            f"the name {cls.__name__} is taken by {known.__module__}.{known.__qualname__}; choose another name"
        )
    _registered[cls.__name__] = cls
    return cls


def registered_policy(name: str) -> type[Policy]:
    """The policy class registered under name. Raises ValueError that names the nearest."""
    if name not in _registered:
        raise ValueError(
            f"no policy class {name!r} is registered; {nearest(name, _registered)}: import the module that defines it, "
            "with @register_policy above the class"
        )
    return _registered[name]


def policy_class(info: PolicyInfo) -> type[Policy]:
    """The class of the policy in a folder: the registered one, or else that of its module, which is imported.

    The module must be importable here, and must not lie in the folder, from which no code is run. Raises ValueError.
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
        if known is not None:  # registered from where the module is now
            return known
        raise ValueError(f"this policy needs its class {path}, and a policy folder holds no code: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Policy)):
        raise ValueError(f"got {path}, which is {cls!r}; expected a subclass of rfx.nn.Policy")
    return cls


def _module_of(cls: type[Policy]) -> str | None:
    """The module that others can import cls from; None for a class of rfx, or one that no module gives by its name."""
    module = cls.__module__
    importable = getattr(sys.modules.get(module), cls.__name__, None) is cls and module != "__main__"
    return module if importable and not module.startswith("rfx.") else None


def _copy(tensor: Tensor) -> Tensor:
    """A copy of a realized tensor; Tensor.clone does the same by scheduling a kernel, ten times slower."""
    source = tensor.uop.buffer
    copy = Buffer(source.device, source.size, source.dtype).allocate()
    if hasattr(copy, "copy_from"):  # tinygrad 0.14 has this in place of copyin
        copy.copy_from(source)
    else:
        copy.copyin(source.as_memoryview(allow_zero_copy=True))
    return Tensor(UOp.from_buffer(copy).reshape(tensor.shape))


def _class_for(weights: Mapping[str, np.ndarray]) -> type[Policy]:
    """The registered class whose arguments these weights tell. Raises ValueError when there is none."""
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
    """An instance with these weights.

    Inferred arguments come first, so that a wrong one is refused before memory is taken for it.
    """
    signature = inspect.Signature(list(inspect.signature(cls.__init__).parameters.values())[1:])
    teller = next(base for base in cls.__mro__ if "infer_arguments" in vars(base))
    inferred = {}
    if cls.__init__ is teller.__init__:  # else a subclass with a constructor of its own
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
    except Exception as error:  # whatever a user's constructor raises
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
    """Inferred arguments, obs_dim that of each of history observations.

    Raises ValueError for a history that the weights do not have.
    """
    width = inferred.get("obs_dim", 0)
    if isinstance(history, bool) or not isinstance(history, int) or history < 1 or width % history:
        raise ValueError(
            f"got history {reprlib.repr(history)}, but the weights read {width} numbers; expected how many observations "
            "these are"
        )
    return {**inferred, "obs_dim": width // history} if width else dict(inferred)


def _rebuild(cls: type[P], arguments: tuple[tuple, dict], weights: Mapping[str, np.ndarray]) -> P:
    """A copy of a policy. arguments are its constructor's, positional and by keyword."""
    policy = cls(*arguments[0], **arguments[1])
    _set_weights(get_state_dict(policy), weights)
    return policy


def _set_weights(tensors: Mapping[str, Tensor], weights: Mapping[str, np.ndarray]) -> None:
    """Give tensors new values of the same shapes.

    Raises ValueError unless they are finite, TypeError for another kind of number.
    """
    for name, tensor in tensors.items():
        with np.errstate(over="ignore"):
            array = weights[name].astype(
                tensor.dtype.fmt or np.float32, casting="same_kind"
            )  # bfloat16 is saved as float32
        check_finite({name: array}, "weights")
        tensor.replace(Tensor(array, device=tensor.device).cast(tensor.dtype).contiguous())
    if tensors:
        Tensor.realize(*tensors.values())
