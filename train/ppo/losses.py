"""The PPO loss as a pure function of tensors, and its gradient as a kernel for the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tinygrad import Tensor

from rfx.nn import kernels
from rfx.nn.kernels import Kernel

BLOCK = 512  # a thread takes this many rows of a minibatch at a time
TERMS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "loss")


@dataclass(frozen=True, kw_only=True)
class Minibatch:
    """Samples of the old policy: its observations, its actions, and how good they were. Tensors, float32."""

    observation: Tensor  # (B, D)
    action: Tensor  # (B, A), as drawn, before any clipping
    mean: Tensor  # (B, A), of the Gaussian that the action was drawn from
    log_prob: Tensor  # (B,), of the action
    advantage: Tensor  # (B,)
    returns: Tensor  # (B,), value targets
    critic_observation: Tensor | None = None  # (B, P), of a privileged critic


def ppo_loss(
    output: Tensor,
    log_std: Tensor,
    batch: Minibatch,
    old_log_std: Tensor,
    *,
    clip: float,
    value_coefficient: float,
    entropy_coefficient: float,
) -> tuple[Tensor, Tensor]:
    """The PPO loss of Schulman et al. 2017, equation 9.

    Clipped surrogate + value_coefficient * mean squared value error - entropy_coefficient * entropy.
    output (B, A + 1) is [mean before tanh | value]. log_std (A,) is the current Gaussian's, old_log_std (A,) the one
    that drew the batch. Returns the loss () and its TERMS (6,), which are means over the batch; kl is the analytic
    KL(old || new).
    """
    num_actions = log_std.shape[0]
    mean, value = output[:, :num_actions].tanh(), output[:, num_actions]
    z = (batch.action - mean) * (-log_std).exp()
    log_prob = (-0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(axis=1)
    ratio = (log_prob - batch.log_prob).exp()
    bounded = ratio.clip(1.0 - clip, 1.0 + clip)
    policy_loss = -(ratio * batch.advantage).minimum(bounded * batch.advantage).mean()
    value_loss = (value - batch.returns).square().mean()
    entropy = (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum()
    # Exactly 0 for equal standard deviations
    kl_of_stds = (log_std - old_log_std + 0.5 * (2.0 * (old_log_std - log_std)).exp() - 0.5).sum()
    kl = kl_of_stds + (0.5 * ((batch.mean - mean) * (-log_std).exp()).square()).sum(axis=1).mean()
    clip_fraction = (ratio != bounded).mean()
    loss = policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy
    return loss, Tensor.stack(policy_loss, value_loss, entropy, kl, clip_fraction, loss).detach()


def ppo_gradient(
    output: Tensor,
    log_std: Tensor,
    batch: Minibatch,
    old_log_std: Tensor,
    *,
    clip: float,
    value_coefficient: float,
    entropy_coefficient: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ppo_loss at output (B, A + 1) and log_std (A,), and its TERMS (6,); the same arguments."""
    output, log_std = output.detach(), log_std.detach()  # the gradient stops here
    loss, terms = ppo_loss(
        output,
        log_std,
        batch,
        old_log_std,
        clip=clip,
        value_coefficient=value_coefficient,
        entropy_coefficient=entropy_coefficient,
    )
    return (*loss.gradient(output, log_std), terms)


@dataclass(frozen=True)
class LossKernel:
    """The gradients of ppo_loss at output and log_std, and its TERMS, in C, for a minibatch of batch_size.

    losses.c lists the kernel's buffers.
    """

    batch_size: int
    num_actions: int
    clip: float
    value_coefficient: float
    entropy_coefficient: float

    def partials(self) -> np.ndarray:
        """Memory for the kernel's partial sums."""
        return np.empty((-(-self.batch_size // BLOCK), self.num_actions + 4), np.float32)

    @property
    def kernel(self) -> Kernel:
        """The C kernel with its constants."""
        constants = {"BATCH": self.batch_size, "ACTIONS": self.num_actions, "BLOCK": BLOCK} | {
            name.upper(): f"{float(getattr(self, name))}f"
            for name in ("clip", "value_coefficient", "entropy_coefficient")
        }
        return Kernel(
            "ppo_gradient", kernels.program_text("vector.c", Path(__file__).with_name("losses.c"), constants=constants)
        )
