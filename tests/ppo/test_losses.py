"""The PPO loss: its terms against closed forms and integrals, its gradient against differences of a float64 NumPy loss,
on both paths.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygrad import Tensor

from rfx.system.compiler import ensure_compiler
from train.ppo.losses import TERMS, LossKernel, Minibatch, ppo_gradient, ppo_loss

ensure_compiler()  # for tinygrad by itself
COEFFICIENTS = {"clip": 0.2, "value_coefficient": 0.5, "entropy_coefficient": 0.001}


@pytest.fixture(params=["kernels", "plain"])
def path(request):
    return request.param


def example(batch_size, num_actions, seed=0, spread=0.3):
    """Arrays of one minibatch whose ratios lie on both sides of the clip range."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: (spread * rng.standard_normal(shape)).astype(np.float32)  # noqa: E731
    arrays = {
        "output": normal(batch_size, num_actions + 1),
        "log_std": normal(num_actions) - 0.5,
        "old_log_std": normal(num_actions) - 0.5,
        "action": normal(batch_size, num_actions),
        "mean": np.tanh(normal(batch_size, num_actions)),
        "advantage": rng.standard_normal(batch_size).astype(np.float32),
        "returns": normal(batch_size),
    }
    arrays["log_prob"] = (
        log_prob(np.tanh(arrays["output"][:, :-1].astype(np.float64)), arrays["log_std"], arrays["action"])
        + rng.uniform(-0.5, 0.5, batch_size)
    ).astype(np.float32)
    return arrays


def log_prob(mean, log_std, action):
    density = np.exp(-0.5 * ((action - mean) / np.exp(log_std)) ** 2) / (np.exp(log_std) * math.sqrt(2.0 * math.pi))
    return np.log(density).sum(axis=1)


def numpy_loss(output, log_std, action, log_prob_old, advantage, returns):
    """The loss in float64, from the definition."""
    output, log_std = np.asarray(output, np.float64), np.asarray(log_std, np.float64)
    ratio = np.exp(log_prob(np.tanh(output[:, :-1]), log_std, action) - log_prob_old)
    policy_loss = -np.mean(np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage))
    entropy = np.sum(0.5 * np.log(2.0 * np.pi * np.e * np.exp(log_std) ** 2))
    return policy_loss + 0.5 * np.mean((output[:, -1] - returns) ** 2) - 0.001 * entropy


def tensors(arrays):
    batch = {name: Tensor(arrays[name]) for name in ("action", "mean", "log_prob", "advantage", "returns")}
    return (
        Tensor(arrays["output"]).realize(),
        Tensor(arrays["log_std"]).realize(),
        Minibatch(observation=Tensor([[0.0]]), **batch),
        Tensor(arrays["old_log_std"]),
    )


def gradient(arrays, path):
    """d_output, d_log_std and terms."""
    if path == "plain":
        return [t.numpy() for t in ppo_gradient(*tensors(arrays), **COEFFICIENTS)]
    loss = LossKernel(*arrays["action"].shape, **COEFFICIENTS)
    results = [
        np.full_like(arrays["output"], np.nan),
        np.full_like(arrays["log_std"], np.nan),
        np.full(len(TERMS), np.nan, np.float32),
    ]
    names = ("output", "log_std", "action", "mean", "log_prob", "advantage", "returns", "old_log_std")
    loss.kernel.bind(*results, loss.partials(), *(np.ascontiguousarray(arrays[name]) for name in names))()
    return results


def both_terms(arrays, path):
    """TERMS by name, of the plain loss and of the gradient's path."""
    _, plain = ppo_loss(*tensors(arrays), **COEFFICIENTS)
    return [dict(zip(TERMS, terms.tolist())) for terms in (plain.numpy(), gradient(arrays, path)[2])]


def test_terms_of_one_sample_worked_by_hand(path):
    """One action; standard deviations 2 (now) and 1 (before), means 0 and 1, action 2, advantage 3, value 5, target
    2.
    """
    arrays = {
        "output": [[0.0, 5.0]],
        "log_std": [math.log(2.0)],
        "old_log_std": [0.0],
        "action": [[2.0]],
        "mean": [[1.0]],
        "log_prob": [-0.5 - 0.5 * math.log(2.0 * math.pi)],
        "advantage": [3.0],
        "returns": [2.0],
    }
    arrays = {name: np.array(values, np.float32) for name, values in arrays.items()}
    ratio = 0.5  # both densities are exp(-1/2) / sqrt(2 pi), but for the division by the standard deviation
    entropy = 0.5 * math.log(2.0 * math.pi * math.e) + math.log(2.0)
    kl = math.log(2.0) + (1.0 + 1.0) / (2.0 * 4.0) - 0.5
    for terms in both_terms(arrays, path):
        assert terms["policy_loss"] == pytest.approx(-3.0 * ratio, rel=1e-5)
        assert terms["value_loss"] == pytest.approx(9.0, rel=1e-5)
        assert terms["entropy"] == pytest.approx(entropy, rel=1e-5)
        assert terms["kl"] == pytest.approx(kl, rel=1e-5)
        assert terms["clip_fraction"] == 1.0
        assert terms["loss"] == pytest.approx(-1.5 + 0.5 * 9.0 - 0.001 * entropy, rel=1e-5)


def test_kl_and_entropy_are_the_integrals_they_stand_for(path):
    arrays = example(40, 3)
    x = np.linspace(-12.0, 12.0, 20001)

    def density(mean, log_std):
        return np.exp(-0.5 * ((x - mean) / np.exp(log_std)) ** 2) / (np.exp(log_std) * math.sqrt(2.0 * math.pi))

    kl = entropy = 0.0
    for a in range(3):
        old_std, std = arrays["old_log_std"][a].astype(np.float64), arrays["log_std"][a].astype(np.float64)
        now = density(0.0, std)
        entropy -= np.trapezoid(now * np.log(now + 1e-300), x)
        for old_mean, mean in zip(
            arrays["mean"][:, a].astype(np.float64), np.tanh(arrays["output"][:, a].astype(np.float64))
        ):
            old, new = density(old_mean, old_std), density(mean, std)
            kl += np.trapezoid(old * (np.log(old + 1e-300) - np.log(new + 1e-300)), x) / 40
    for terms in both_terms(arrays, path):
        assert terms["kl"] == pytest.approx(kl, rel=1e-4)
        assert terms["entropy"] == pytest.approx(entropy, rel=1e-4)


def test_kl_of_the_policy_with_itself_is_zero_to_the_bit(path):
    arrays = example(100, 12)
    arrays["mean"], arrays["old_log_std"] = np.zeros((100, 12), np.float32), arrays["log_std"]
    arrays["output"][:, :-1] = 0.0
    assert all(terms["kl"] == 0.0 for terms in both_terms(arrays, path))


def check_gradient(arrays, path, seed, tolerance=1e-6):
    """The loss, and its gradient at some entries, against float64; tolerance is the gradient's, absolute, beside 1e-3
    relative.
    """
    d_output, d_log_std, terms = gradient(arrays, path)
    rest = [arrays[name].astype(np.float64) for name in ("action", "log_prob", "advantage", "returns")]
    at = [arrays["output"].astype(np.float64), arrays["log_std"].astype(np.float64)]
    assert terms[TERMS.index("loss")] == pytest.approx(numpy_loss(*at, *rest), abs=3.0 * tolerance)
    for i, got in enumerate((d_output, d_log_std)):
        rng = np.random.default_rng(seed)
        for index in [tuple(rng.integers(0, size) for size in got.shape) for _ in range(12)]:
            step, shifted = 1e-5, [a.copy() for a in at]
            shifted[i][index] += step
            high = numpy_loss(*shifted, *rest)
            shifted[i][index] -= 2 * step
            expected = (high - numpy_loss(*shifted, *rest)) / (2 * step)
            assert got[index] == pytest.approx(expected, abs=tolerance, rel=1e-3)


@settings(
    max_examples=8, deadline=None, derandomize=True
)  # the same shapes every time: their kernels stay in the compiler's cache
@given(st.integers(1, 200), st.integers(1, 17), st.integers(0, 99))
def test_the_kernel_gives_the_gradient_of_the_loss(batch_size, num_actions, seed):
    check_gradient(example(batch_size, num_actions, seed), "kernels", seed)


def test_both_paths_give_the_gradient_of_the_loss(path):
    check_gradient(example(77, 12, 5), path, 5)


@pytest.mark.parametrize("batch_size", [1, 77, 96])
def test_a_narrow_gaussian_of_many_actions_does_not_overflow(path, batch_size):
    """29 actions, standard deviations of 0.01: a density of e^107 at the mean.

    Rows that a vector has room for beyond the batch count for nothing.
    """
    arrays, rng = example(batch_size, 29), np.random.default_rng(1)
    arrays["log_std"] = arrays["old_log_std"] = np.full(29, math.log(0.01), np.float32)
    mean = np.tanh(arrays["output"][:, :-1].astype(np.float64))
    arrays["mean"], arrays["action"] = (
        x.astype(np.float32) for x in (mean, mean + 0.01 * rng.standard_normal(mean.shape))
    )
    arrays["log_prob"] = (
        log_prob(mean, arrays["log_std"].astype(np.float64), arrays["action"]) + rng.uniform(-0.5, 0.5, batch_size)
    ).astype(np.float32)
    check_gradient(arrays, path, 2, tolerance=1e-3)


@pytest.mark.parametrize("batch_size", [333, 1500])  # of one block of rows, and of several
def test_both_paths_agree_on_every_sample(batch_size):
    arrays = example(batch_size, 12)
    for a, b in zip(gradient(arrays, "kernels"), gradient(arrays, "plain")):
        assert np.abs(a - b).max() < 2e-6 * max(1.0, np.abs(b).max())


def test_a_clipped_sample_moves_the_policy_no_further(path):
    """Ratio e^0.5 above the range with a gain, and e^-0.5 below it with a loss: the mean has no gradient; the other way
    round it has.
    """
    arrays = example(4, 2)
    exact = log_prob(np.tanh(arrays["output"][:, :-1].astype(np.float64)), arrays["log_std"], arrays["action"])
    arrays["log_prob"] = (exact - np.array([0.5, -0.5, 0.5, -0.5])).astype(np.float32)
    arrays["advantage"] = np.array([1.0, -1.0, -1.0, 1.0], np.float32)
    d_output = gradient(arrays, path)[0][:, :-1]
    assert not d_output[:2].any() and d_output[2:].all()


@pytest.mark.parametrize("name", ["output", "action", "advantage", "returns", "log_prob"])
def test_a_bad_number_shows_in_the_loss(path, name):
    arrays = example(50, 3)
    arrays[name].reshape(-1)[7] = np.nan
    assert all(not math.isfinite(terms["loss"]) for terms in both_terms(arrays, path))


@pytest.mark.parametrize(("batch_size", "blocks"), [(1, 1), (512, 1), (513, 2), (1024, 2), (1025, 3)])
def test_a_kernel_has_memory_for_each_512_rows(batch_size, blocks):
    """Sums of value loss, policy loss, KL and clipping beside those of every action."""
    partials = LossKernel(batch_size, 12, **COEFFICIENTS).partials()
    assert partials.shape == (blocks, 16) and partials.dtype == np.float32
