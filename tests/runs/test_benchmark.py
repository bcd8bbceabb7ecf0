"""The benchmark on a small scale: every figure is there and sound, and raw physics is the environment's own."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mujoco.batch import Batch
from rich.console import Console

from train.bench.startup import first_iteration
from train.bench.throughput import record, stopwatch
from train.commands.benchmark import BenchmarkConfig, run, train_config
from train.runs.trainer import Trainer
from train.task.errors import exit_on_bad_command_line


def small_trainer(**task) -> Trainer:
    config = train_config(BenchmarkConfig(task="go2", num_envs=8, threads=1))
    return Trainer(dataclasses.replace(config, env=dataclasses.replace(config.env, **task)))


@pytest.mark.e2e
def test_the_benchmark_writes_flat_figures_that_agree_with_each_other(tmp_path: Path) -> None:
    config = BenchmarkConfig(
        task="go2",
        num_envs=16,
        train_steps=400,
        rounds=1,
        steps=6,
        startup=False,
        learner=False,
        output=str(tmp_path / "b.json"),
    )
    with (tmp_path / "shown").open("w") as file:
        figures = run(config, Console(file=file, width=80))
    assert json.loads((tmp_path / "b.json").read_text()) == figures
    assert all(isinstance(value, (int, float, str)) for value in figures.values())
    for name in ("raw", "env", "collect", "loop"):
        assert figures[f"{name}_steps_per_s"] > 0
    for name in ("env", "collect", "loop"):
        assert figures[f"{name}_share_of_raw"] == pytest.approx(
            figures[f"{name}_steps_per_s"] / figures["raw_steps_per_s"]
        )
    shares = [value for name, value in figures.items() if name.startswith("time_share_")]
    assert sum(shares) == pytest.approx(1.0) and min(shares) > -0.01
    shown = (tmp_path / "shown").read_text()
    assert "whole loop" in shown and f"{figures['raw_steps_per_s']:,.0f} steps/s" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_raw_physics_goes_where_the_environment_went() -> None:
    trainer = small_trainer(randomize=False)  # raw physics has nominal robots, which nobody pushes
    rng = np.random.default_rng(0)
    recording = record(trainer.env, lambda observation: rng.uniform(-0.3, 0.3, (8, 12)).astype(np.float32), 10)
    assert recording.actions.shape == (10, 8, 12) and recording.controls.shape[:2] == (10, 8)
    simulation = trainer.env.simulation
    batch = Batch(simulation.model, 8, 1)
    batch.state[...] = recording.physics
    for control in recording.controls:
        batch.bind("ctrl")[...] = control
        batch.step(nstep=simulation.num_substeps)
    trainer.env.load_state_dict(recording.start)
    for action in recording.actions:
        *_, info = trainer.env.step(action)
        assert not info  # no episode ended, or the two would differ
    np.testing.assert_array_equal(batch.bind("qpos"), simulation.batch.bind("qpos"))


def test_a_stopwatch_leaves_no_trace() -> None:
    trainer = small_trainer()
    before = vars(trainer.env).copy()
    with stopwatch(trainer.env, "step") as spent:
        trainer.env.step(np.zeros((8, 12), np.float32))
    assert spent[0] > 0 and vars(trainer.env) == before


@pytest.mark.long
def test_start_up_and_memory_of_a_real_run_are_measured(tmp_path: Path) -> None:
    seconds, memory = first_iteration(
        [
            "+robot=go2",
            "env.num_envs=64",
            "trainer.total_steps=1536",
            "trainer.evaluation_s=1",
            "trainer.final_evaluation_s=1",
        ],
        tmp_path,
        "run",
    )
    assert 0.5 < seconds < 120 and 100e6 < memory < 1.5e9


def test_a_run_that_fails_is_told() -> None:
    with pytest.raises(RuntimeError, match="env.num_envs is -1"):
        first_iteration(["+robot=go2", "env.num_envs=-1"], Path("/tmp"), "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["round=3"], "did you mean 'rounds'?"),
        (["rounds=0"], "rounds is 0"),
        (["policy=nowhere"], "nowhere"),
        (["output=/proc/none/benchmark.json"], "/proc/none"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, monkeypatch, capsys) -> None:
    from train.commands.benchmark import _run

    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    with pytest.raises(SystemExit) as stop, exit_on_bad_command_line("benchmark"):
        _run()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
