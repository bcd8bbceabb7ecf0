"""The PPO loss: a pure function of tensors, and its gradient as a kernel on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tinygrad import Tensor

from rfx.nn import kernels
from rfx.nn.kernels import Kernel

BLOCK = 512  # rows of a minibatch that one thread takes at a time
TERMS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "loss")


@dataclass(frozen=True, kw_only=True)
class Minibatch:
    """What the old policy saw and did, and how well that went. Tensors, float32."""

    observation: Tensor  # (B, D)
    action: Tensor  # (B, A), the sample, before any clipping
    mean: Tensor  # (B, A), of the Gaussian it came from
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
    """Clipped surrogate + value_coefficient * mean squared value error - entropy_coefficient * entropy; Schulman et al.
    2017, eq. 9.

    output (B, A + 1) is [mean before tanh | value] and log_std (A,) that of the Gaussian now; old_log_std (A,), the
    batch's.
    Returns the loss () and its TERMS (6,): means over the batch, kl being the analytic KL(old || new).
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
    kl_of_stds = (
        log_std - old_log_std + 0.5 * (2.0 * (old_log_std - log_std)).exp() - 0.5
    ).sum()  # exactly 0 for equal ones
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
    """The gradient of ppo_loss at output (B, A + 1) and at log_std (A,), and its TERMS (6,). Arguments as there."""
    output, log_std = output.detach(), log_std.detach()  # leaves of their own: the gradient stops here
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
    """The gradient of ppo_loss at output and log_std, and its TERMS, in C, for a minibatch of batch_size; losses.c says
    what its buffers are.
    """

    batch_size: int
    num_actions: int
    clip: float
    value_coefficient: float
    entropy_coefficient: float

    def partials(self) -> np.ndarray:
        """Memory that it works in."""
        return np.empty((-(-self.batch_size // BLOCK), self.num_actions + 4), np.float32)

    @property
    def kernel(self) -> Kernel:
        """The kernel."""
        constants = {"BATCH": self.batch_size, "ACTIONS": self.num_actions, "BLOCK": BLOCK} | {
            name.upper(): f"{float(getattr(self, name))}f"
            for name in ("clip", "value_coefficient", "entropy_coefficient")
        }
        return Kernel(
            "ppo_gradient", kernels.program_text("vector.c", Path(__file__).with_name("losses.c"), constants=constants)
        )
