"""Adam by itself, on both paths: when the learning rate moves, which steps are skipped, and tiny gradients."""

import numpy as np
import pytest
from tinygrad import Tensor

from rfx.system.compiler import ensure_compiler
from train.ppo.losses import TERMS
from train.ppo.optimizer import SUMS, Adam

ensure_compiler()  # for tinygrad by itself
SHAPES = (3, 5), (7,)
FINE = {"policy_loss": 0.5, "value_loss": 2.0, "entropy": -1.0, "kl": 0.02, "clip_fraction": 0.25, "loss": 1.5}


@pytest.fixture(params=["kernels", "plain"])
def path(request):
    return request.param


def steps(path, gradients, terms, *, rate=1e-3, max_norm=1.0, desired_kl=None):
    """A step for each of terms, from parameters of 1.

    Returns parameters, state (step, learning rate) and sums by name.
    """
    parameters = [Tensor(np.ones(shape, np.float32)).realize() for shape in SHAPES]
    adam, given, told = (
        Adam(parameters, rate, max_norm, desired_kl),
        [g.copy() for g in gradients],
        np.empty(len(TERMS), np.float32),
    )
    in_c = adam.bind(given, told) if path == "kernels" else None
    for values in terms:
        told[:] = [values[name] for name in TERMS]
        in_c() if in_c else Tensor.realize(*adam.step([Tensor(g) for g in given], Tensor(told)))
    return [p.numpy().copy() for p in parameters], adam.state.numpy(), dict(zip(SUMS, adam.sums.numpy().tolist()))


def gradients(norm=1.0):
    """Of this norm together."""
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal(shape) for shape in SHAPES]
    return [(norm / np.sqrt(sum((d**2).sum() for d in drawn)) * d).astype(np.float32) for d in drawn]


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (0.126, 1 / 1.5),
        (0.125, 1.0),
        (0.12, 1.0),
        (0.05, 1.0),
        (0.033, 1.0),
        (0.03125, 1.0),
        (0.031, 1.5),
        (1.0, 1 / 1.5),
        (0.0, 1.5),
    ],
)
def test_the_rate_moves_beyond_twice_and_half_the_desired_kl(path, kl, factor):
    """Desired 1/16, so that 1/8 and 1/32 are exact: there it stays."""
    assert steps(path, gradients(), [FINE | {"kl": kl}], desired_kl=0.0625)[1].tolist() == [
        1.0,
        pytest.approx(1e-3 * factor, rel=1e-6),
    ]
    assert steps(path, gradients(), [FINE | {"kl": kl}])[1].tolist() == [1.0, pytest.approx(1e-3, rel=1e-6)], (
        "led by no KL"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_skipped_and_leaves_the_sums(path, bad):
    parameters, state, sums = steps(path, gradients(0.5), [FINE, FINE | {"loss": bad}, FINE])
    expected, expected_state, two = steps(path, gradients(0.5), [FINE, FINE])
    assert (
        all(np.array_equal(a, b) for a, b in zip(parameters, expected))
        and state.tolist() == expected_state.tolist()
        and state[0] == 2.0
    )
    assert sums == two | {"skipped_minibatches": 1.0} and two["skipped_minibatches"] == 0.0
    assert two == pytest.approx(
        {name: 2.0 * FINE[name] for name in TERMS[:-1]} | {"gradient_norm": 1.0, "skipped_minibatches": 0.0}
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_skipped(path, bad):
    given = gradients()
    given[1][3] = bad
    parameters, state, sums = steps(path, given, [FINE] * 3, desired_kl=1.0)
    assert all((p == 1.0).all() for p in parameters) and state.tolist() == [0.0, pytest.approx(1e-3)]
    assert sums == dict.fromkeys(SUMS, 0.0) | {"skipped_minibatches": 3.0}


@pytest.mark.parametrize("name", ["policy_loss", "value_loss", "entropy", "clip_fraction"])
def test_the_loss_alone_decides(path, name):
    """A term that is not finite in a loss that is: of a coefficient of zero."""
    assert steps(path, gradients(), [FINE | {name: np.inf}])[1][0] == 1.0


@pytest.mark.parametrize("norm", [5e-7, 1e-3, 0.9, 1.1, 100.0])
def test_the_first_step_is_the_rate_against_each_gradient(path, norm):
    """Kingma and Ba 2015: both moments' bias corrected, the first is g / (|g| + 1e-8); g cut to a norm of 1."""
    given = gradients(norm)
    for got, g in zip(steps(path, given, [FINE])[0], given):
        g = g.astype(np.float64) * min(1.0, 1.0 / norm)
        np.testing.assert_allclose(got, 1.0 - 1e-3 * g / (np.abs(g) + 1e-8), atol=2e-7)


def test_equal_gradients_keep_the_step(path):
    """Ten steps of one gradient go ten times as far as one."""
    once, ten = (steps(path, gradients(0.5), [FINE] * n)[0] for n in (1, 10))
    for a, b in zip(once, ten):
        np.testing.assert_allclose(1.0 - b, 10.0 * (1.0 - a), rtol=2e-4)
