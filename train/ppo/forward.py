"""The forward pass of a policy, for collection; the learner and every collecting worker have one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from tinygrad import Tensor, TinyJit, dtypes
from tinygrad.dtype import DType
from tinygrad.nn import Linear
from tinygrad.nn.state import get_state_dict

from rfx.nn import ActorCritic, CategoricalActorCritic, PrivilegedActorCritic, TrainablePolicy, kernels
from rfx.nn.dense import Inference
from rfx.robot.state import Array
from train.ppo.categorical import log_softmax

# The classes that the kernels can compute. A subclass may compute anything, so it does not count.
KERNEL_POLICIES = (ActorCritic, PrivilegedActorCritic, CategoricalActorCritic)


class Forward:
    """The forward pass of a policy, with continuous or discrete actions.

    rfx's own networks run in C kernels. There, a row's result is the same, bit for bit, however many rows are computed
    together. Any other network runs in plain tinygrad. Raises ValueError for weights that are not float32.
    """

    def __init__(self, policy: TrainablePolicy):
        self.policy, self.parameters = policy, get_state_dict(policy)
        self.categorical = policy.chooses
        own_memory(self.parameters)
        kernels_fit = type(policy) in KERNEL_POLICIES and kernels.usable(*self.parameters.values())
        self._uses_kernels = kernels_fit and kernels.compile_kernels()
        # For each number of rows: the input arrays, and the function that computes the output
        self._inference: dict[int, tuple[list[Array], Callable[[], Array]]] = {}

    def weights(self) -> dict[str, Array]:
        """The policy's parameters by name, copied."""
        return {name: tensor.numpy().copy() for name, tensor in self.parameters.items()}

    def take(self, weights: Mapping[str, Array]) -> None:
        """Copy these weights into the policy."""
        for name, tensor in self.parameters.items():
            upload(tensor, weights[name])

    def act(self, *inputs: Array) -> tuple[Array, Array]:
        """Compute the mean action (N, A), in [-1, 1], and the value (N,).

        inputs are observations (N, D), and a privileged critic's observations (N, P) if there is one. A categorical
        policy gives the log-probability of each of its A choices in place of the mean. It compiles once for each N.
        """
        num_rows = len(inputs[0])
        if num_rows not in self._inference:
            given = [np.empty(array.shape, np.float32) for array in inputs]
            self._inference[num_rows] = (
                given,
                (self._kernel_inference(given) if self._uses_kernels else self._plain_inference(given)),
            )
        given, infer = self._inference[num_rows]
        for own, array in zip(given, inputs, strict=True):
            own[...] = array
        output = infer()
        return (log_softmax if self.categorical else np.tanh)(output[:, :-1]), output[:, -1].copy()

    def _plain_inference(self, given: list[Array]) -> Callable[[], Array]:
        tensors = [allocate(*array.shape) for array in given]
        forward = TinyJit(lambda: self.policy.output(*tensors).realize())

        def infer() -> Array:
            for tensor, array in zip(tensors, given):
                upload(tensor, array)
            return forward().numpy()

        return infer

    def _kernel_inference(self, given: list[Array]) -> Callable[[], Array]:
        output = np.empty((len(given[0]), self.policy.act_dim + 1), np.float32)
        passes = [
            Inference(x, *layer_memory(layers), num_hidden, output[:, columns], self.policy.activation)
            for x, layers, num_hidden, columns in self._networks(*given)
        ]

        def infer() -> Array:
            for forward in passes:
                forward()
            return output

        return infer

    def _networks(
        self, observation: Array, critic_observation: Array | None = None
    ) -> list[tuple[Array, list[Linear], int, slice]]:
        """The networks that make up the policy's output.

        Each is (input, layers with the hidden ones before the heads, number of hidden layers, output columns).
        """
        policy, num_actions = self.policy, self.policy.act_dim
        if not isinstance(policy, PrivilegedActorCritic):
            layers = [*policy.backbone, policy.actor_head, policy.critic_head]
            return [(observation, layers, len(policy.backbone), slice(None))]
        return [
            (observation, [*policy.backbone, policy.actor_head], len(policy.backbone), slice(num_actions)),
            (critic_observation, policy.critic, len(policy.critic) - 1, slice(num_actions, None)),
        ]


def own_memory(parameters: Mapping[str, Tensor]) -> None:
    """Give every parameter its own memory, which training writes.

    Parameters of tinygrad's layers may be constants, or not drawn yet. Raises ValueError for one that is not float32.
    """
    others = [f"{name} of {tensor.dtype.name}" for name, tensor in parameters.items() if tensor.dtype != dtypes.float32]
    if others:
        raise ValueError(
            f"got weights {', '.join(others)}; expected float32: training moves every Tensor that a policy holds"
        )
    for tensor in parameters.values():
        if not (tensor.uop.has_buffer_identity() and tensor.uop.is_realized):
            tensor.replace(tensor.clone().realize())


def layer_memory(layers: list[Linear]) -> tuple[list[Array], list[Array]]:
    """The memory of the layers' weights, and of their biases."""
    return [kernels.memory(layer.weight) for layer in layers], [kernels.memory(layer.bias) for layer in layers]


def allocate(*shape: int, dtype: DType = dtypes.float32) -> Tensor:
    """Make a tensor with its own memory, for `upload`."""
    tensor = Tensor.empty(*shape, dtype=dtype).realize()
    tensor.uop.buffer.ensure_allocated()
    return tensor


def upload(target: Tensor, array: Array) -> None:
    """Overwrite a realized tensor's data, in place, with an array of its shape."""
    values = np.ascontiguousarray(array, np.int32 if target.dtype == dtypes.int32 else np.float32)
    if target.device == "CPU":
        kernels.memory(target)[...] = values
    else:
        target.assign(Tensor(values, device=target.device)).realize()
