"""PPO for discrete actions: drawing a choice, and the loss with its gradient.

With discrete actions, a Rollout's action holds choices one-hot, and its mean holds the log-probabilities of all
choices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tinygrad import Tensor

from rfx.random.streams import Streams
from rfx.robot.state import Array
from train.ppo.losses import Minibatch


def log_softmax(logits: Array) -> Array:
    """Turn logits (N, A) into the log-probabilities (N, A) of the choices."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def draw(log_probability: Array, rng: Streams) -> tuple[Array, Array, Array]:
    """Draw a choice from each row of log-probabilities (N, A), by the Gumbel-max trick.

    Returns the choices as indices (N,), the choices one-hot (N, A), and their log-probabilities (N,). The trick adds
    independent Gumbel noise to each log-probability and takes the largest sum.
    """
    choice = (log_probability + rng.gumbel(log_probability.shape)).argmax(axis=1)
    rows = np.arange(len(choice))
    one_hot = np.zeros(log_probability.shape, np.float32)
    one_hot[rows, choice] = 1.0
    return choice, one_hot, log_probability[rows, choice]


def categorical_loss(
    output: Tensor, batch: Minibatch, *, clip: float, value_coefficient: float, entropy_coefficient: float
) -> tuple[Tensor, Tensor]:
    """The loss of `train.ppo.losses.ppo_loss` for discrete actions. output (B, A + 1) is [logits | value].

    Returns the loss () and its TERMS (6,).
    """
    num_actions = batch.action.shape[1]
    log_probability, value = output[:, :num_actions].log_softmax(axis=1), output[:, num_actions]
    ratio = ((batch.action * log_probability).sum(axis=1) - batch.log_prob).exp()
    bounded = ratio.clip(1.0 - clip, 1.0 + clip)
    policy_loss = -(ratio * batch.advantage).minimum(bounded * batch.advantage).mean()
    value_loss = (value - batch.returns).square().mean()
    entropy = -(log_probability.exp() * log_probability).sum(axis=1).mean()
    kl = (batch.mean.exp() * (batch.mean - log_probability)).sum(axis=1).mean()
    clip_fraction = (ratio != bounded).mean()
    loss = policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy
    return loss, Tensor.stack(policy_loss, value_loss, entropy, kl, clip_fraction, loss).detach()


def categorical_gradient(output: Tensor, batch: Minibatch, **coefficients: float) -> tuple[Tensor, Tensor]:
    """The gradient of categorical_loss at output (B, A + 1), and its TERMS (6,). It takes the same arguments."""
    output = output.detach()
    loss, terms = categorical_loss(output, batch, **coefficients)
    return loss.gradient(output)[0], terms


def bind_gradient(
    d_output: Array,
    terms: Array,
    output: Array,
    action: Array,
    old: Array,
    old_log_prob: Array,
    advantage: Array,
    returns: Array,
    *,
    clip: float,
    value_coefficient: float,
    entropy_coefficient: float,
) -> Callable[[], None]:
    """Make a function that computes categorical_gradient in NumPy, and reads and writes these arrays at each call.

    It writes d_output (B, A + 1) and terms (6,). old (B, A) holds the log-probabilities from which action (B, A) was
    drawn. With few choices, a C kernel would not be faster.
    """
    share = np.float32(1.0 / len(output))

    def step() -> None:
        log_probability, error = log_softmax(output[:, :-1]), output[:, -1] - returns
        probability = np.exp(log_probability)
        ratio = np.exp((action * log_probability).sum(axis=1) - old_log_prob)
        bounded = ratio.clip(1.0 - clip, 1.0 + clip)
        free, held = ratio * advantage, bounded * advantage
        entropy = -(probability * log_probability).sum(axis=1)
        # For the log-probability of the choice; the gradient is 0 where the clipped ratio counts.
        d_log_prob = np.where(free > held, np.float32(0.0), -share * free)
        d_output[:, :-1] = d_log_prob[:, None] * (action - probability)
        d_output[:, :-1] += (entropy_coefficient * share) * probability * (log_probability + entropy[:, None])
        d_output[:, -1] = 2.0 * value_coefficient * share * error
        terms[0], terms[1], terms[2] = -np.minimum(free, held).mean(), np.square(error).mean(), entropy.mean()
        terms[3], terms[4] = (np.exp(old) * (old - log_probability)).sum(axis=1).mean(), (ratio != bounded).mean()
        terms[5] = terms[0] + value_coefficient * terms[1] - entropy_coefficient * terms[2]

    return step
