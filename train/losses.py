"""The PPO loss, as pure functions of tensors."""

from __future__ import annotations

import math

import rfx.nn.compiler  # noqa: F401  (before tinygrad)
from tinygrad import Tensor


def ppo_loss(output: Tensor, log_std: Tensor, batch: dict[str, Tensor], old_log_std: Tensor, *, clip: float,
             value_coefficient: float, entropy_coefficient: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate + value_coefficient * mean squared value error - entropy_coefficient * entropy.

    output (B, A + 1) is [mean before tanh | value]; log_std (A,); batch: action (B, A), mean (B, A), log_prob (B,), advantage (B,),
    returns (B,), all of the old policy, whose log_std is old_log_std (A,). Returns the loss () and metrics (), each a batch mean.
    """
    num_actions = log_std.shape[0]
    mean, value = output[:, :num_actions].tanh(), output[:, num_actions]
    z = (batch["action"] - mean) * (-log_std).exp()
    log_prob = (-0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum(axis=1)
    ratio = (log_prob - batch["log_prob"]).exp()
    advantage = batch["advantage"]
    policy_loss = -(ratio * advantage).minimum(ratio.clip(1.0 - clip, 1.0 + clip) * advantage).mean()
    value_loss = (value - batch["returns"]).square().mean()
    entropy = (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum()
    difference = (batch["mean"] - mean).square()
    kl = (log_std - old_log_std + 0.5 * ((2.0 * old_log_std).exp() + difference) * (-2.0 * log_std).exp() - 0.5).sum(axis=1).mean()
    clip_fraction = ((ratio - 1.0).abs() > clip).mean()
    loss = policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy
    return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy, "kl": kl, "clip_fraction": clip_fraction}
