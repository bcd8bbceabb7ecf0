"""Policies as tinygrad networks: build, call, save and load them."""

from rfx.system import extras

try:
    import tinygrad  # noqa: F401
except ModuleNotFoundError as error:
    raise extras.missing("rfx.nn", "tinygrad") from error

from rfx.nn.categorical import CategoricalActorCritic, CategoricalMLP
from rfx.nn.networks import MLP, ActorCritic, JitPolicy, PrivilegedActorCritic, go2_actor_critic, go2_mlp
from rfx.nn.policy import Policy, register_policy
from rfx.nn.torch_jit import TorchJitPolicy
from rfx.nn.trainable import TrainablePolicy

__all__ = [
    "MLP",
    "ActorCritic",
    "CategoricalActorCritic",
    "CategoricalMLP",
    "JitPolicy",
    "Policy",
    "PrivilegedActorCritic",
    "TorchJitPolicy",
    "TrainablePolicy",
    "go2_actor_critic",
    "go2_mlp",
    "register_policy",
]
