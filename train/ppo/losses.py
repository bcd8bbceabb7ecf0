"""The PPO loss: a pure function of tensors, and its gradient as one kernel on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rfx.nn import kernels
from rfx.nn.kernels import Kernel
from tinygrad import Tensor

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


def ppo_loss(output: Tensor, log_std: Tensor, batch: Minibatch, old_log_std: Tensor, *, clip: float, value_coefficient: float,
             entropy_coefficient: float) -> tuple[Tensor, Tensor]:
    """Clipped surrogate + value_coefficient * mean squared value error - entropy_coefficient * entropy; Schulman et al. 2017, eq. 9.

    output (B, A + 1) is [mean before tanh | value] and log_std (A,) that of the Gaussian now; old_log_std (A,), the batch's.
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
    kl_of_stds = (log_std - old_log_std + 0.5 * (2.0 * (old_log_std - log_std)).exp() - 0.5).sum()  # exactly 0 for equal ones
    kl = kl_of_stds + (0.5 * ((batch.mean - mean) * (-log_std).exp()).square()).sum(axis=1).mean()
    clip_fraction = (ratio != bounded).mean()
    loss = policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy
    return loss, Tensor.stack(policy_loss, value_loss, entropy, kl, clip_fraction, loss).detach()


def ppo_gradient(output: Tensor, log_std: Tensor, batch: Minibatch, old_log_std: Tensor, *, clip: float, value_coefficient: float,
                 entropy_coefficient: float) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of ppo_loss at output (B, A + 1) and at log_std (A,), and its TERMS (6,). Arguments as there."""
    inputs = [batch.action, batch.mean, batch.log_prob, batch.advantage, batch.returns, old_log_std]
    batch_size, num_actions = batch.action.shape
    if kernels.usable(output, log_std, *inputs):
        kernel = gradient_kernel(batch_size, num_actions, clip, value_coefficient, entropy_coefficient)
        if kernels.compile_kernels(kernel):
            d_output, d_log_std, terms = Tensor.empty(*output.shape), Tensor.empty(num_actions), Tensor.empty(len(TERMS))
            return tuple(d_output.custom_kernel(d_log_std, terms, output, log_std, *inputs, fxn=kernel)[:3])
    output, log_std = output.detach(), log_std.detach()  # leaves of their own: the gradient stops here
    loss, terms = ppo_loss(output, log_std, batch, old_log_std, clip=clip, value_coefficient=value_coefficient,
                           entropy_coefficient=entropy_coefficient)
    return (*loss.gradient(output, log_std), terms)


def gradient_kernel(batch_size: int, num_actions: int, clip: float, value_coefficient: float, entropy_coefficient: float) -> Kernel:
    """The kernel that ppo_gradient uses."""
    constants = {"BATCH": batch_size, "ACTIONS": num_actions, "CLIP": f"{float(clip)}f",
                 "VALUE_COEFFICIENT": f"{float(value_coefficient)}f", "ENTROPY_COEFFICIENT": f"{float(entropy_coefficient)}f"}
    return Kernel("ppo_gradient", kernels.program_text("vector.c", Path(__file__).with_name("losses.c"), constants=constants), 11)
