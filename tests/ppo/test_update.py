"""PPO's update against a float64 NumPy one, on both paths; the learning rate, skipped steps, and going on from a saved
state.
"""

import dataclasses
import math

import network_reference
import numpy as np
import pytest
from tinygrad import Tensor, dtypes

from rfx.nn import ActorCritic, CategoricalActorCritic, PrivilegedActorCritic
from rfx.system.compiler import ensure_compiler
from train.bench import learner as learner_benchmark
from train.ppo import forward, update
from train.ppo.config import PPOConfig
from train.ppo.forward import Forward, allocate, upload
from train.ppo.losses import Minibatch
from train.ppo.rollout import Rollout
from train.ppo.update import PPO, rows_kernel, take_rows

T, N, D, A = 6, 16, 10, 3


@pytest.fixture(params=["kernels", "plain"])
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setenv("RFX_PLAIN", "1")
    return request.param


def learner(seed=0, **options):
    policy = ActorCritic(D, A, [24, 17], rng=np.random.default_rng(seed))
    return PPO(policy, PPOConfig(**({"num_epochs": 2, "num_minibatches": 2} | options)), T * N)


def filled_rollout(ppo, seed=0):
    """A rollout of what this policy does on random observations, rewarded for its first action."""
    rng, rollout = np.random.default_rng(seed), Rollout.empty(T, N, D, A)
    std = np.exp(ppo.policy.log_std.numpy())
    for t in range(T):
        rollout.observation[t] = rng.standard_normal((N, D))
        rollout.mean[t], rollout.value[t] = ppo.act(rollout.observation[t])
        noise = rng.standard_normal((N, A))
        rollout.action[t] = rollout.mean[t] + std * noise
        rollout.log_prob[t] = -0.5 * (noise**2).sum(axis=1) - np.log(std).sum() - 0.5 * A * np.log(2.0 * np.pi)
    rollout.advantage[:] = rollout.action[..., 0] + rng.standard_normal((T, N))
    rollout.returns[:] = rollout.observation[..., 0] * 2.0
    return rollout


def numpy_update(parameters, rollout, rng, config):
    """The update in float64, from the definition. parameters by name; returns them, the metrics' means and the learning
    rate.
    """
    parameters = {name: array.astype(np.float64) for name, array in parameters.items()}
    first, second = ({name: np.zeros_like(array) for name, array in parameters.items()} for _ in range(2))
    flat = {f: getattr(rollout, f).reshape(T * N, -1).astype(np.float64) for f in ("observation", "action", "mean")}
    flat |= {f: getattr(rollout, f).reshape(T * N).astype(np.float64) for f in ("log_prob", "advantage", "returns")}
    old_log_std, rate, step, sums = parameters["log_std"].copy(), config.learning_rate, 0, np.zeros(6)
    orders = [rng.permutation(T * N) for _ in range(config.num_epochs)]
    for rows in np.concatenate(orders).reshape(config.num_epochs * config.num_minibatches, -1):
        b = {name: array[rows] for name, array in flat.items()}
        names = ["backbone.0", "backbone.1", "actor_head", "critic_head"]
        weights, biases = ([parameters[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        weights, biases = [*weights[:2], np.concatenate(weights[2:])], [*biases[:2], np.concatenate(biases[2:])]
        activations = network_reference.forward(b["observation"], weights, biases)
        mean, value, log_std = np.tanh(activations[-1][:, :A]), activations[-1][:, A], parameters["log_std"]
        z = (b["action"] - mean) / np.exp(log_std)
        ratio = np.exp((-0.5 * z**2 - log_std - 0.5 * np.log(2.0 * np.pi)).sum(axis=1) - b["log_prob"])
        gain, bounded = ratio * b["advantage"], np.clip(ratio, 1.0 - config.clip, 1.0 + config.clip) * b["advantage"]
        quadratic = (np.exp(2 * old_log_std) + (b["mean"] - mean) ** 2) / (2.0 * np.exp(2 * log_std))
        kl = (log_std - old_log_std + quadratic - 0.5).sum(axis=1).mean()
        entropy = (log_std + 0.5 * np.log(2.0 * np.pi * np.e)).sum()
        clip_fraction = (np.abs(ratio - 1.0) > config.clip).mean()
        terms = [-np.minimum(gain, bounded).mean(), ((value - b["returns"]) ** 2).mean(), entropy, kl, clip_fraction]

        count = len(rows)
        d_log_prob = np.where(gain <= bounded, -gain, 0.0)[:, None] / count
        d_output = np.concatenate(
            (
                d_log_prob * z / np.exp(log_std) * (1.0 - mean**2),
                (2.0 * config.value_coefficient / count * (value - b["returns"]))[:, None],
            ),
            axis=1,
        )
        _, d_weights, d_biases = network_reference.backward(activations, weights, d_output)
        gradients = {"log_std": (d_log_prob * (z**2 - 1.0)).sum(axis=0) - config.entropy_coefficient}
        for kind, (one, two, heads) in (("weight", d_weights), ("bias", d_biases)):
            gradients |= {f"{name}.{kind}": g for name, g in zip(names, (one, two, heads[:A], heads[A:]))}
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        sums += [*terms, norm]

        if config.desired_kl is not None and kl > 2.0 * config.desired_kl:
            rate = max(rate / 1.5, 1e-5)
        elif config.desired_kl is not None and kl < 0.5 * config.desired_kl:
            rate = min(rate * 1.5, 1e-2)
        step += 1
        for name, gradient in gradients.items():
            gradient = gradient * min(1.0, config.max_gradient_norm / (norm + 1e-6))
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            parameters[name] -= (
                rate * first[name] / (1.0 - 0.9**step) / (np.sqrt(second[name] / (1.0 - 0.999**step)) + 1e-8)
            )
    return parameters, sums / (config.num_epochs * config.num_minibatches), rate


@pytest.mark.parametrize(
    "options", [{}, {"desired_kl": None, "max_gradient_norm": 0.1}, {"clip": 0.05, "learning_rate": 1e-2}], ids=str
)
def test_an_update_is_the_one_in_numpy(path, options):
    ppo = learner(**options)
    rollout, before = filled_rollout(ppo), {name: t.numpy().copy() for name, t in ppo.parameters.items()}
    metrics = ppo.update(rollout, np.random.default_rng(7))
    expected, sums, rate = numpy_update(before, rollout, np.random.default_rng(7), ppo.config)
    for name, tensor in ppo.parameters.items():
        moved = np.abs(expected[name] - before[name]).max()
        assert moved > 1e-4 and np.abs(tensor.numpy() - expected[name]).max() < 2e-3 * moved, name
    for name, value in zip(("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "gradient_norm"), sums):
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert metrics["learning_rate"] == pytest.approx(rate, rel=1e-6) and metrics["skipped_minibatches"] == 0


@pytest.mark.e2e
def test_the_benchmark_compares_equal_updates():
    """PyTorch's learner in the benchmark goes from the same weights to the same weights."""
    pytest.importorskip("torch")
    config, rollout = PPOConfig(num_epochs=2), learner_benchmark.example_rollout(4, 60)
    sizes = learner_benchmark.OBSERVATION_DIM, learner_benchmark.NUM_ACTIONS, learner_benchmark.HIDDEN
    ours = PPO(ActorCritic(*sizes, rng=np.random.default_rng(0)), config, rollout.reward.size)
    before = ours.state_dict()
    theirs = learner_benchmark.TorchPPO(before, config)
    rate = ours.update(rollout, np.random.default_rng(3))["learning_rate"]
    assert theirs.update(rollout, np.random.default_rng(3)) == pytest.approx(rate, rel=1e-6)
    for name, tensor in ours.parameters.items():
        moved = tensor.numpy() - before[f"policy.{name}"]
        assert np.abs(moved).max() > 1e-4
        assert np.abs(tensor.numpy() - theirs.parameters[name].detach().numpy()).max() < 5e-3 * np.abs(moved).max(), (
            name
        )


def test_updates_follow_the_reward(path):
    ppo = learner(num_epochs=4, desired_kl=0.05)
    observation = np.random.default_rng(1).standard_normal((N, D)).astype(np.float32)
    before = ppo.act(observation)
    losses = [ppo.update(filled_rollout(ppo, seed), np.random.default_rng(seed))["value_loss"] for seed in range(6)]
    after = ppo.act(observation)
    assert after[0][:, 0].mean() > before[0][:, 0].mean() + 0.1
    assert losses[-1] < 0.8 * losses[0]


def test_a_bad_minibatch_changes_nothing_but_its_count(path):
    """One NaN reaches one minibatch of each of two epochs: those are skipped; a rollout of NaN skips all four."""
    ppo = learner()
    rollout = filled_rollout(ppo)
    rollout.advantage[2, 3] = np.nan
    metrics = ppo.update(rollout, np.random.default_rng(0))
    assert metrics.pop("skipped_minibatches") == 2 and np.isfinite(list(metrics.values())).all()
    assert metrics["entropy"] == pytest.approx(
        A * (math.log(0.6) + 0.5 * math.log(2.0 * math.pi * math.e)), rel=0.01
    ), "a mean over two, not four"
    state = ppo.state_dict()
    assert state["adam.state"][0] == 2 and all(np.isfinite(array).all() for array in state.values())
    rollout.observation[:] = np.inf
    assert ppo.update(rollout, np.random.default_rng(0))["skipped_minibatches"] == 4
    assert all(np.array_equal(array, state[name]) for name, array in ppo.state_dict().items())


def test_what_a_single_minibatch_tells_is_its_own(path):
    ppo = learner(num_epochs=1, num_minibatches=1)
    entropy = A * (
        math.log(0.6) + 0.5 * math.log(2.0 * math.pi * math.e)
    )  # of the policy before the step, with the deviation it starts from
    assert ppo.update(filled_rollout(ppo), np.random.default_rng(0))["entropy"] == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize(
    ("desired_kl", "rate", "expected"),
    [
        (1e9, 1e-3, 1e-3 * 1.5**4),
        (1e9, 8e-3, 1e-2),
        (1e-9, 1e-3, 1e-3 / 1.5**2),
        (1e-9, 1.2e-5, 1e-5),
        (None, 1e-3, 1e-3),
    ],
)
def test_the_learning_rate_follows_the_kl_within_its_limits(path, desired_kl, rate, expected):
    """Far below the desired KL each of four steps raises it; far above, three lower it: the first finds the policy
    still the old one.
    """
    ppo = learner(desired_kl=desired_kl, learning_rate=rate)
    assert ppo.update(filled_rollout(ppo), np.random.default_rng(0))["learning_rate"] == pytest.approx(
        expected, rel=1e-5
    )


def test_acting_is_the_network_with_a_squashed_mean(path):
    ppo = learner()
    for rows in (1, N, N, 5):
        observation = np.random.default_rng(rows).standard_normal((rows, D)).astype(np.float32)
        mean, value = ppo.act(observation)
        parameters = {name: t.numpy() for name, t in ppo.parameters.items()}
        hidden = [parameters[f"backbone.{i}.{kind}"] for kind in ("weight", "bias") for i in range(2)]
        for head, got in (("actor_head", np.arctanh(mean.astype(np.float64))), ("critic_head", value[:, None])):
            weights, biases = [*hidden[:2], parameters[f"{head}.weight"]], [*hidden[2:], parameters[f"{head}.bias"]]
            assert got == pytest.approx(network_reference.forward(observation, weights, biases)[-1], abs=2e-6)
        assert mean.dtype == value.dtype == np.float32 and value.shape == (rows,)


def test_a_critic_of_its_own_judges_what_it_alone_sees(path):
    """The critic reads 7 numbers where the actor reads 10."""
    policy = PrivilegedActorCritic(D, A, 7, [24, 17], rng=np.random.default_rng(0))
    acting, rng = Forward(policy), np.random.default_rng(1)
    observation, critic_observation = (rng.standard_normal((9, width)).astype(np.float32) for width in (D, 7))
    mean, value = acting.act(observation, critic_observation)
    parameters = {name: t.numpy() for name, t in acting.parameters.items()}
    for names, x, got in (
        (("backbone.0", "backbone.1", "actor_head"), observation, np.arctanh(mean.astype(np.float64))),
        (("critic.0", "critic.1", "critic.2"), critic_observation, value[:, None]),
    ):
        weights, biases = ([parameters[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        assert got == pytest.approx(network_reference.forward(x, weights, biases)[-1], abs=2e-6)
    with pytest.raises(ValueError):
        acting.act(observation)


def test_kernels_act_and_learn_unless_they_are_turned_off(path, monkeypatch):
    used = []
    for module, name in ((forward, "Inference"), (update, "Training")):
        ours = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, name=name, ours=ours: used.append(name) or ours(*given))
    ppo = learner()
    ppo.update(filled_rollout(ppo), np.random.default_rng(0))
    assert {*used} == ({"Inference", "Training"} if path == "kernels" else set())


def test_a_saved_state_goes_on_bit_for_bit(path):
    whole, halves = learner(), learner()
    for ppo in (whole, halves):
        ppo.update(filled_rollout(ppo, 1), np.random.default_rng(1))
    resumed = learner(seed=5)
    resumed.load_state_dict(halves.state_dict())
    for ppo in (whole, resumed):
        ppo.update(filled_rollout(ppo, 2), np.random.default_rng(2))
    assert all(np.array_equal(array, resumed.state_dict()[name]) for name, array in whole.state_dict().items())


def test_a_foreign_state_is_refused():
    ppo = learner()
    state = ppo.state_dict()
    with pytest.raises(ValueError, match=r"policy\.log_std has shape \(4,\), this one's \(3,\)"):
        ppo.load_state_dict(state | {"policy.log_std": np.zeros(4, np.float32)})
    del state["adam.state"]
    with pytest.raises(ValueError, match=r"differ in \['adam\.state'\]"):
        ppo.load_state_dict(state)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_epochs", 0),
        ("num_minibatches", 2.5),
        ("learning_rate", -1.0),
        ("gamma", 1.1),
        ("clip", float("nan")),
        ("max_gradient_norm", 0.0),
        ("desired_kl", -0.1),
    ],
)
def test_a_number_out_of_range_is_named(option, value):
    with pytest.raises(ValueError, match=f"got {option} {value}"):
        dataclasses.replace(PPOConfig(), **{option: value})


def test_a_rollout_of_another_size_is_refused():
    with pytest.raises(ValueError, match="got a rollout of 5 x 16 samples; this learner was made for 96"):
        learner().update(Rollout.empty(5, 16, D, A), np.random.default_rng(0))


def test_unequal_minibatches_are_refused():
    with pytest.raises(ValueError, match="96 samples does not split into 5 equal minibatches"):
        learner(num_minibatches=5)


RANGES = (
    {"num_epochs": (1, math.inf), "num_minibatches": (1, math.inf), "max_gradient_norm": (1e-9, math.inf)}
    | {name: (0.0, 1.0) for name in ("learning_rate", "gamma", "gae_lambda", "clip", "final_learning_rate")}
    | {name: (0.0, math.inf) for name in ("entropy_coefficient", "value_coefficient", "desired_kl")}
)


@pytest.mark.parametrize(("name", "limits"), RANGES.items())
def test_every_number_has_its_range(name, limits):
    plain = dataclasses.replace(PPOConfig(), desired_kl=None)
    kind, (low, high) = "an integer" if name.startswith("num_") else "a number", limits
    for value in (low, 1 if math.isinf(high) else high):
        assert getattr(dataclasses.replace(plain, **{name: value}), name) == value
    for value in (
        low - 1e-10 if kind == "a number" else 0,
        -1,
        *([] if math.isinf(high) else [1.001]),
        *([1.5] if kind == "an integer" else []),
    ):
        with pytest.raises(ValueError, match=f"^got {name} {value}, expected {kind} from {low:g} to {high:g}$"):
            dataclasses.replace(plain, **{name: value})


def test_a_rate_that_falls_is_led_by_no_kl():
    with pytest.raises(
        ValueError,
        match="^got final_learning_rate 0.0 and desired_kl 0.02: one of the two must be null, because desired_kl leads "
        "the learning rate by itself$",
    ):
        PPOConfig(final_learning_rate=0.0)
    assert PPOConfig(final_learning_rate=0.0, desired_kl=None).final_learning_rate == 0.0


def test_exploration_is_narrowed_and_never_widened():
    ppo = learner()
    upload(ppo.policy.log_std, np.log([0.1, 0.5, 0.9]))
    ppo.limit_std(0.3)
    np.testing.assert_allclose(np.exp(ppo.policy.log_std.numpy()), [0.1, 0.3, 0.3], rtol=1e-6)
    PPO(CategoricalActorCritic(2, 3, [4]), PPOConfig(), 4).limit_std(0.3)  # has none


def test_a_learning_rate_that_is_set_is_gone_on_with(path):
    """Of a learner that no KL leads; how many steps it took stays."""
    ppo = learner(desired_kl=None)
    ppo.update(filled_rollout(ppo), np.random.default_rng(0))
    ppo.set_learning_rate(3e-4)
    assert ppo.state_dict()["adam.state"].tolist() == [4.0, pytest.approx(3e-4)]
    assert ppo.update(filled_rollout(ppo), np.random.default_rng(0))["learning_rate"] == pytest.approx(3e-4)


def test_weights_are_copies_and_are_taken():
    ours, theirs = learner(seed=1), Forward(ActorCritic(D, A, [24, 17], rng=np.random.default_rng(2)))
    weights = ours.weights()
    assert {name: array.shape for name, array in weights.items()} == {
        name: tensor.shape for name, tensor in ours.parameters.items()
    }
    theirs.take(weights)
    observation = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
    expected = ours.act(observation)
    for got, value in zip(theirs.act(observation), expected):
        np.testing.assert_array_equal(got, value)
    weights["log_std"][...] = 9.0
    assert (ours.policy.log_std.numpy() < 9.0).all()
    assert ours.act(observation)[1] is not ours.act(observation)[1], "the caller's own"


def test_what_is_uploaded_is_there_in_the_tensors_type():
    for dtype, kind in ((dtypes.float32, np.float32), (dtypes.int32, np.int32)):
        tensor = allocate(2, 3, dtype=dtype)
        upload(tensor, np.arange(6.0).reshape(3, 2).T)
        assert tensor.numpy().tolist() == [[0, 2, 4], [1, 3, 5]] and tensor.numpy().dtype == kind
    assert allocate(4).dtype == dtypes.float32


@pytest.mark.parametrize("device", ["CPU", "CPU:1"])
@pytest.mark.parametrize(("dtype", "kind"), [(dtypes.float32, np.float32), (dtypes.int32, np.int32)])
def test_what_is_uploaded_takes_the_memory_that_was_there(device, dtype, kind):
    ensure_compiler()  # for tinygrad by itself
    tensor = Tensor.zeros(2, 3, dtype=dtype, device=device).contiguous().realize()
    buffer = tensor.uop.buffer
    for values in (np.arange(6.0).reshape(3, 2).T, np.full((2, 3), 7)):
        upload(tensor, values)
        assert tensor.uop.buffer is buffer and tensor.device == device and tensor.dtype == dtype
        np.testing.assert_array_equal(np.frombuffer(bytes(buffer.as_memoryview()), kind).reshape(2, 3), values)


@pytest.mark.parametrize("num_rows", [5, 256, 700])
def test_a_minibatch_is_the_rows_of_its_place_in_the_order(num_rows):
    """Of three minibatches the third, then none is left; in C, 256 rows at a time."""
    rng, widths = np.random.default_rng(0), [3, 1, 17]
    sources = [rng.standard_normal((3 * num_rows, width)).astype(np.float32) for width in widths]
    order, position = rng.permutation(3 * num_rows).reshape(3, num_rows).astype(np.int32), np.array([2], np.int32)
    taken = [np.empty((num_rows, width), np.float32) for width in widths]
    rows_kernel(num_rows, widths).bind(*taken, position, *sources, order)()
    assert position == 3
    for got, source in zip(taken, sources):
        np.testing.assert_array_equal(got, source[order[2]])


def test_a_minibatch_in_tinygrad_too():
    rng, order = np.random.default_rng(0), np.array([[3, 1], [0, 2]], np.int32)
    arrays = {field.name: rng.standard_normal((4, 2)).astype(np.float32) for field in dataclasses.fields(Minibatch)}
    for names in ([*arrays], [name for name in arrays if name != "critic_observation"]):
        rollout = Minibatch(**{name: Tensor(arrays[name]).realize() for name in names})
        position = Tensor([1], dtype=dtypes.int32).contiguous().realize()
        batch, advance = take_rows(rollout, Tensor(order).realize(), position)
        for name in arrays:
            assert (getattr(batch, name) is None) == (name not in names)
            if name in names:
                np.testing.assert_array_equal(getattr(batch, name).numpy(), arrays[name][[0, 2]])
        assert advance.numpy().tolist() == [2]


def test_a_learner_has_memory_for_what_it_learns_from_alone():
    """Rows of the batch, as wide as the policy's history of observations and its actions."""
    policy = ActorCritic(D, A, [8], history=3, rng=np.random.default_rng(0))
    ppo = PPO(policy, PPOConfig(num_minibatches=2), 8)
    rollout = Rollout.empty(2, 4, D, A, history=3)
    rollout.observation[...] = np.random.default_rng(0).standard_normal(rollout.observation.shape)
    assert ppo.update(rollout, np.random.default_rng(0))["skipped_minibatches"] == 0
    assert ppo.state_dict().keys() == {
        *(f"policy.{name}" for name in ppo.parameters),
        "adam.first_moment",
        "adam.second_moment",
        "adam.state",
    }
