"""The privileged critic and the symmetric policy: one update against float64 NumPy, what the rollout holds, and
resuming with all of it.
"""

import dataclasses
import random
import signal

import network_reference
import numpy as np
import pytest
from tiny_run import assert_same_run, finish, start

import rfx
from envs.legged.config import EnvConfig
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.nn import ActorCritic, PrivilegedActorCritic
from rfx.robot.mirror import Mirror
from train.ppo.config import PolicyConfig, PPOConfig
from train.ppo.rollout import Rollout
from train.ppo.symmetry import Symmetry
from train.ppo.update import PPO
from train.runs.checkpoint import checkpoints
from train.runs.trainer import Trainer
from train.task.config import TrainConfig

T, N, D, A, P = 6, 16, 10, 4, 7
ALL_ON = {"policy.history": 3, "policy.critic": "privileged", "policy.symmetric": True}
FLIP = np.array(
    [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, -1, 0]], np.float32
)  # of four actions: two pairs, one with signs
FLIP_STATE = np.diag([1, -1, 1, -1, 1, 1, 1, 1, 1, 1]).astype(np.float32)[[0, 1, 2, 3, 5, 4, 6, 7, 9, 8]]


def rng(seed=0):
    return np.random.default_rng(seed)


def learner(critic, symmetric, history=2, seed=0, network=None, **options) -> PPO:
    """network: further arguments of the policy's constructor."""
    hidden = [24, 16] if symmetric else [24, 17]
    sizes = (D, A, P, hidden) if critic == "privileged" else (D, A, hidden)
    kind = PrivilegedActorCritic if critic == "privileged" else ActorCritic
    policy = kind(*sizes, history=history, rng=rng(seed), **(network or {}))
    config = PPOConfig(**{"num_epochs": 2, "num_minibatches": 2, **options})
    return PPO(policy, config, T * N, Symmetry(FLIP_STATE, FLIP, hidden, history) if symmetric else None)


def filled_rollout(ppo, seed=0) -> Rollout:
    """What this policy does on random observations, rewarded for its first action."""
    r, history = rng(seed), ppo.policy.history
    critic_dim = getattr(ppo.policy, "critic_dim", 0)
    rollout = Rollout.empty(T, N, D, A, history=history, critic_dim=critic_dim)
    std = np.exp(ppo.policy.log_std.numpy())
    for name in ("observation", "critic_observation"):
        getattr(rollout, name)[...] = r.standard_normal(getattr(rollout, name).shape)
    for t in range(T):
        inputs = [rollout.observation[t], *([rollout.critic_observation[t]] if critic_dim else [])]
        rollout.mean[t], rollout.value[t] = ppo.act(*inputs)
        noise = r.standard_normal((N, A))
        rollout.action[t] = rollout.mean[t] + std * noise
        rollout.log_prob[t] = -0.5 * (noise**2).sum(axis=1) - np.log(std).sum() - 0.5 * A * np.log(2.0 * np.pi)
    rollout.advantage[:] = rollout.action[..., 0] + r.standard_normal((T, N))
    rollout.returns[:] = rollout.observation[..., 0] * 2.0
    return rollout


def numpy_gradients(p, b, config, old_log_std, privileged, activation="tanh"):
    """Gradients by name, and the KL, of one minibatch, in float64, from the definitions."""
    count = len(b["action"])

    def net(x, names):
        weights, biases = ([p[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        return network_reference.forward(x, weights, biases, activation), weights, names

    def back(through, gradient):
        activations, weights, names = through
        _, d_weights, d_biases = network_reference.backward(activations, weights, gradient, activation)
        return {
            f"{name}.{kind}": g
            for name, *both in zip(names, d_weights, d_biases)
            for kind, g in zip(("weight", "bias"), both)
        }

    trunk = ["backbone.0", "backbone.1"]
    actor = net(b["observation"], [*trunk, "actor_head"])
    critic_names = (
        [name.removesuffix(".bias") for name in p if name.startswith("critic.") and name.endswith("bias")]
        if privileged
        else [*trunk, "critic_head"]
    )
    critic = net(b["critic_observation" if privileged else "observation"], critic_names)
    mean, value, log_std = np.tanh(actor[0][-1]), critic[0][-1][:, 0], p["log_std"]
    z = (b["action"] - mean) / np.exp(log_std)
    ratio = np.exp((-0.5 * z**2 - log_std - 0.5 * np.log(2.0 * np.pi)).sum(axis=1) - b["log_prob"])
    gain, bounded = ratio * b["advantage"], np.clip(ratio, 1.0 - config.clip, 1.0 + config.clip) * b["advantage"]
    quadratic = (np.exp(2 * old_log_std) + (b["mean"] - mean) ** 2) / (2.0 * np.exp(2 * log_std))
    kl = (log_std - old_log_std + quadratic - 0.5).sum(axis=1).mean()
    d_log_prob = np.where(gain <= bounded, -gain, 0.0)[:, None] / count
    d_mean = d_log_prob * z / np.exp(log_std)
    parts = [back(critic, (2.0 * config.value_coefficient / count * (value - b["returns"]))[:, None])]
    parts.append(back(actor, d_mean * (1.0 - mean**2)))
    gradients = {name: sum(part[name] for part in parts if name in part) for name in p if name != "log_std"}
    return gradients | {"log_std": (d_log_prob * (z**2 - 1.0)).sum(axis=0) - config.entropy_coefficient}, kl


def mirrored(name, array):
    """The mirror image of a parameter: of the second half of every hidden layer the first, and of inputs and outputs by
    the flips.
    """

    def swap(values, axis):
        return np.roll(values, values.shape[axis] // 2, axis)

    frames = np.kron(np.eye(2), FLIP_STATE)
    return {
        "backbone.0.weight": lambda w: swap(w @ frames, 0),
        "backbone.1.weight": lambda w: swap(swap(w, 0), 1),
        "actor_head.weight": lambda w: FLIP @ swap(w, 1),
        "critic_head.weight": lambda w: swap(w, 1),
        "actor_head.bias": lambda b: FLIP @ b,
        "critic_head.bias": lambda b: b,
        "log_std": lambda b: np.abs(FLIP) @ b,
    }.get(name, lambda b: swap(b, 0) if name.startswith("backbone") else b)(array)


def numpy_update(p, rollout, r, config, privileged, symmetric, activation):
    """The parameters after the update, in float64."""
    p = {name: array.astype(np.float64) for name, array in p.items()}
    first, second = ({name: np.zeros_like(array) for name, array in p.items()} for _ in range(2))
    flat = {
        f.name: getattr(rollout, f.name).reshape(T * N, *getattr(rollout, f.name).shape[2:]).astype(np.float64)
        for f in dataclasses.fields(rollout)
    }
    old_log_std, rate = p["log_std"].copy(), config.learning_rate
    orders = [r.permutation(T * N) for _ in range(config.num_epochs)]
    for step, rows in enumerate(np.concatenate(orders).reshape(config.num_epochs * config.num_minibatches, -1), 1):
        batch = {name: array[rows] for name, array in flat.items()}
        gradients, kl = numpy_gradients(p, batch, config, old_log_std, privileged, activation)
        if symmetric:
            gradients = {name: 0.5 * (gradient + mirrored(name, gradient)) for name, gradient in gradients.items()}
        rate = (
            max(rate / 1.5, 1e-5)
            if kl > 2 * config.desired_kl
            else min(rate * 1.5, 1e-2)
            if kl < 0.5 * config.desired_kl
            else rate
        )
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        for name, gradient in gradients.items():
            gradient = gradient * min(1.0, config.max_gradient_norm / (norm + 1e-6))
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            p[name] -= rate * first[name] / (1.0 - 0.9**step) / (np.sqrt(second[name] / (1.0 - 0.999**step)) + 1e-8)
    return p


@pytest.mark.parametrize(
    ("critic", "symmetric", "plain", "network"),
    [
        ("privileged", False, False, {}),
        ("shared", True, False, {}),
        ("privileged", True, False, {}),
        ("privileged", True, True, {}),
        ("shared", True, False, {"activation": "elu"}),
        ("privileged", False, False, {"activation": "relu", "critic_hidden": [11]}),
        ("privileged", True, True, {"activation": "elu", "critic_hidden": [11, 9, 5]}),
    ],
)
def test_an_update_is_the_one_in_numpy(monkeypatch, critic, symmetric, plain, network):
    if plain:
        monkeypatch.setenv("RFX_PLAIN", "1")
    ppo = learner(critic, symmetric, network=network)
    rollout, before = filled_rollout(ppo), {name: t.numpy().copy() for name, t in ppo.parameters.items()}
    metrics = ppo.update(rollout, rng(7))
    expected = numpy_update(
        before, rollout, rng(7), ppo.config, critic == "privileged", symmetric, network.get("activation", "tanh")
    )
    for name, tensor in ppo.parameters.items():
        moved = np.abs(expected[name] - before[name]).max()
        assert moved > 1e-4 and np.abs(tensor.numpy() - expected[name]).max() < 2e-3 * moved, name
    assert metrics["skipped_minibatches"] == 0


@pytest.mark.parametrize("critic", ["shared", "privileged"])
def test_a_symmetric_policy_stays_its_own_mirror_image_to_the_bit(critic):
    """Its weights, and with them what it does: the mirrored action for the mirrored observation, and the same value."""
    ppo = learner(critic, True, num_epochs=4, learning_rate=3e-3)
    for seed in range(3):
        ppo.update(filled_rollout(ppo, seed), rng(seed))
    for name, tensor in ppo.parameters.items():
        np.testing.assert_array_equal(mirrored(name, tensor.numpy()), tensor.numpy(), err_msg=name)
    state = rng(1).normal(size=(N, 2, D)).astype(np.float32)
    image = (state @ FLIP_STATE).reshape(N, -1)
    others = [rng(2).normal(size=(N, P)).astype(np.float32)] if critic == "privileged" else []
    (action, value), (image_action, image_value) = ppo.act(state.reshape(N, -1), *others), ppo.act(image, *others)
    assert np.abs(action).max() > 0.05 and np.abs(action[:, 0] - action[:, 1]).max() > 0.05
    np.testing.assert_allclose(image_action, action[:, [1, 0, 3, 2]] * [1, 1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(image_value, value, atol=1e-5)


@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_any_activation_keeps_the_symmetry(activation):
    """Hidden units change places and no signs. The head is made large, so that actions differ."""
    ppo = learner("shared", True, network={"activation": activation})
    ppo.update(filled_rollout(ppo), rng())
    for name, tensor in ppo.parameters.items():
        np.testing.assert_array_equal(mirrored(name, tensor.numpy()), tensor.numpy(), err_msg=name)
    ppo.take({name: array * (100.0 if name == "actor_head.weight" else 1.0) for name, array in ppo.weights().items()})
    state = rng(1).normal(size=(N, 2, D)).astype(np.float32)
    (action, value), (image_action, image_value) = (
        ppo.act(state.reshape(N, -1)),
        ppo.act((state @ FLIP_STATE).reshape(N, -1)),
    )
    assert np.abs(action[:, 0] - action[:, 1]).max() > 0.05 and np.abs(action[:, 2] + action[:, 3]).max() > 0.05
    np.testing.assert_allclose(image_action, action[:, [1, 0, 3, 2]] * [1, 1, -1, -1], atol=1e-5)
    np.testing.assert_allclose(image_value, value, atol=1e-5)


def test_a_symmetric_network_starts_as_widely_as_any_other():
    """Weights are not averaged with their images, which would shrink them by the square root of two."""
    plain, symmetric = (learner("shared", flag, seed=3).parameters for flag in (False, True))
    for name in ("backbone.0.weight", "backbone.1.weight", "critic_head.weight"):
        assert np.std(symmetric[name].numpy()) == pytest.approx(np.std(plain[name].numpy()), rel=0.25)


def test_a_hidden_layer_of_odd_width_has_no_mirror_image():
    with pytest.raises(ValueError, match=r"hidden layers of \[16, 7\] units; expected even numbers"):
        Symmetry(FLIP_STATE, FLIP, [16, 7])


def make_trainer(num_envs=8, randomize=True, ppo=None, **policy) -> Trainer:
    env = dataclasses.asdict(EnvConfig.load("go2", num_envs=num_envs, episode_length_s=0.2, randomize=randomize))
    return Trainer(
        TrainConfig.from_dict(
            {
                "robot": "go2",
                "seed": 1,
                "env": env,
                "policy": {"hidden": [16], **policy},
                "ppo": {"num_epochs": 1, "num_minibatches": 2, **(ppo or {})},
                "trainer": {"rollout_steps": 20},
            }
        )
    )


def test_a_privileged_critic_judges_what_it_was_given_and_bootstraps_from_the_last_true_state():
    trainer = make_trainer(critic="privileged")
    trainer.iterate()
    step, finals = trainer.env.step, []

    def recording_step(action):
        result = step(action)
        finals.append(result[4].get("final_obs"))
        return result

    trainer.env.step = recording_step
    p = {name: tensor.numpy().copy() for name, tensor in trainer.learner.parameters.items()}
    normalizer = trainer.critic_normalizer
    mean, std = normalizer.mean.copy(), np.sqrt(normalizer.var + normalizer.eps)
    names = ["critic.0", "critic.1"]

    def value(rows):
        scaled = ((rows - mean) / std).clip(-10, 10)
        return network_reference.forward(scaled, [p[f"{n}.weight"] for n in names], [p[f"{n}.bias"] for n in names])[
            -1
        ][:, 0]

    trainer.iterate()
    rollout, checked = trainer.rollout, 0
    for t in range(20):
        np.testing.assert_allclose(rollout.value[t], value(rollout.raw_critic_observation[t]), atol=1e-3)
        for i in np.flatnonzero(rollout.truncated[t]):
            assert rollout.bootstrap[t, i] == pytest.approx(value(finals[t][i]["critic"][None])[0], abs=1e-3)
            checked += 1
    assert checked >= 8 and (rollout.bootstrap[~rollout.truncated] == 0).all()
    rows = trainer.rollout.raw_critic_observation.reshape(160, -1)
    assert (
        trainer.critic_normalizer.count == 320
        and rows.shape[1] == trainer.policy.critic_dim == 48 + 3 + 1 + 4 + 4 + 12 + 12 + 1 + 1
    )
    np.testing.assert_allclose(
        trainer.critic_normalizer.mean, 0.5 * mean + 0.5 * rows.mean(axis=0, dtype=np.float64), atol=1e-6
    )


def test_what_a_privileged_run_exports_is_what_a_shared_one_exports(tmp_path):
    """The same kind of folder, of the actor alone; it acts as the policy in training does."""
    trainer = make_trainer(critic="privileged")
    actor = trainer.policy.actor()
    path = actor.save(tmp_path / "p", robot_config=GO2_CONFIG, normalizer=trainer.normalizer)
    shared = make_trainer().policy.actor().save(tmp_path / "q", robot_config=GO2_CONFIG)
    infos = [rfx.inspect_policy(folder) for folder in (path, shared)]
    assert infos[0].arguments == infos[1].arguments and infos[0].weight_shapes == infos[1].weight_shapes
    observation = rng(3).normal(size=(8, 48)).astype(np.float32)
    critic_observation = np.zeros((8, trainer.policy.critic_dim), np.float32)
    decided = trainer.learner.act(observation, critic_observation)[0]
    np.testing.assert_allclose(rfx.load_policy(path)({"state": observation}), decided, atol=2e-6)


def test_normalizing_and_mirroring_commute_in_a_symmetric_run():
    trainer = make_trainer(symmetric=True, history=2)
    trainer.iterate()
    rows, mirror = trainer.rollout.raw_observation.reshape(-1, 48).astype(np.float64), Mirror(GO2_CONFIG)
    both = np.concatenate((rows, mirror.observation(rows)))
    np.testing.assert_allclose(trainer.normalizer.mean, both.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(trainer.normalizer.var, both.var(axis=0), rtol=1e-9, atol=1e-12)
    state = rng(0).normal(size=(5, 48)).astype(np.float32)
    np.testing.assert_array_equal(
        trainer.normalizer.normalize(mirror.observation(state)), mirror.observation(trainer.normalizer.normalize(state))
    )


def test_a_simulation_that_breaks_reaches_nothing_that_is_learned():
    trainer = make_trainer(history=2, critic="privileged", symmetric=True)
    step, count = trainer.env.step, iter(range(100))

    def poisoned_step(action):
        if next(count) == 4:
            trainer.env.simulation.batch.qpos[[1, 6], 9] = np.nan
        return step(action)

    trainer.env.step = poisoned_step
    metrics = trainer.iterate()
    assert metrics["episode/failed_simulations"] == 2 and all(np.isfinite(value) for value in metrics.values())
    assert all(np.isfinite(getattr(trainer.rollout, f.name)).all() for f in dataclasses.fields(trainer.rollout))


@pytest.mark.e2e
def test_a_run_with_all_of_it_goes_on_to_the_bit_after_kills(tmp_path):
    reference = finish(tmp_path / "reference", **ALL_ON)
    moment, folder, kills = random.Random(2), tmp_path / "killed", 0
    for at in (moment.randint(12, 40), moment.randint(6, 20), 0):
        process = start(folder, ALL_ON | ({"resume": str(folder)} if checkpoints(folder / "checkpoints") else {}), at)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills == 2 and process.exitcode == 0
    assert_same_run(folder, reference)
    policy = rfx.load_policy(folder / "policy", GO2_CONFIG)
    assert policy.history == 3 and policy.policy_type == "MLP"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"history": 0}, "policy.history is 0: it must be a number of observations"),
        ({"critic": "privlieged"}, "did you mean 'privileged'"),
        ({"critic_terms": ()}, "policy.critic_terms names no terms"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PolicyConfig(**values)
