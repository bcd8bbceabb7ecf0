"""Choices: the loss worked by hand, its gradient against differences of a float64 loss on both paths, draws against
probabilities.
"""

import math

import numpy as np
import pytest
from tinygrad import Tensor

import rfx
from rfx.nn import CategoricalActorCritic, CategoricalMLP, Policy
from rfx.random.streams import Streams
from rfx.system.compiler import ensure_compiler
from train.ppo.categorical import bind_gradient, categorical_gradient, draw, log_softmax
from train.ppo.config import PPOConfig
from train.ppo.losses import TERMS, Minibatch
from train.ppo.rollout import Rollout
from train.ppo.update import PPO

ensure_compiler()
COEFFICIENTS = {"clip": 0.2, "value_coefficient": 0.5, "entropy_coefficient": 0.01}
FIELDS = ("action", "mean", "log_prob", "advantage", "returns")


def gradient(arrays: dict, path: str) -> tuple[np.ndarray, dict[str, float]]:
    """d_output and TERMS by name, in NumPy as the kernels' path has it, or in tinygrad."""
    arrays = {name: np.array(values, np.float32) for name, values in arrays.items()}
    if path == "plain":
        batch = Minibatch(observation=Tensor([[0.0]]), **{name: Tensor(arrays[name]) for name in FIELDS})
        d_output, terms = (
            tensor.numpy() for tensor in categorical_gradient(Tensor(arrays["output"]).realize(), batch, **COEFFICIENTS)
        )
    else:
        d_output, terms = np.full_like(arrays["output"], np.nan), np.full(len(TERMS), np.nan, np.float32)
        bind_gradient(d_output, terms, arrays["output"], *(arrays[name] for name in FIELDS), **COEFFICIENTS)()
    return d_output, dict(zip(TERMS, terms.tolist()))


@pytest.mark.parametrize("path", ["numpy", "plain"])
def test_terms_and_gradient_worked_by_hand(path):
    """Two choices: probabilities 3/4 and 1/4 now, 1/2 each before; the second was drawn, its advantage is -2; value 3,
    target 1.

    The ratio is (1/4) / (1/2) = 0.5, bounded to 0.8. Times -2 that is -1 and -1.6: the lower one counts, -1.6, and
    moves with nothing.
    """
    arrays = {
        "output": [[math.log(3.0), 0.0, 3.0]],
        "action": [[0.0, 1.0]],
        "mean": [[math.log(0.5)] * 2],
        "log_prob": [math.log(0.5)],
        "advantage": [-2.0],
        "returns": [1.0],
    }
    d_output, terms = gradient(arrays, path)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    expected = {
        "policy_loss": 1.6,
        "value_loss": 4.0,
        "entropy": entropy,
        "kl": kl,
        "clip_fraction": 1.0,
        "loss": 1.6 + 2.0 - 0.01 * entropy,
    }
    assert terms == pytest.approx(expected, rel=1e-5)
    d_entropy = -0.75 * (math.log(0.75) + entropy)  # of the first logit; the second's is its negative
    np.testing.assert_allclose(d_output, [[-0.01 * d_entropy, 0.01 * d_entropy, 2.0]], rtol=1e-4)
    d_output, terms = gradient(arrays | {"advantage": [2.0]}, path)  # now the ratio itself counts: 0.5 x 2
    assert terms["policy_loss"] == pytest.approx(-1.0)
    np.testing.assert_allclose(
        d_output[0, :2], [0.75 - 0.01 * d_entropy, -0.75 + 0.01 * d_entropy], rtol=1e-4
    )  # -2 x 0.5 x (0 - 3/4), (1 - 1/4)


@pytest.mark.parametrize("path", ["numpy", "plain"])
def test_the_gradient_is_that_of_differences(path):
    rng, size, choices = np.random.default_rng(0), 50, 3
    old = log_softmax(rng.standard_normal((size, choices)))
    picked = rng.integers(choices, size=size)
    arrays = {
        "output": rng.standard_normal((size, choices + 1)),
        "action": np.eye(choices)[picked],
        "mean": old,
        "log_prob": old[np.arange(size), picked],
        "advantage": rng.standard_normal(size),
        "returns": rng.standard_normal(size),
    }

    def loss(output):
        exponential = np.exp(output[:, :choices])
        probability = exponential / exponential.sum(axis=1, keepdims=True)
        ratio = probability[np.arange(size), picked] / np.exp(arrays["log_prob"])
        gain = np.minimum(ratio * arrays["advantage"], np.clip(ratio, 0.8, 1.2) * arrays["advantage"]).mean()
        entropy = -(probability * np.log(probability)).sum(axis=1).mean()
        return -gain + 0.5 * np.mean((output[:, -1] - arrays["returns"]) ** 2) - 0.01 * entropy

    d_output, terms = gradient(arrays, path)
    assert terms["loss"] == pytest.approx(loss(arrays["output"]), rel=1e-5)
    now = log_softmax(arrays["output"][:, :choices])
    assert terms["kl"] == pytest.approx((np.exp(old) * (old - now)).sum() / size, rel=1e-5)
    assert terms["value_loss"] == pytest.approx(
        ((arrays["output"][:, -1] - arrays["returns"]) ** 2).sum() / size, rel=1e-5
    )
    ratio = np.exp(now - old)[np.arange(size), picked]
    assert (
        terms["clip_fraction"] == pytest.approx(((ratio > 1.2) | (ratio < 0.8)).sum() / size)
        and 0.0 < terms["clip_fraction"] < 1.0
    )
    for row in range(0, size, 7):
        for column in range(choices + 1):
            step = np.zeros_like(arrays["output"])
            step[row, column] = 1e-6
            difference = (loss(arrays["output"] + step) - loss(arrays["output"] - step)) / 2e-6
            assert d_output[row, column] == pytest.approx(difference, rel=1e-3, abs=1e-6)


def test_log_probabilities_of_large_logits_by_hand():
    """exp(1000) overflows, and so does exp(-1000) to 0 where a row is measured by another's largest."""
    np.testing.assert_allclose(
        log_softmax(np.array([[1000.0, 1000.0 + math.log(3.0)], [-1000.0, -1000.0 + math.log(3.0)]])),
        np.log([[0.25, 0.75]] * 2),
        rtol=1e-9,
    )


def test_choices_are_drawn_as_their_probabilities_say():
    probability = np.array([0.5, 0.3, 0.2])
    choice, one_hot, log_prob = draw(np.log(np.tile(probability, (20_000, 1))), Streams(20_000, 0))
    np.testing.assert_allclose(np.bincount(choice) / 20_000, probability, atol=0.012)  # three standard deviations
    np.testing.assert_array_equal(one_hot.argmax(axis=1), choice)
    np.testing.assert_allclose(log_prob, np.log(probability)[choice])
    assert (one_hot.sum(axis=1) == 1.0).all() and one_hot.dtype == np.float32


@pytest.mark.parametrize("path", ["kernels", "plain"])
def test_an_update_makes_a_rewarded_choice_likelier(path, monkeypatch):
    if path == "plain":
        monkeypatch.setenv("RFX_PLAIN", "1")
    policy = CategoricalActorCritic(2, 3, [16], rng=np.random.default_rng(0))
    learner, rng, streams = (
        PPO(policy, PPOConfig(num_epochs=2, num_minibatches=2), 64),
        np.random.default_rng(1),
        Streams(8, 1),
    )
    rollout = Rollout.empty(8, 8, 2, 3)
    rollout.observation[...] = rng.standard_normal(rollout.observation.shape)
    before, _ = learner.act(rollout.observation[0])
    np.testing.assert_allclose(np.exp(before).sum(axis=1), 1.0, rtol=1e-5)
    for t in range(8):
        rollout.mean[t], rollout.value[t] = learner.act(rollout.observation[t])
        choice, rollout.action[t], rollout.log_prob[t] = draw(rollout.mean[t], streams)
        rollout.advantage[t] = np.where(choice == 1, 1.0, -0.5)
    losses = learner.update(rollout, rng)
    after, _ = learner.act(rollout.observation[0])
    assert (after[:, 1] > before[:, 1]).all() and losses["kl"] > 0.0 and losses["skipped_minibatches"] == 0


def test_both_paths_learn_the_same_choices(monkeypatch):
    """Weights move alike to a thousandth of the way: Adam's first steps hardly depend on how large a gradient is, so
    that its sign counts.
    """
    states, losses = [], []
    for plain in ("", "1"):
        monkeypatch.setenv("RFX_PLAIN", plain)
        learner = PPO(
            CategoricalActorCritic(2, 3, [16], rng=np.random.default_rng(0)),
            PPOConfig(num_epochs=2, num_minibatches=2, entropy_coefficient=0.1, clip=0.05),
            64,
        )
        rng, rollout, streams = np.random.default_rng(1), Rollout.empty(8, 8, 2, 3), Streams(8, 1)
        rollout.observation[...] = rng.standard_normal(rollout.observation.shape)
        for t in range(8):
            rollout.mean[t], rollout.value[t] = learner.act(rollout.observation[t])
            _, rollout.action[t], rollout.log_prob[t] = draw(rollout.mean[t], streams)
        rollout.advantage[...], rollout.returns[...] = (rng.standard_normal((8, 8)) for _ in range(2))
        before = learner.weights()
        losses.append(learner.update(rollout, rng))
        states.append({name: array - before[name] for name, array in learner.weights().items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-6)
    for name, moved in states[0].items():
        assert np.abs(moved).max() > 1e-4 and np.abs(moved - states[1][name]).max() < 1e-3 * np.abs(moved).max(), name


def test_a_saved_policy_chooses_as_before(tmp_path):
    actor = CategoricalActorCritic(4, 3, [8], rng=np.random.default_rng(0)).actor()
    assert type(actor) is CategoricalMLP
    actor.save(tmp_path / "policy")
    state = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    logits = Policy.load(tmp_path / "policy").forward(Tensor(state)).numpy()
    np.testing.assert_array_equal(rfx.load_policy(tmp_path / "policy")({"state": state}), logits.argmax(axis=1))
    whole = CategoricalActorCritic(4, 3, [8], rng=np.random.default_rng(0))
    whole.save(tmp_path / "whole")
    np.testing.assert_array_equal(rfx.load_policy(tmp_path / "whole")({"state": state}), logits.argmax(axis=1))
    with pytest.raises(ValueError, match="not finite"):
        rfx.load_policy(tmp_path / "policy")({"state": np.full((1, 4), np.nan, np.float32)})
