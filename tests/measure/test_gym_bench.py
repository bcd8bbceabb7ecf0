"""The table of Gymnasium tasks: what its figures are, what it makes of runs, and that begun again it goes on."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from envs.mujoco.batched import BatchedMujocoEnv
from measure import gym_speed
from measure.gym import GymBenchConfig, bootstrap_interval, interquartile_mean, read_arguments, run, summary
from train.bench import throughput
from train.runs.trainer import Trainer
from train.task.errors import InputError


def test_the_interquartile_mean_leaves_out_a_quarter_at_both_ends():
    np.testing.assert_allclose(
        interquartile_mean(np.array([[100.0, 1.0, 2.0, 3.0], [4.0, 4.0, -9.0, 8.0]])), [2.5, 4.0]
    )
    np.testing.assert_allclose(
        interquartile_mean(np.array([[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 99]])), [4.5]
    )  # of ten, two and two
    np.testing.assert_allclose(interquartile_mean(np.array([[1.0, 3.0]])), [2.0])


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    """200 samples of 10 normal values: the true centre lies in 95% of the intervals, less what a percentile bootstrap
    of 10 falls short.
    """
    rng = np.random.default_rng(0)
    hits = [low <= 5.0 <= high for low, high in (bootstrap_interval(rng.normal(5.0, 2.0, 10), rng) for _ in range(200))]
    assert 0.85 < np.mean(hits) <= 0.98
    assert bootstrap_interval(np.full(10, 3.0), rng) == (3.0, 3.0)


def write_result(folder: Path, value: float, status: str = "finished") -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(
        json.dumps({"status": status, "steps": 1000, "wall_s": 90.0, "evaluation": {"return": value}, "overrides": []})
    )


def test_a_row_is_made_of_the_runs_that_finished(tmp_path):
    for seed, value in enumerate((1.0, 2.0, 3.0, 10.0)):
        write_result(tmp_path / str(seed), value)
    write_result(tmp_path / "4", 1e9, "failed")
    row = summary(tmp_path, "Hopper-v5")
    assert (row["seeds"], row["mean"], row["iqm"], row["minutes"]) == (4, 4.0, 2.5, 1.5) and row[
        "iqm_low"
    ] <= 2.5 <= row["iqm_high"]
    assert (row["CleanRL"], row["Tianshou"]) == (2383, 2609) and summary(tmp_path / "none", "x") is None


def test_arguments_are_checked():
    assert read_arguments(["tasks=[Ant-v5,Hopper-v5]", "steps=3e6", "jobs=2"]) == GymBenchConfig(
        tasks=("Ant-v5", "Hopper-v5"), steps=3_000_000, jobs=2
    )
    for argument, message in (
        ("seed=3", "unknown key 'seed': did you mean 'seeds'"),
        ("seeds", "expected key=value"),
        ("seeds=0", "at least 1"),
        ("tasks=[]", "must name Gymnasium ids"),
    ):
        with pytest.raises(ValueError, match=message):
            read_arguments([argument])


@pytest.mark.e2e
def test_it_trains_what_is_missing_and_only_that(tmp_path):
    pytest.importorskip("matplotlib")
    config = GymBenchConfig(
        tasks=("InvertedPendulum-v5",),
        seeds=2,
        steps=4096,
        jobs=2,
        folder=str(tmp_path),
        output=str(tmp_path / "rows.json"),
    )
    write_result(tmp_path / "InvertedPendulum-v5" / "1", 7.0)
    (row,) = run(config, Console(quiet=True))
    assert json.loads((tmp_path / "rows.json").read_text()) == {"rows": [row]}
    assert row["seeds"] == 2 and (tmp_path / "curves.png").stat().st_size > 10_000
    log = tmp_path / "InvertedPendulum-v5" / "0" / "log.txt"
    before = log.read_text()
    assert (
        "env.id" not in before
        and "20 full episodes" in before
        and not (tmp_path / "InvertedPendulum-v5" / "1" / "log.txt").exists()
    )
    assert run(config, Console(quiet=True)) == [row] and log.read_text() == before


@pytest.mark.e2e
def test_steps_a_second_are_those_of_the_loop_and_of_the_physics_in_it(monkeypatch):
    """By a clock that the test turns: a step of the physics takes 5 ms, and an iteration 20 ms besides."""
    clock, advance, iterate = SimpleNamespace(now_s=0.0), BatchedMujocoEnv._advance, Trainer.iterate
    monkeypatch.setattr(gym_speed, "TURN_S", 0.5)
    for module in (gym_speed, throughput):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))

    def passing(function, seconds):
        def timed(owner):
            clock.now_s += seconds
            return function(owner)

        return timed

    monkeypatch.setattr(BatchedMujocoEnv, "_advance", passing(advance, 0.005))
    monkeypatch.setattr(Trainer, "iterate", passing(iterate, 0.02))
    trainer = Trainer(gym_speed.train_config("InvertedPendulum-v5"))
    physics, loop = gym_speed.our_turn(trainer)
    steps = trainer.config.trainer.rollout_steps  # an iteration's
    assert physics == pytest.approx(64 / 0.005) and loop == pytest.approx(
        64 * steps / (steps * 0.005 + 0.02)
    )  # 64 environments


def test_a_row_of_speeds_needs_no_rival(monkeypatch):
    monkeypatch.setattr(gym_speed, "TURN_S", 0.1)
    row = gym_speed.measure(gym_speed.GymSpeedConfig(train_steps=1, rounds=2, rival=False), "InvertedPendulum-v5")
    assert 0.0 < row["loop_share_of_raw"] < 1.0 and row["loop_steps_per_s"] < row["raw_steps_per_s"]
    assert "times_sb3" not in row and gym_speed.table([row]).row_count == 1


def test_the_rival_learns_with_our_rollout_and_takes_its_turns(monkeypatch):
    pytest.importorskip("stable_baselines3", reason="needs the extra rivals")
    monkeypatch.setattr(gym_speed, "TURN_S", 0.5)
    with gym_speed.rival("InvertedPendulum-v5", gym_speed.train_config("InvertedPendulum-v5"), 2) as turn:
        assert all(10.0 < turn(num_threads) < 100_000.0 for num_threads in (1, 2))


@pytest.mark.e2e
def test_a_rival_that_ends_is_said_in_one_line():
    with (
        pytest.raises(InputError, match="process has ended"),
        gym_speed.rival("Nothing-v0", gym_speed.train_config("Ant-v5"), 1) as turn,
    ):
        turn(1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["round=3"], "unknown key 'round': did you mean 'rounds'"),
        (["rounds=0"], "rounds is 0: it must be at least 1"),
        (["tasks=[CartPole-v1]", "rival=false"], "names CartPole-v1, which is not in batches"),
        (["tasks=[Hoppr-v5]", "rival=false"], "did you mean 'Hopper-v5'"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message):
    with pytest.raises((ValueError, InputError), match=message):
        gym_speed.run(gym_speed.read_arguments(arguments), Console(quiet=True))
