"""PPO on one rollout: epochs of minibatch steps that stay on the device until the update ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfx.nn.dense import mlp
from tinygrad import Tensor, TinyJit
from tinygrad.nn.state import get_state_dict
from train.losses import ppo_loss
from train.rollout import Rollout

METRICS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "gradient_norm", "learning_rate", "skipped_minibatches")
MIN_LEARNING_RATE, MAX_LEARNING_RATE = 1e-5, 1e-2


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """What PPO can be told."""

    num_epochs: int = 5
    num_minibatches: int = 4
    learning_rate: float = 1e-3
    desired_kl: float | None = 0.02  # None: the learning rate stays fixed
    gamma: float = 0.98
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_coefficient: float = 0.001
    value_coefficient: float = 0.5
    max_gradient_norm: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (("num_epochs", 1, np.inf), ("num_minibatches", 1, np.inf), ("learning_rate", 0.0, 1.0),
                                ("gamma", 0.0, 1.0), ("gae_lambda", 0.0, 1.0), ("clip", 0.0, np.inf), ("entropy_coefficient", 0.0, np.inf),
                                ("value_coefficient", 0.0, np.inf), ("max_gradient_norm", 0.0, np.inf), ("desired_kl", 0.0, np.inf)):
            value = getattr(self, name)
            if not (name == "desired_kl" and value is None) and not low <= value <= high:
                raise ValueError(f"PPO {name} is {value}, expected a number from {low} to {high}")


class PPO:
    """The learner: a policy's forward pass for collection, and its update on one rollout."""

    def __init__(self, policy, config: PPOConfig, batch_size: int):
        if batch_size % config.num_minibatches:
            raise ValueError(f"a batch of {batch_size} samples does not split into {config.num_minibatches} equal minibatches")
        self.policy, self.config, self.batch_size = policy, config, batch_size
        self.parameters = get_state_dict(policy)
        for tensor in self.parameters.values():
            tensor.requires_grad = True
        self._first = {name: Tensor(np.zeros(t.shape, np.float32)) for name, t in self.parameters.items()}
        self._second = {name: Tensor(np.zeros(t.shape, np.float32)) for name, t in self.parameters.items()}
        self._step = Tensor(np.zeros(1, np.float32))
        self._learning_rate = Tensor(np.full(1, config.learning_rate, np.float32))
        self._metrics = Tensor(np.zeros(len(METRICS), np.float32))
        Tensor.realize(*self._state().values(), self._metrics)
        self._jit_act, self._jit_minibatch = TinyJit(self._forward), TinyJit(self._minibatch)

    def _forward(self, observation: Tensor) -> Tensor:
        policy = self.policy
        layers = [*policy.backbone]
        head = Tensor.cat(policy.actor_head.weight, policy.critic_head.weight), Tensor.cat(policy.actor_head.bias, policy.critic_head.bias)
        return mlp(observation, [*(layer.weight for layer in layers), head[0]], [*(layer.bias for layer in layers), head[1]])

    def act(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean action (N, A), in [-1, 1], and value (N,) for observations (N, D)."""
        output = self._jit_act(Tensor(np.ascontiguousarray(observation, np.float32)).realize()).numpy()
        return np.tanh(output[:, :-1]), output[:, -1].copy()

    def update(self, rollout: Rollout, rng: np.random.Generator) -> dict[str, float]:
        """Run every epoch on the rollout, in fresh random minibatches. Returns metrics, each a mean over minibatches."""
        config = self.config
        flat = {name: getattr(rollout, name).reshape(self.batch_size, -1) for name in ("observation", "action", "mean")}
        flat |= {name: getattr(rollout, name).reshape(self.batch_size) for name in ("log_prob", "advantage", "returns")}
        old_log_std = Tensor(self.policy.log_std.numpy().copy()).realize()
        self._metrics.assign(Tensor(np.zeros(len(METRICS), np.float32))).realize()
        for _ in range(config.num_epochs):
            for rows in rng.permutation(self.batch_size).reshape(config.num_minibatches, -1):
                self._jit_minibatch({name: Tensor(array[rows]).realize() for name, array in flat.items()}, old_log_std)
        metrics = dict(zip(METRICS, self._metrics.numpy().tolist()))
        count = config.num_epochs * config.num_minibatches
        metrics = {name: value if name == "skipped_minibatches" else value / count for name, value in metrics.items()}
        return metrics | {"learning_rate": float(self._learning_rate.numpy()[0])}

    def _minibatch(self, batch: dict[str, Tensor], old_log_std: Tensor) -> Tensor:
        config, parameters = self.config, self.parameters
        output = self._forward(batch["observation"])
        loss, metrics = ppo_loss(output, self.policy.log_std, batch, old_log_std, clip=config.clip,
                                 value_coefficient=config.value_coefficient, entropy_coefficient=config.entropy_coefficient)
        gradients = dict(zip(parameters, loss.gradient(*parameters.values())))
        norm = sum((g.square().sum() for g in gradients.values()), Tensor(0.0)).sqrt()
        good = loss.isfinite() & norm.isfinite()
        rate = self._learning_rate
        if config.desired_kl is not None:
            kl = metrics["kl"]
            lower, higher = (rate / 1.5).maximum(MIN_LEARNING_RATE), (rate * 1.5).minimum(MAX_LEARNING_RATE)
            rate = (good & (kl > 2.0 * config.desired_kl)).where(lower, (good & (kl < 0.5 * config.desired_kl) & (kl > 0.0)).where(higher, rate))
        step = self._step + good.where(1.0, 0.0)
        scale = (config.max_gradient_norm / (norm + 1e-6)).minimum(1.0)
        new = {self._step: step, self._learning_rate: rate}
        for name, gradient in gradients.items():
            gradient = gradient * scale
            first = 0.9 * self._first[name] + 0.1 * gradient
            second = 0.999 * self._second[name] + 0.001 * gradient.square()
            change = rate * (first / (1.0 - 0.9**step)) / ((second / (1.0 - 0.999**step)).sqrt() + 1e-8)
            new[self._first[name]] = good.where(first, self._first[name])
            new[self._second[name]] = good.where(second, self._second[name])
            new[parameters[name]] = good.where(parameters[name] - change, parameters[name])
        metrics |= {"gradient_norm": norm, "learning_rate": rate.sum(), "skipped_minibatches": good.where(0.0, 1.0)}
        new[self._metrics] = self._metrics + Tensor.stack(*(good.where(metrics[name], 0.0) if name != "skipped_minibatches"
                                                            else metrics[name] for name in METRICS))
        for tensor, value in new.items():
            tensor.assign(value.detach())
        return Tensor.realize(*new)

    def _state(self) -> dict[str, Tensor]:
        state = {f"policy.{name}": tensor for name, tensor in self.parameters.items()}
        state |= {f"first_moment.{name}": tensor for name, tensor in self._first.items()}
        state |= {f"second_moment.{name}": tensor for name, tensor in self._second.items()}
        return state | {"step": self._step, "learning_rate": self._learning_rate}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything an update changes: weights, Adam moments, step and learning rate."""
        return {name: tensor.numpy().copy() for name, tensor in self._state().items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what state_dict returned. Raises ValueError when names or shapes differ."""
        own = self._state()
        if own.keys() != state.keys():
            raise ValueError(f"the learner state has {sorted(state.keys() ^ own.keys())} where it differs from this policy's; load the run it came from")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(f"{name} has shape {state[name].shape}, this policy's is {tensor.shape}")
            tensor.assign(Tensor(np.ascontiguousarray(state[name], np.float32))).realize()
