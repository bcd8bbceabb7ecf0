"""The privileged critic and the mirror loss: one update against float64 NumPy, what the rollout holds, and resuming with all that is off by
default.
"""

import dataclasses
import random
import signal

import network_reference
import numpy as np
import pytest
from tiny_run import assert_same_run, events, finish, start

import rfx
from envs.legged.config import EnvConfig
from rfx.robots.go2.config import GO2_CONFIG
from rfx.mirror import Mirror
from rfx.nn import ActorCritic, PrivilegedActorCritic
from train.runs.checkpoint import checkpoints
from train.config import PolicyConfig, TrainConfig
from train.ppo.rollout import Rollout
from train.trainer import Trainer
from train.ppo.update import PPO, PPOConfig

T, N, D, A, P = 6, 16, 10, 4, 7
ALL_ON = {"policy.history": 3, "policy.critic": "privileged", "ppo.mirror_coefficient": 0.5}
FLIP = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, -1, 0]], np.float32)  # of four actions: two pairs, one with signs


def rng(seed=0):
    return np.random.default_rng(seed)


def learner(critic, mirror_coefficient, history=2, seed=0, **options) -> PPO:
    sizes = (D, A, P, [24, 17]) if critic == "privileged" else (D, A, [24, 17])
    policy = (PrivilegedActorCritic if critic == "privileged" else ActorCritic)(*sizes, history=history, rng=rng(seed))
    config = PPOConfig(**{"num_epochs": 2, "num_minibatches": 2, "mirror_coefficient": mirror_coefficient, **options})
    return PPO(policy, config, T * N, FLIP)


def filled_rollout(ppo, seed=0) -> Rollout:
    """What this policy does on random observations, rewarded for its first action."""
    r, history = rng(seed), ppo.policy.history
    critic_dim = getattr(ppo.policy, "critic_dim", 0)
    rollout = Rollout.empty(T, N, D, A, history=history, mirrored=bool(ppo.config.mirror_coefficient), critic_dim=critic_dim)
    std = np.exp(ppo.policy.log_std.numpy())
    for name in ("observation", "mirrored", "critic_observation"):
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


def numpy_gradients(p, b, config, old_log_std, privileged):
    """Gradients by name, KL and mirror loss of one minibatch, in float64, from the definitions."""
    count = len(b["action"])

    def net(x, names):
        weights, biases = ([p[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        return network_reference.forward(x, weights, biases), weights, names

    def back(through, gradient):
        activations, weights, names = through
        _, d_weights, d_biases = network_reference.backward(activations, weights, gradient)
        return {f"{name}.{kind}": g for name, *both in zip(names, d_weights, d_biases) for kind, g in zip(("weight", "bias"), both)}

    trunk = ["backbone.0", "backbone.1"]
    actor = net(b["observation"], [*trunk, "actor_head"])
    critic_names = ["critic.0", "critic.1", "critic.2"] if privileged else [*trunk, "critic_head"]
    critic = net(b["critic_observation" if privileged else "observation"], critic_names)
    mean, value, log_std = np.tanh(actor[0][-1]), critic[0][-1][:, 0], p["log_std"]
    z = (b["action"] - mean) / np.exp(log_std)
    ratio = np.exp((-0.5 * z**2 - log_std - 0.5 * np.log(2.0 * np.pi)).sum(axis=1) - b["log_prob"])
    gain, bounded = ratio * b["advantage"], np.clip(ratio, 1.0 - config.clip, 1.0 + config.clip) * b["advantage"]
    quadratic = (np.exp(2 * old_log_std) + (b["mean"] - mean) ** 2) / (2.0 * np.exp(2 * log_std))
    kl = (log_std - old_log_std + quadratic - 0.5).sum(axis=1).mean()
    d_log_prob = np.where(gain <= bounded, -gain, 0.0)[:, None] / count
    d_mean = d_log_prob * z / np.exp(log_std)
    parts, mirror_loss = [back(critic, (2.0 * config.value_coefficient / count * (value - b["returns"]))[:, None])], 0.0
    if config.mirror_coefficient:
        image = net(b["mirrored"], [*trunk, "actor_head"])
        image_mean = np.tanh(image[0][-1])
        difference = mean - image_mean[:, [1, 0, 3, 2]] * [1, 1, -1, -1]
        mirror_loss = (difference**2).mean()
        d_difference = config.mirror_coefficient * 2.0 * difference / difference.size
        d_mean = d_mean + d_difference
        parts.append(back(image, -(d_difference * [1, 1, -1, -1])[:, [1, 0, 3, 2]] * (1.0 - image_mean**2)))
    parts.append(back(actor, d_mean * (1.0 - mean**2)))
    gradients = {name: sum(part[name] for part in parts if name in part) for name in p if name != "log_std"}
    return gradients | {"log_std": (d_log_prob * (z**2 - 1.0)).sum(axis=0) - config.entropy_coefficient}, kl, mirror_loss


def numpy_update(p, rollout, r, config, privileged):
    """The update in float64. Returns the parameters and the mean mirror loss."""
    p = {name: array.astype(np.float64) for name, array in p.items()}
    first, second = ({name: np.zeros_like(array) for name, array in p.items()} for _ in range(2))
    flat = {f.name: getattr(rollout, f.name).reshape(T * N, *getattr(rollout, f.name).shape[2:]).astype(np.float64)
            for f in dataclasses.fields(rollout)}
    old_log_std, rate, mirror_losses = p["log_std"].copy(), config.learning_rate, []
    orders = [r.permutation(T * N) for _ in range(config.num_epochs)]
    for step, rows in enumerate(np.concatenate(orders).reshape(config.num_epochs * config.num_minibatches, -1), 1):
        batch = {name: array[rows] for name, array in flat.items()}
        gradients, kl, mirror_loss = numpy_gradients(p, batch, config, old_log_std, privileged)
        mirror_losses.append(mirror_loss)
        rate = max(rate / 1.5, 1e-5) if kl > 2 * config.desired_kl else min(rate * 1.5, 1e-2) if kl < 0.5 * config.desired_kl else rate
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        for name, gradient in gradients.items():
            gradient = gradient * min(1.0, config.max_gradient_norm / (norm + 1e-6))
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            p[name] -= rate * first[name] / (1.0 - 0.9**step) / (np.sqrt(second[name] / (1.0 - 0.999**step)) + 1e-8)
    return p, np.mean(mirror_losses)


@pytest.mark.parametrize(("critic", "coefficient", "plain"), [("privileged", 0.0, False), ("shared", 3.0, False),
                                                              ("privileged", 3.0, False), ("privileged", 3.0, True)])
def test_an_update_is_the_one_in_numpy(monkeypatch, critic, coefficient, plain):
    if plain:
        monkeypatch.setenv("RFX_PLAIN", "1")
    ppo = learner(critic, coefficient)
    rollout, before = filled_rollout(ppo), {name: t.numpy().copy() for name, t in ppo.parameters.items()}
    metrics = ppo.update(rollout, rng(7))
    expected, mirror_loss = numpy_update(before, rollout, rng(7), ppo.config, critic == "privileged")
    for name, tensor in ppo.parameters.items():
        moved = np.abs(expected[name] - before[name]).max()
        assert moved > 1e-4 and np.abs(tensor.numpy() - expected[name]).max() < 2e-3 * moved, name
    assert ("mirror_loss" in metrics) == bool(coefficient)
    assert metrics.get("mirror_loss", 0.0) == pytest.approx(mirror_loss, rel=1e-4) and metrics["skipped_minibatches"] == 0


def test_a_weight_of_zero_changes_no_bit_of_an_update():
    """The mirrored observations are then not even looked at."""
    with_mirror, without = learner("shared", 0.0), learner("shared", 0.0)
    without._action_mirror = None
    rollout = filled_rollout(without)
    for ppo in (with_mirror, without):
        ppo.update(rollout, rng(1))
    assert all(np.array_equal(array, without.state_dict()[name]) for name, array in with_mirror.state_dict().items())
    assert without._rollout.mirrored is None and without._rollout.critic_observation is None


def test_the_mirror_loss_keeps_the_policy_symmetric():
    """Rewarded for one of a pair of actions: a large weight keeps the pair equal, where a tiny one lets it drift apart."""
    losses = []
    for coefficient in (1e-6, 100.0):
        ppo = learner("shared", coefficient, history=1, learning_rate=3e-3, desired_kl=None)
        losses.append([ppo.update(filled_rollout(ppo, 3), rng(seed))["mirror_loss"] for seed in range(8)])
    assert losses[0][-1] > 10.0 * losses[0][0] and losses[1][-1] < 0.2 * losses[0][-1]


def test_a_bad_mirrored_observation_skips_its_minibatch_alone():
    ppo = learner("privileged", 1.0)
    rollout = filled_rollout(ppo)
    rollout.mirrored[2, 3] = np.nan
    metrics = ppo.update(rollout, rng(0))
    assert metrics.pop("skipped_minibatches") == 2 and np.isfinite(list(metrics.values())).all()
    assert all(np.isfinite(array).all() for array in ppo.state_dict().values())


def test_a_mirror_loss_needs_a_mirror():
    with pytest.raises(ValueError, match="got mirror_coefficient 0.5 without an action_mirror; give one, or set it to 0"):
        PPO(ActorCritic(D, A, [8]), PPOConfig(num_minibatches=1, mirror_coefficient=0.5), T * N)


def make_trainer(num_envs=8, randomize=True, ppo=None, **policy) -> Trainer:
    env = dataclasses.asdict(EnvConfig.load("go2", num_envs=num_envs, episode_length_s=0.2, randomize=randomize))
    return Trainer(TrainConfig.from_dict({"robot": "go2", "seed": 1, "env": env, "policy": {"hidden": [16], **policy},
                                          "ppo": {"num_epochs": 1, "num_minibatches": 2, **(ppo or {})}, "trainer": {"rollout_steps": 20}}))


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
        return network_reference.forward(scaled, [p[f"{n}.weight"] for n in names], [p[f"{n}.bias"] for n in names])[-1][:, 0]

    trainer.iterate()
    rollout, checked = trainer.rollout, 0
    for t in range(20):
        np.testing.assert_allclose(rollout.value[t], value(rollout.raw_critic_observation[t]), atol=1e-3)
        for i in np.flatnonzero(rollout.truncated[t]):
            assert rollout.bootstrap[t, i] == pytest.approx(value(finals[t][i]["critic"][None])[0], abs=1e-3)
            checked += 1
    assert checked >= 8 and (rollout.bootstrap[~rollout.truncated] == 0).all()
    rows = trainer.rollout.raw_critic_observation.reshape(160, -1)
    assert trainer.critic_normalizer.count == 320 and rows.shape[1] == trainer.policy.critic_dim == 48 + 3 + 1 + 4 + 4 + 12 + 12 + 1 + 1
    np.testing.assert_allclose(trainer.critic_normalizer.mean, 0.5 * mean + 0.5 * rows.mean(axis=0, dtype=np.float64), atol=1e-6)


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


def test_a_rollout_holds_the_normalized_observations_of_the_mirror_images():
    trainer = make_trainer(ppo={"mirror_coefficient": 1.0}, history=2)
    trainer.iterate()
    mean, std = trainer.normalizer.mean.copy(), np.sqrt(trainer.normalizer.var + trainer.normalizer.eps)
    metrics, rollout, mirror = trainer.iterate(), trainer.rollout, Mirror(GO2_CONFIG)
    assert metrics["ppo/mirror_loss"] > 0.0 and rollout.mirrored.shape == (20, 8, 96)
    frames = rollout.mirrored.reshape(20, 8, 2, 48)
    expected = (mirror.observation(rollout.raw_observation) - mean) / std
    np.testing.assert_allclose(frames[:, :, 1], expected.clip(-10, 10), atol=2e-4)


def test_a_simulation_that_breaks_reaches_nothing_that_is_learned():
    trainer = make_trainer(history=2, critic="privileged", ppo={"mirror_coefficient": 1.0})
    step, count = trainer.env.step, iter(range(100))

    def poisoned_step(action):
        if next(count) == 4:
            trainer.env.simulation.batch.qpos[[1, 6], 9] = np.nan
        return step(action)

    trainer.env.step = poisoned_step
    metrics = trainer.iterate()
    assert metrics["episode/failed_simulations"] == 2 and all(np.isfinite(value) for value in metrics.values())
    assert all(np.isfinite(getattr(trainer.rollout, f.name)).all() for f in dataclasses.fields(trainer.rollout))


def test_a_run_with_all_of_it_goes_on_to_the_bit_after_kills(tmp_path):
    reference = finish(tmp_path / "reference", **ALL_ON)
    assert any(tag == "ppo/mirror_loss" for _, tag, _ in events(reference))
    moment, folder, kills = random.Random(2), tmp_path / "killed", 0
    for at in (moment.randint(12, 40), moment.randint(6, 20), 0):
        process = start(folder, ALL_ON | ({"resume": str(folder)} if checkpoints(folder / "checkpoints") else {}), at)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills == 2 and process.exitcode == 0
    assert_same_run(folder, reference)
    policy = rfx.load_policy(folder / "policy", GO2_CONFIG)
    assert policy.history == 3 and policy.policy_type == "MLP"


@pytest.mark.parametrize(("values", "message"), [
    ({"history": 0}, "policy.history is 0: it must be a number of observations"), ({"critic": "privlieged"}, "did you mean 'privileged'"),
    ({"critic_terms": ()}, "policy.critic_terms names no terms")])
def test_a_policy_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PolicyConfig(**values)
