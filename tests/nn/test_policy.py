"""Policies: what the networks compute, what a call guarantees, and the classes that users write."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from tinygrad import Tensor, nn
from tinygrad.nn import Linear

from rfx.nn import MLP, ActorCritic, JitPolicy, Policy, go2_actor_critic, go2_mlp, register_policy
from rfx.nn import policy as policy_module


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def observations(rows: int, width: int = 48) -> np.ndarray:
    return rng(7).normal(size=(rows, width)).astype(np.float32)


def numpy_mlp(weights: dict, names: list[str], x: np.ndarray) -> np.ndarray:
    """Linear layers with tanh between them, float64, from arrays by name."""
    for index, name in enumerate(names):
        x = x @ weights[f"{name}.weight"].astype(np.float64).T + weights[f"{name}.bias"]
        x = x if index == len(names) - 1 else np.tanh(x)
    return x


def arrays_of(policy: Policy) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in nn.state.get_state_dict(policy).items()}


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(policy_module, "_registered", dict(policy_module._registered))


@pytest.mark.parametrize("hidden", [None, [16], []])
def test_mlp_is_tanh_layers_under_the_documented_names(hidden):
    policy = MLP(48, 12, hidden, rng=rng())
    sizes = [48, *([256, 256] if hidden is None else hidden), 12]
    weights = arrays_of(policy)
    assert {name: array.shape for name, array in weights.items()} == {
        f"layers.{i}.{kind}": (b, a) if kind == "weight" else (b,)
        for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:]))
        for kind in ("weight", "bias")
    }
    x = observations(5)
    expected = np.tanh(numpy_mlp(weights, [f"layers.{i}" for i in range(len(sizes) - 1)], x))
    np.testing.assert_allclose(policy(Tensor(x)).numpy(), expected, atol=2e-6)


def test_actor_critic_shares_a_backbone_under_the_documented_names():
    policy = ActorCritic(48, 12, [32, 16], rng=rng(), initial_std=0.3)
    weights = arrays_of(policy)
    assert {name for name in weights} == {
        *(
            f"{layer}.{kind}"
            for layer in ("backbone.0", "backbone.1", "actor_head", "critic_head")
            for kind in ("weight", "bias")
        ),
        "log_std",
    }
    x = observations(5)
    mean, value = policy.forward_actor_critic(Tensor(x))
    assert mean.shape == (5, 12) and value.shape == (5, 1)
    np.testing.assert_allclose(
        mean.numpy(), np.tanh(numpy_mlp(weights, ["backbone.0", "backbone.1", "actor_head"], x)), atol=2e-6
    )
    np.testing.assert_allclose(
        value.numpy(), numpy_mlp(weights, ["backbone.0", "backbone.1", "critic_head"], x), atol=2e-6
    )
    np.testing.assert_allclose(weights["log_std"], math.log(0.3), rtol=1e-6)
    np.testing.assert_allclose(policy.forward(Tensor(x)).numpy(), mean.numpy(), atol=1e-7)


def test_log_prob_and_entropy_are_those_of_the_gaussian():
    policy = ActorCritic(6, 3, [8], rng=rng())
    policy.log_std.assign(Tensor([-1.0, 0.0, 0.5])).realize()
    x, action = observations(4, 6), rng(1).normal(size=(4, 3)).astype(np.float32)
    given, log_prob, entropy, value = policy.get_action_and_value(Tensor(x), Tensor(action))
    mean, expected_value = policy.forward_actor_critic(Tensor(x))
    std = np.exp([-1.0, 0.0, 0.5])
    density = np.exp(-0.5 * ((action - mean.numpy()) / std) ** 2) / (std * np.sqrt(2.0 * np.pi))
    np.testing.assert_allclose(log_prob.numpy(), np.log(density).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(
        entropy.numpy(), np.full(4, sum(0.5 * math.log(2.0 * math.pi * math.e * s * s) for s in std)), rtol=1e-6
    )
    np.testing.assert_allclose(value.numpy(), expected_value.numpy()[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(given.numpy(), action)


def test_sampled_actions_have_the_mean_and_width_of_the_gaussian():
    policy = ActorCritic(4, 2, [8], rng=rng(), initial_std=0.5)
    Tensor.manual_seed(0)
    x = Tensor(np.repeat(observations(1, 4), 4000, axis=0))
    action, log_prob, entropy, value = policy.get_action_and_value(x)
    assert [array.shape for array in (action, log_prob, entropy, value)] == [(4000, 2), (4000,), (4000,), (4000,)]
    spread = action.numpy() - policy.forward(x).numpy()
    np.testing.assert_allclose(spread.mean(axis=0), 0.0, atol=4 * 0.5 / math.sqrt(4000))
    np.testing.assert_allclose(spread.std(axis=0), 0.5, rtol=0.05)


def test_gradients_reach_every_weight():
    policy = ActorCritic(6, 3, [8, 8], rng=rng())
    _, log_prob, entropy, value = policy.get_action_and_value(
        Tensor(observations(4, 6)), Tensor(np.full((4, 3), 0.5, np.float32))
    )
    (log_prob.sum() + entropy.sum() + value.sum()).backward()
    assert all(np.abs(weight.grad.numpy()).max() > 0.0 for weight in policy.parameters())


def test_the_actor_alone_computes_the_same_actions_with_weights_of_its_own():
    policy = go2_actor_critic(hidden=[32, 32], rng=rng())
    actor, x = policy.actor(), Tensor(observations(3))
    expected = policy(x).numpy()
    assert type(actor) is MLP and actor.hidden == [32, 32]
    np.testing.assert_allclose(actor(x).numpy(), expected, atol=1e-7)
    policy.actor_head.weight.assign(policy.actor_head.weight + 1.0).realize()
    np.testing.assert_allclose(actor(x).numpy(), expected, atol=1e-7)


def test_equal_generators_make_equal_networks_and_bounds_are_those_of_the_fan_in():
    first, again, other = (arrays_of(ActorCritic(48, 12, rng=rng(seed))) for seed in (3, 3, 4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert (first["backbone.0.weight"] != other["backbone.0.weight"]).any()
    for name, bound in (
        ("backbone.0.weight", 48**-0.5),
        ("backbone.1.bias", 1 / 16),
        ("critic_head.weight", 1 / 16),
        ("actor_head.weight", 0.01 / 16),
    ):
        assert 0.8 * bound < np.abs(first[name]).max() <= bound * (1.0 + 1e-6), name
    np.testing.assert_allclose(first["log_std"], math.log(0.6), rtol=1e-6)


def test_initial_weights_leave_the_global_random_states_alone():
    Tensor.manual_seed(5)
    np.random.seed(5)
    before = Tensor.rand(2).numpy(), np.random.get_state()[1].copy()
    Tensor.manual_seed(5)
    go2_mlp()
    np.testing.assert_array_equal(Tensor.rand(2).numpy(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_go2_sizes():
    assert [layer.weight.shape for layer in go2_mlp().layers] == [(256, 48), (256, 256), (12, 256)]
    assert go2_mlp(hidden=[64]).hidden == [64] and go2_actor_critic(hidden=[64]).actor_head.weight.shape == (12, 64)


# What a call guarantees


class Custom(Policy):
    """As on the documentation page: no arguments, weights straight from tinygrad."""

    def __init__(self):
        self.l1 = Linear(48, 16)
        self.l2 = Linear(16, 12)

    def forward(self, obs: Tensor) -> Tensor:
        return self.l2(self.l1(obs).tanh()).tanh()


@pytest.fixture(params=["MLP", "ActorCritic", "Custom", "JitPolicy"])
def any_policy(request) -> Policy:
    return {
        "MLP": lambda: MLP(48, 12, [16], rng=rng()),
        "ActorCritic": lambda: ActorCritic(48, 12, [16], rng=rng()),
        "Custom": Custom,
        "JitPolicy": lambda: JitPolicy(MLP(48, 12, [16], rng=rng())),
    }[request.param]()


def test_calls_of_mixed_shapes_agree_with_forward_and_keep_their_results(any_policy):
    batches = [observations(rows) * scale for scale in (1.0, -0.5, 2.0, 0.1) for rows in (1, 3)]
    results = [any_policy(Tensor(batch)) for batch in batches]
    for batch, result in zip(batches, results):
        np.testing.assert_allclose(result.numpy(), any_policy.forward(Tensor(batch)).numpy(), atol=1e-6)


def test_views_constants_and_unrealized_tensors_are_fine_as_input():
    policy = MLP(4, 2, [8], rng=rng())
    rows = observations(6, 4)
    whole = Tensor(rows).realize()
    inputs = [
        (whole[2:4], rows[2:4]),
        (whole[::3], rows[::3]),
        (Tensor.zeros(2, 4), np.zeros((2, 4))),
        (Tensor(rows[:2]), rows[:2]),
        (Tensor(rows.T[:, :2].copy()).realize().T, rows[:2]),
        (Tensor(rows[:2].ravel()).realize().reshape(2, 4), rows[:2]),
    ] * 3
    for tensor, expected in inputs:
        actions = np.tanh(numpy_mlp(arrays_of(policy), ["layers.0", "layers.1"], expected))
        np.testing.assert_allclose(policy(tensor).numpy(), actions, atol=1e-6)


def test_calls_see_weights_that_were_trained_replaced_or_copied():
    policy, x = MLP(4, 2, [8], rng=rng()), Tensor(observations(2, 4))
    for _ in range(3):
        policy(x)
    policy.layers[1].bias.assign(policy.layers[1].bias + 1.0)
    np.testing.assert_allclose(policy(x).numpy(), policy.forward(x).numpy(), atol=1e-6)
    other = MLP(4, 2, [8], rng=rng(1))
    duplicate = copy.deepcopy(policy)
    duplicate.layers[1].bias.assign(duplicate.layers[1].bias - 2.0)
    np.testing.assert_allclose(duplicate(x).numpy(), duplicate.forward(x).numpy(), atol=1e-6)
    np.testing.assert_allclose(policy(x).numpy(), policy.forward(x).numpy(), atol=1e-6)
    nn.state.load_state_dict(policy, nn.state.get_state_dict(other), verbose=False)
    np.testing.assert_allclose(policy(x).numpy(), other(x).numpy(), atol=1e-6)
    unpickled = pickle.loads(pickle.dumps(policy))
    np.testing.assert_allclose(unpickled(x).numpy(), policy(x).numpy(), atol=1e-6)


def test_a_policy_that_computes_nothing_can_be_called():
    class Same(Policy):
        def forward(self, obs):
            return obs

    class Constant(Policy):
        def forward(self, obs):
            return Tensor.zeros(obs.shape[0], 2)

    for scale in (1.0, 2.0, 3.0):
        np.testing.assert_array_equal(Same()(Tensor([[scale, 2.0]])).numpy(), [[scale, 2.0]])
        np.testing.assert_array_equal(Constant()(Tensor([[scale, 2.0]])).numpy(), [[0.0, 0.0]])


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda p: p(np.zeros((1, 48), np.float32)), TypeError, "expected a tinygrad Tensor"),
        (lambda p: p({"state": 1}), TypeError, "load_policy"),
        (lambda p: p(Tensor.zeros(1, 47)), ValueError, r"got observations of shape \(1, 47\); expected \(batch, 48\)"),
        (lambda p: p(Tensor.zeros(48)), ValueError, r"\(batch, 48\)"),
        (lambda p: p.get_action_and_value(Tensor.zeros(2, 48), Tensor.zeros(2, 11)), ValueError, r"expected \(2, 12\)"),
        (lambda p: Policy()(Tensor.zeros(1, 2)), NotImplementedError, "forward"),
        (lambda p: MLP(0, 12), ValueError, "positive integers"),
        (lambda p: MLP(48, 12, [1.5]), ValueError, "positive integers"),
        (lambda p: ActorCritic(48, 12, initial_std=0.0), ValueError, "initial_std 0.0"),
        (lambda p: JitPolicy(lambda obs: obs), TypeError, "expected a Policy"),
        (lambda p: register_policy(int), TypeError, "subclass"),
        (lambda p: register_policy(type("MLP", (Policy,), {})), ValueError, "taken by rfx.nn.networks.MLP"),
    ],
)
def test_misuse_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call(ActorCritic(48, 12, [4], rng=rng()))
