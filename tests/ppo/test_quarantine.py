"""Simulations that break, and updates that are not finite: kept out of what is learned, counted, and given up on when
they stay.
"""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from point_task import PointTask, point_config
from test_learning import BEST, NOTHING, learned

from envs.legged.config import EnvConfig
from envs.legged.weighted import WeightedReward
from rfx.robot.state import FAILED
from train.ppo.errors import TrainingBroken
from train.ppo.update import PPO
from train.runs.diagnosis import BATCH, MAX_SKIPPING, check_updates
from train.runs.trainer import Trainer
from train.task.config import TrainConfig

# What is written over, with what, and how many of the six simulations that were poisoned failed: controls are given
# anew before each step.
POISONS = {
    "qpos": (np.nan, 6),
    "qvel": (np.inf, 6),
    "ctrl": (np.nan, 0),
    "qacc_warmstart": (np.nan, 6),
    "time": (np.nan, 6),
}


def make_trainer(num_envs=8, hidden=(16,), num_steps=8, seed=0, **env) -> Trainer:
    task = EnvConfig.load(
        "go2", **{"num_envs": num_envs, "randomize": False, **env}
    )  # robots that differ share one generator
    values = {
        "robot": "go2",
        "seed": seed,
        "env": dataclasses.asdict(task),
        "policy": {"hidden": list(hidden)},
        "ppo": {"num_epochs": 2, "num_minibatches": 2},
        "trainer": {"rollout_steps": num_steps},
    }
    return Trainer(TrainConfig.from_dict(values))


def poison(trainer: Trainer, choose):
    """Before every control step t, simulations choose(t) get a position that is not a number.

    Returns the list of those poisoned.
    """
    step, poisoned = trainer.env.step, []

    def poisoned_step(action):
        ids = choose(len(poisoned))
        trainer.env.simulation.batch.qpos[ids, 9] = np.nan
        poisoned.append(np.asarray(ids))
        return step(action)

    trainer.env.step = poisoned_step
    return poisoned


@pytest.mark.parametrize("field", POISONS)
def test_a_broken_simulation_never_reaches_what_is_learned(field, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    trainer, rollout, sound_rows = make_trainer(), None, np.delete(np.arange(8), [2, 5])
    undisturbed = make_trainer()
    step, count = trainer.env.step, iter(range(100))

    def poisoned_step(action):
        if next(count) in (3, 4, 7):
            getattr(trainer.env.simulation.batch, field)[[2, 5]] = POISONS[field][0]
        return step(action)

    trainer.env.step = poisoned_step
    metrics, expected = trainer.iterate(), undisturbed.iterate()
    rollout = trainer.rollout
    for f in dataclasses.fields(rollout):
        assert np.isfinite(getattr(rollout, f.name)).all(), f.name
    assert (
        metrics["episode/failed_simulations"] == POISONS[field][1] and not rollout.failed.any()
    )  # replaced by sound ones
    np.testing.assert_array_equal(rollout.reward[:, sound_rows], undisturbed.rollout.reward[:, sound_rows])
    assert all(np.isfinite(value) for value in metrics.values()) and metrics["ppo/skipped_minibatches"] == 0
    assert trainer.normalizer.count == undisturbed.normalizer.count and np.isfinite(trainer.normalizer.var).all()
    assert metrics.keys() >= {name for name in expected if name.startswith("reward/")}
    out, err = capfd.readouterr()
    assert out == err == "" and not list(tmp_path.iterdir())  # MuJoCo writes neither lines nor MUJOCO_LOG.TXT


def test_failed_transitions_are_replaced_by_sound_ones_of_the_same_rollout():
    trainer = make_trainer()
    poison(trainer, lambda t: [1, 6] if t == 4 else [])
    trainer.iterate()
    rollout = trainer.rollout
    rows = rollout.raw_observation.reshape(64, -1)
    failed = [4 * 8 + 1, 4 * 8 + 6]
    for row in failed:
        assert sum((rows == rows[row]).all(axis=1)) >= 2  # twice there: its own place and the one it was drawn from
    others = np.delete(np.arange(64), failed)
    trainer.normalizer = type(trainer.normalizer)(trainer.state_dim)
    trainer.normalizer.update(rows)
    twice = (
        len(failed) / len(rows) * np.abs(rows - rows[others].mean(axis=0)).max(axis=0)
    )  # what two rows that count twice can move a mean by
    assert (np.abs(trainer.normalizer.mean - rows[others].mean(axis=0)) <= twice + 1e-6).all()


def test_an_observation_or_reward_that_is_not_finite_fails_its_simulation_only():
    trainer = make_trainer()
    env = trainer.env
    env.state.robot.velocity_command[3] = np.nan  # physics is sound, the command is not
    observation, reward, terminated, truncated, info = env.step(np.zeros((8, 12), np.float32))
    assert (
        np.flatnonzero(info[FAILED]).tolist() == [3] == np.flatnonzero(truncated).tolist()
        and not terminated[3]
        and reward[3] == 0.0
    )
    assert np.isfinite(observation["state"]).all() and np.isfinite(list(env.metrics().values())).all()


def test_a_simulation_that_fails_with_a_fall_is_not_a_fall():
    trainer = make_trainer()
    trainer.env.simulation.batch.qpos[1, 3:7] = [0, 1, 0, 0]  # on its back
    trainer.env.simulation.batch.qvel[1, 0] = np.nan
    _, _, terminated, truncated, info = trainer.env.step(np.zeros((8, 12), np.float32))
    assert not terminated[1] and truncated[1] and info[FAILED][1]


def test_nothing_sound_in_a_rollout_stops_with_the_reason():
    trainer = make_trainer()
    poison(trainer, lambda t: np.arange(8))
    with pytest.raises(TrainingBroken, match="all 64 transitions .* failed"):
        trainer.iterate()


def test_one_update_in_which_minibatches_are_skipped_leaves_weights_and_is_counted(tmp_path):
    trainer = make_trainer()
    before = trainer.learner.state_dict()
    trainer.env._rewards["tilt"] = WeightedReward(
        lambda state: np.full(8, 1e25, np.float32), 1.0
    )  # finite; its square is not
    metrics = trainer.iterate()
    assert metrics["ppo/skipped_minibatches"] == 4 and trainer.skipping == 1
    check_updates(trainer, metrics, tmp_path)
    after = trainer.learner.state_dict()
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    trainer.env._rewards["tilt"] = WeightedReward(lambda state: np.zeros(8, np.float32), 1.0)
    assert trainer.iterate()["ppo/skipped_minibatches"] == 0 and trainer.skipping == 0


def test_skipping_again_and_again_stops_with_a_diagnosis_and_a_batch_that_shows_it(tmp_path):
    trainer = make_trainer()
    trainer.env._rewards["tilt"] = WeightedReward(lambda state: np.full(8, 1e25, np.float32), 1.0)
    for _ in range(MAX_SKIPPING):
        metrics = trainer.iterate()
    with pytest.raises(TrainingBroken) as error:
        check_updates(trainer, metrics, tmp_path)
    assert all(word in str(error.value) for word in ("reward/tilt", "learning rate", BATCH, "checkpoint"))
    # The batch on disk shows the failure again, in a learner of its own.
    arrays = safetensors.numpy.load_file(tmp_path / BATCH / "rollout.safetensors")
    for name, values in arrays.items():
        getattr(trainer.rollout, name)[...] = values
    other = PPO(trainer.policy, trainer.config.ppo, 64)
    other.load_state_dict(safetensors.numpy.load_file(tmp_path / BATCH / "learner.safetensors"))
    assert other.update(trainer.rollout, np.random.default_rng(0))["skipped_minibatches"] == 4
    assert json.loads((tmp_path / BATCH / "metrics.json").read_text())["reward/tilt"] > 1e20


def garble(trainer: Trainer, garbage: float, flagged: bool = True) -> None:
    """One transition in twenty comes back as garbage, which is flagged as failed."""
    step, rng = trainer.env.step, np.random.default_rng(7)

    def garbled_step(action):
        observation, reward, terminated, truncated, info = step(action)
        bad = rng.random(len(reward)) < 0.05
        reward[bad], truncated = garbage, truncated | (bad if flagged else False)
        return observation, reward, terminated, truncated, info | ({FAILED: bad} if flagged else {})

    trainer.env.step = garbled_step


def state_after(garbage: float, flagged: bool = True, num_iterations: int = 3) -> dict[str, bytes]:
    """All that was learned, to the bit."""
    trainer = Trainer(config := point_config(0, 40), PointTask(config))
    garble(trainer, garbage, flagged)
    for _ in range(num_iterations):
        trainer.iterate()
    return {name: array.tobytes() for name, array in trainer.learner.state_dict().items()} | {
        "normalizer": repr(trainer.normalizer.to_dict()).encode()
    }


def test_what_a_failed_transition_says_moves_no_bit():
    assert state_after(-3.0) == state_after(1e6)
    assert state_after(-3.0, flagged=False) != state_after(1e6, flagged=False)  # and would, if it were not flagged


@pytest.mark.parametrize("seed", [0, 1])
def test_with_one_transition_in_twenty_poisoned_it_learns_as_well(seed):
    """3,200 of 64,000: as near the best policy as without; unflagged, rewards of 100 where there is nothing to earn
    keep it from that.
    """

    def share(flagged: bool) -> float:
        trainer = Trainer(config := point_config(seed, 50), PointTask(config))
        garble(trainer, 100.0, flagged)
        return (learned(trainer, 50) - NOTHING) / (BEST - NOTHING)

    assert share(flagged=True) > 0.97 and share(flagged=False) < 0.9
