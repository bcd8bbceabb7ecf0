"""The networks one by one: their weights' names, shapes and beginnings, what they compute against NumPy, and what they
refuse, word by word.
"""

import math
import re

import network_reference
import numpy as np
import pytest
from tinygrad import Tensor
from tinygrad.nn.state import get_state_dict

import rfx
from rfx import inspect_policy
from rfx.nn import (
    MLP,
    ActorCritic,
    CategoricalActorCritic,
    CategoricalMLP,
    JitPolicy,
    Policy,
    PrivilegedActorCritic,
    go2_actor_critic,
    go2_mlp,
)
from rfx.policy.actor import ACTIVATIONS, Actor

OBS, ACT, CRITIC = 5, 3, 4
ALL = {
    "MLP": lambda *hidden, **options: MLP(OBS, ACT, *hidden, **options),
    "ActorCritic": lambda *hidden, **options: ActorCritic(OBS, ACT, *hidden, **options),
    "PrivilegedActorCritic": lambda *hidden, **options: PrivilegedActorCritic(OBS, ACT, CRITIC, *hidden, **options),
    "CategoricalMLP": lambda *hidden, **options: CategoricalMLP(OBS, ACT, *hidden, **options),
    "CategoricalActorCritic": lambda *hidden, **options: CategoricalActorCritic(OBS, ACT, *hidden, **options),
}
kinds = pytest.mark.parametrize("kind", ALL)


def rng(seed=0):
    return np.random.default_rng(seed)


def arrays(policy):
    return {name: tensor.numpy() for name, tensor in get_state_dict(policy).items()}


def shapes(kind, hidden, history=1):
    """Of all weights, from the documented names."""
    trunk = "layers" if kind.endswith("MLP") else "backbone"
    sizes = [OBS * history, *hidden, *([ACT] if trunk == "layers" else [])]
    expected = {f"{trunk}.{i}.weight": (b, a) for i, (a, b) in enumerate(zip(sizes, sizes[1:]))}
    if trunk == "backbone":
        expected["actor_head.weight"] = (ACT, sizes[-1])
    if kind in ("ActorCritic", "CategoricalActorCritic"):
        expected["critic_head.weight"] = (1, sizes[-1])
    if kind == "PrivilegedActorCritic":
        sizes = [CRITIC, *hidden, 1]
        expected |= {f"critic.{i}.weight": (b, a) for i, (a, b) in enumerate(zip(sizes, sizes[1:]))}
    expected |= {name.replace("weight", "bias"): shape[:1] for name, shape in expected.items()}
    return expected | ({"log_std": (ACT,)} if kind in ("ActorCritic", "PrivilegedActorCritic") else {})


def dense(weights, names, x):
    """Linear layers with tanh between them, float64."""
    for name in names[:-1]:
        x = np.tanh(x @ weights[f"{name}.weight"].T.astype(float) + weights[f"{name}.bias"])
    return x @ weights[f"{names[-1]}.weight"].T.astype(float) + weights[f"{names[-1]}.bias"]


@kinds
@pytest.mark.parametrize(("hidden", "history"), [([7, 6], 1), ([6], 2), ([], 3), ([9, 7, 6], 1), (None, 1)])
def test_weights_have_the_documented_names_and_shapes(kind, hidden, history):
    policy = ALL[kind](hidden, history=history, rng=rng())
    assert {name: array.shape for name, array in arrays(policy).items()} == shapes(
        kind, [256, 256] if hidden is None else hidden, history
    )
    assert all(array.dtype == np.float32 for array in arrays(policy).values())
    told = policy.obs_dim, policy.act_dim, policy.hidden, policy.history
    assert (
        told == (OBS, ACT, [256, 256] if hidden is None else hidden, history)
        and type(policy.obs_dim) is type(policy.history) is int
    )
    assert kind != "PrivilegedActorCritic" or policy.critic_dim == CRITIC
    assert ALL[kind]([4]).history == 1


@kinds
def test_weights_begin_uniform_within_the_root_of_their_inputs(kind):
    """Of 200 hidden units the largest is near the bound, the mean near 0; those of an actor's head are a hundred times
    smaller.
    """
    policy = ALL[kind]([200, 200], rng=rng())
    for name, array in arrays(policy).items():
        if name == "log_std":
            np.testing.assert_allclose(array, math.log(0.6), rtol=1e-6)
            continue
        bound = (0.01 if name.startswith("actor_head") else 1.0) / math.sqrt(
            arrays(policy)[name.replace("bias", "weight")].shape[1]
        )
        assert np.abs(array).max() <= bound * (1.0 + 1e-6), name
        if array.size >= 200:
            assert array.max() > 0.95 * bound and array.min() < -0.95 * bound and abs(array.mean()) < 0.15 * bound, name
    again, other = ALL[kind]([200, 200], rng=rng()), ALL[kind]([200, 200], rng=rng(1))
    for name, array in arrays(policy).items():
        np.testing.assert_array_equal(arrays(again)[name], array)
        assert name == "log_std" or (arrays(other)[name] != array).any()
    assert not np.array_equal(*(next(iter(arrays(ALL[kind]([4])).values())) for _ in range(2))), (
        "without a generator, every network is another"
    )


@kinds
def test_networks_compute_what_numpy_does_and_gaussians_are_squashed(kind):
    policy = ALL[kind]([7, 6], history=2, rng=rng())
    x, privileged = (
        rng(1).normal(size=(4, 2 * OBS)).astype(np.float32),
        rng(2).normal(size=(4, CRITIC)).astype(np.float32),
    )
    weights = {name: 3.0 * array for name, array in arrays(policy).items()}  # so that squashing shows
    for name, tensor in get_state_dict(policy).items():
        tensor.assign(Tensor(weights[name])).realize()
    trunk = "layers" if kind.endswith("MLP") else "backbone"
    mean = dense(weights, [f"{trunk}.0", f"{trunk}.1", "layers.2" if trunk == "layers" else "actor_head"], x)
    action = mean if kind.startswith("Categorical") else np.tanh(mean)
    np.testing.assert_allclose(policy.forward(Tensor(x)).numpy(), action, atol=5e-6)
    np.testing.assert_allclose(policy(Tensor(x)).numpy(), action, atol=5e-6)
    if trunk == "layers":
        return
    inputs = [Tensor(x), *([Tensor(privileged)] if kind == "PrivilegedActorCritic" else [])]
    value = (
        dense(weights, ["critic.0", "critic.1", "critic.2"], privileged)
        if kind == "PrivilegedActorCritic"
        else dense(weights, ["backbone.0", "backbone.1", "critic_head"], x)
    )
    np.testing.assert_allclose(policy.output(*inputs).numpy(), np.concatenate((mean, value), axis=1), atol=1e-5)


@kinds
@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_an_activation_is_computed_recorded_and_loaded(kind, activation, tmp_path):
    """By the network, by its actor alone, and by what a robot loads; a folder that says none is of tanh."""
    policy, x = ALL[kind]([7, 6], activation=activation, rng=rng()), rng(1).normal(size=(4, OBS)).astype(np.float32)
    for tensor in policy.parameters():
        tensor.assign(tensor * 3.0).realize()
    weights, trunk = arrays(policy), "layers" if kind.endswith("MLP") else "backbone"
    names = [f"{trunk}.0", f"{trunk}.1", "layers.2" if trunk == "layers" else "actor_head"]
    activations = network_reference.forward(
        x, *([weights[f"{name}.{part}"] for name in names] for part in ("weight", "bias")), activation
    )
    expected = activations[-1] if kind.startswith("Categorical") else np.tanh(activations[-1])
    np.testing.assert_allclose(policy.forward(Tensor(x)).numpy(), expected, atol=5e-6)
    for saved in (policy, policy.actor()) if trunk == "backbone" else (policy,):
        path = saved.save(tmp_path / type(saved).__name__)
        assert inspect_policy(path).arguments["activation"] == Policy.load(path).activation == activation
        np.testing.assert_allclose(Policy.load(path).forward(Tensor(x)).numpy(), expected, atol=5e-6)
        action = rfx.load_policy(path)({"state": x})
        if kind.startswith("Categorical"):
            np.testing.assert_array_equal(action, expected.argmax(axis=1))
        else:
            np.testing.assert_allclose(action, expected, atol=5e-6)
    with pytest.raises(ValueError, match="did you mean 'tanh'"):
        ALL[kind]([4], activation="tan")


def test_without_tinygrad_an_actor_has_the_recorded_activation():
    weights, x = arrays(ActorCritic(OBS, ACT, [6], rng=rng())), np.full((1, OBS), 0.7, np.float32)
    answers = {
        name: Actor.of(weights, "ActorCritic", {} if name is None else {"activation": name})(x)
        for name in (None, *ACTIVATIONS)
    }
    np.testing.assert_array_equal(answers[None], answers["tanh"])
    for name in ACTIVATIONS:
        layers = [[weights[f"{layer}.{part}"] for layer in ("backbone.0", "actor_head")] for part in ("weight", "bias")]
        np.testing.assert_allclose(answers[name], np.tanh(network_reference.forward(x, *layers, name)[-1]), atol=1e-6)
    assert np.isnan(
        Actor.of(weights, "ActorCritic", {"activation": "relu"})(np.full((1, OBS), np.nan, np.float32))
    ).all()
    with pytest.raises(ValueError, match="activation"):
        Actor.of(weights, "ActorCritic", {"activation": "swish"})


def test_a_privileged_critic_has_layers_of_its_own(tmp_path):
    policy = PrivilegedActorCritic(OBS, ACT, CRITIC, [7, 6], critic_hidden=[9], rng=rng())
    assert (policy.hidden, policy.critic_hidden) == ([7, 6], [9]) and arrays(policy)["critic.0.weight"].shape == (
        9,
        CRITIC,
    )
    x, privileged = rng(1).normal(size=(4, OBS)).astype(np.float32), rng(2).normal(size=(4, CRITIC)).astype(np.float32)
    value = policy.output(Tensor(x), Tensor(privileged)).numpy()[:, -1:]
    np.testing.assert_allclose(value, dense(arrays(policy), ["critic.0", "critic.1"], privileged), atol=1e-6)
    assert Policy.load(policy.save(tmp_path / "p")).critic_hidden == [9]
    assert Policy.load(tmp_path / "p" / "model.safetensors").critic_hidden == [9]


def test_the_values_of_rows_without_a_critics_observation_are_zero():
    policy = PrivilegedActorCritic(OBS, ACT, CRITIC, [6], rng=rng())
    x, privileged = rng(1).normal(size=(5, OBS)).astype(np.float32), rng(2).normal(size=(2, CRITIC)).astype(np.float32)
    output = policy.output(Tensor(x), Tensor(privileged)).numpy()
    assert output.shape == (5, ACT + 1) and not output[2:, -1].any()
    np.testing.assert_allclose(output[:2, -1:], dense(arrays(policy), ["critic.0", "critic.1"], privileged), atol=1e-6)


@pytest.mark.parametrize("kind", ["ActorCritic", "PrivilegedActorCritic"])
def test_exploration_starts_from_the_deviation_it_is_given(kind):
    np.testing.assert_allclose(np.exp(arrays(ALL[kind]([4], initial_std=0.25))["log_std"]), 0.25, rtol=1e-6)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"^got initial_std {wrong}; expected a positive finite number$"):
            ALL[kind]([4], initial_std=wrong)


@kinds
@pytest.mark.parametrize("history", [1, 2, 3])
def test_observations_of_another_shape_are_refused(kind, history):
    policy, of = ALL[kind]([4], history=history), f": {history} observations of {OBS}" if history > 1 else ""
    for shape in ((2, OBS * history + 1), (OBS * history,), (1, 2, OBS * history)):
        message = f"got observations of shape {shape}; expected (batch, {OBS * history}){of}"
        for call in (policy.forward, getattr(policy, "output", policy.forward)):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                call(
                    *[Tensor.zeros(*shape), Tensor.zeros(2, CRITIC)][
                        : 2 if kind == "PrivilegedActorCritic" and call != policy.forward else 1
                    ]
                )


def test_a_critics_observation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=rf"^got observations of shape \(2, 3\); expected \(batch, {CRITIC}\)$"):
        PrivilegedActorCritic(OBS, ACT, CRITIC, [4]).output(Tensor.zeros(2, OBS), Tensor.zeros(2, 3))


@kinds
@pytest.mark.parametrize(
    ("hidden", "history", "widths"),
    [
        ([0], 1, [5, 0, 3]),
        ([2.0], 1, [5, 2.0, 3]),
        ([True], 1, [5, True, 3]),
        ([4], 0, [5, 4, 3]),
        ([4], 1.5, [5, 4, 3]),
        ([-4], 1, [5, -4, 3]),
    ],
)
def test_widths_that_cannot_be_are_refused(kind, hidden, history, widths):
    message = f"got layer widths {widths} and history {history!r}; expected positive integers for obs_dim, hidden, act_dim and history"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ALL[kind](hidden, history=history)


def test_a_width_of_one_and_of_numpy_is_a_width():
    assert MLP(np.int64(1), 1, [np.int32(1)]).hidden == [1] and type(MLP(np.int64(1), 1, [1]).obs_dim) is int
    assert arrays(MLP(1, 1, [1]))["layers.0.weight"].shape == (1, 1)


@kinds
@pytest.mark.parametrize("hidden", [[7, 6], [6], []])
def test_shapes_tell_the_arguments(kind, hidden):
    policy_class = type(ALL[kind](hidden))
    critic = {"critic_dim": CRITIC, "critic_hidden": hidden} if kind == "PrivilegedActorCritic" else {}
    expected = {"obs_dim": OBS, "act_dim": ACT, "hidden": hidden} | critic
    assert policy_class.infer_arguments(shapes(kind, hidden)) == expected


def refused(policy_class, of, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        policy_class.infer_arguments(of)


def test_shapes_that_are_of_no_network_are_refused():
    refused(MLP, {}, "got weights none; expected layers.0.weight and so on")
    refused(MLP, {"a": (1,), "b": (2,)}, "got weights a, b; expected layers.0.weight and so on")
    own = shapes("ActorCritic", [7, 6])
    refused(
        ActorCritic,
        own | {"critic_head.weight": (2, 6), "critic_head.bias": (2,)},
        "got critic_head.weight (2, 6) and log_std (3,); expected (1, 6) and (3,)",
    )
    refused(
        ActorCritic, own | {"log_std": (4,)}, "got critic_head.weight (1, 6) and log_std (4,); expected (1, 6) and (3,)"
    )
    own = shapes("CategoricalActorCritic", [7, 6])
    refused(
        CategoricalActorCritic,
        own | {"critic_head.weight": (2, 6), "critic_head.bias": (2,)},
        "got critic_head.weight (2, 6) and log_std None; expected (1, 6) and none",
    )
    refused(
        CategoricalActorCritic,
        own | {"log_std": (3,)},
        "got critic_head.weight (1, 6) and log_std (3,); expected (1, 6) and none",
    )
    own = shapes("PrivilegedActorCritic", [7, 6])
    tail = "; expected one value, and (3,)"
    refused(
        PrivilegedActorCritic,
        own | {"critic.2.weight": (2, 6), "critic.2.bias": (2,)},
        f"got a critic of widths [4, 7, 6, 2] beside an actor of [5, 7, 6, 3] and log_std (3,){tail}",
    )
    refused(
        PrivilegedActorCritic,
        own | {"log_std": (4,)},
        f"got a critic of widths [4, 7, 6, 1] beside an actor of [5, 7, 6, 3] and log_std (4,){tail}",
    )
    refused(
        PrivilegedActorCritic,
        {name: shape for name, shape in own.items() if not name.startswith("critic")},
        f"got a critic of widths [] beside an actor of [5, 7, 6, 3] and log_std (3,){tail}",
    )
    flat = {name: shape for name, shape in shapes("PrivilegedActorCritic", []).items() if name != "log_std"}
    refused(
        PrivilegedActorCritic, flat, f"got a critic of widths [4, 1] beside an actor of [5, 3] and log_std None{tail}"
    )


@pytest.mark.parametrize("kind", ["ActorCritic", "PrivilegedActorCritic", "CategoricalActorCritic"])
def test_heads_that_do_not_fit_the_backbone_are_refused(kind):
    own, policy_class = shapes(kind, [7, 6]), type(ALL[kind]([7, 6]))
    refused(
        policy_class,
        own | {"actor_head.weight": (3, 5)},
        "got actor_head.weight of shape (3, 5) and actor_head.bias of shape (3,); expected (out, 6) and (out,)",
    )
    if kind != "PrivilegedActorCritic":
        refused(
            policy_class,
            own | {"critic_head.weight": (1, 7)},
            "got critic_head.weight of shape (1, 7) and critic_head.bias of shape (1,); expected (out, 6) and (out,)",
        )


@pytest.mark.parametrize("kind", ["ActorCritic", "PrivilegedActorCritic", "CategoricalActorCritic"])
@pytest.mark.parametrize("history", [1, 2])
def test_the_actor_alone_does_the_same_with_weights_of_its_own(kind, history):
    policy, x = (
        ALL[kind]([7], history=history, rng=rng()),
        Tensor(rng(1).normal(size=(4, OBS * history)).astype(np.float32)),
    )
    actor, expected = policy.actor(), policy.forward(x).numpy()
    assert type(actor) is (CategoricalMLP if kind.startswith("Categorical") else MLP)
    assert (actor.obs_dim, actor.act_dim, actor.hidden, actor.history) == (OBS, ACT, [7], history)
    assert actor._named_arguments() == {"obs_dim": OBS, "act_dim": ACT, "hidden": [7]} | (
        {"history": 2} if history == 2 else {}
    )
    for tensor in policy.parameters():
        tensor.assign(tensor * 0.0).realize()
    np.testing.assert_allclose(actor.forward(x).numpy(), expected, atol=1e-7)


def test_an_actors_action_has_a_density_and_an_entropy():
    policy = ActorCritic(OBS, ACT, [6], rng=rng())
    policy.log_std.assign(Tensor([-1.0, 0.2, 0.5])).realize()
    x, action = rng(1).normal(size=(4, OBS)).astype(np.float32), rng(2).normal(size=(4, ACT)).astype(np.float32)
    given, log_prob, entropy, value = (
        tensor.numpy() for tensor in policy.get_action_and_value(Tensor(x), Tensor(action))
    )
    std, mean = np.exp([-1.0, 0.2, 0.5]), np.tanh(dense(arrays(policy), ["backbone.0", "actor_head"], x))
    density = np.exp(-0.5 * ((action - mean) / std) ** 2) / (std * math.sqrt(2.0 * math.pi))
    np.testing.assert_allclose(log_prob, np.log(density).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(entropy, [np.log(std * math.sqrt(2.0 * math.pi * math.e)).sum()] * 4, rtol=1e-6)
    np.testing.assert_allclose(value, dense(arrays(policy), ["backbone.0", "critic_head"], x)[:, 0], atol=1e-6)
    np.testing.assert_array_equal(given, action)
    both = policy.forward_actor_critic(Tensor(x))
    assert [tensor.shape for tensor in both] == [(4, ACT), (4, 1)]
    np.testing.assert_allclose(both[0].numpy(), mean, atol=1e-6)
    with pytest.raises(ValueError, match=r"^got actions of shape \(4, 2\); expected \(4, 3\)$"):
        policy.get_action_and_value(Tensor(x), Tensor(action[:, :2]))


def test_an_action_is_drawn_from_the_gaussian():
    """Standard deviations are measured to 1.1% (0.7 / sqrt(4096)), means to 0.016 of one; noise goes the way of
    tinygrad's draws.
    """
    policy, size = ActorCritic(OBS, ACT, [6], rng=rng()), 4096
    std = np.array([0.1, 1.0, 3.0])
    policy.log_std.assign(Tensor(np.log(std).astype(np.float32))).realize()
    x = Tensor(np.tile(rng(1).normal(size=(1, OBS)), (size, 1)).astype(np.float32))
    Tensor.manual_seed(0)
    action, log_prob, _, _ = policy.get_action_and_value(x)
    mean = policy.forward(x).numpy()
    z = (action.numpy() - mean) / std
    assert np.abs(z.mean(axis=0)).max() < 0.08 and np.abs(z.std(axis=0) - 1.0).max() < 0.06
    np.testing.assert_allclose(
        log_prob.numpy(), (-0.5 * z**2 - np.log(std) - 0.5 * math.log(2.0 * math.pi)).sum(axis=1), rtol=1e-3, atol=1e-3
    )
    Tensor.manual_seed(0)
    np.testing.assert_allclose(z, Tensor.randn(size, ACT).numpy(), atol=1e-3)
    assert not action.sum().gradient(policy.actor_head.weight)[0].numpy().any(), "an action that was drawn is a number"


def test_a_single_observation_has_a_value_of_one_axis():
    value = ActorCritic(OBS, ACT, [6]).get_action_and_value(Tensor.zeros(1, OBS), Tensor.zeros(1, ACT))[3]
    assert value.shape == (1,)


def test_the_go2s_networks_have_48_inputs_and_12_outputs():
    for network, kind in ((go2_mlp, MLP), (go2_actor_critic, ActorCritic)):
        for hidden in (None, [7]):
            policy = network(hidden)
            assert type(policy) is kind and (policy.obs_dim, policy.act_dim, policy.hidden) == (
                48,
                12,
                hidden or [256, 256],
            )
    np.testing.assert_allclose(arrays(go2_actor_critic([4], initial_std=0.25))["log_std"], math.log(0.25), rtol=1e-6)


def test_a_wrapped_policy_is_the_one_inside(tmp_path):
    inside = MLP(OBS, ACT, [6], history=2, rng=rng())
    policy, x = JitPolicy(inside), Tensor(rng(1).normal(size=(4, 2 * OBS)).astype(np.float32))
    assert policy.history == 2 and policy.policy is inside
    np.testing.assert_array_equal(policy.forward(x).numpy(), inside.forward(x).numpy())
    path = policy.save(tmp_path / "p", training_info={"steps": 3})
    assert (
        path == tmp_path / "p" and type(Policy.load(path)) is MLP and inspect_policy(path).training_info == {"steps": 3}
    )
    again = JitPolicy.load(path)
    assert type(again) is JitPolicy
    np.testing.assert_array_equal(again.forward(x).numpy(), inside.forward(x).numpy())
    with pytest.raises(TypeError, match="^got int; expected a Policy to wrap$"):
        JitPolicy(3)
