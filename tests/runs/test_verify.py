"""A run's beginning, trained again: the same bits on another number of threads, and what is told where they differ."""

import json
import shutil

import pytest
from rich.console import Console
from tiny_run import reference_run

from train.commands.verify import main, verify
from train.runs.resume import read_record, update_record, values_of
from train.task.errors import InputError
from train.task.flat import config_of


@pytest.fixture
def run(tmp_path):
    """A copy of a finished run's folder."""
    return shutil.copytree(reference_run()[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))


def told(run, **options) -> tuple[bool, str]:
    with open(run / "said", "w") as file:
        same = verify(run, Console(file=file, width=200), **options)
    return same, (run / "said").read_text()


def test_the_same_bits_come_out_again_at_any_number_of_threads(run):
    record = read_record(run)
    assert set(record["beginning"]) == {"1", "2", "3"} and len(set(record["beginning"].values())) == 3
    for threads in (None, 1, 3):
        same, said = told(run, threads=threads)
        assert same and said.count("the same bits") == 3, said
    main([str(run)])  # exit code 0


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 8), ("ppo.learning_rate", 1.1e-3), ("env.rewards.linear_velocity.weight", 4.001)]
)
def test_another_run_is_told_from_the_first_iteration_on(run, key, value):
    """A run that was not what its record says."""
    record = read_record(run)
    assert record["config"][key] != value
    update_record(run, {"config": record["config"] | {key: value}})
    same, said = told(run)
    assert not same and said.startswith("iteration 1: the weights differ") and "what differs is not known" in said


def test_what_differs_here_is_named(run, capsys):
    record = read_record(run)
    update_record(run, {"beginning": record["beginning"] | {"2": "0" * 64}, "mujoco": "3.9", "processor": "another"})
    with pytest.raises(SystemExit) as exit:
        main([str(run)])
    said = capsys.readouterr().out
    assert exit.value.code == 1 and "iteration 1: the same bits" in said and "iteration 3" not in said
    assert "mujoco: 3.9 then, " in said and "processor: another then, " in said


def test_a_run_says_its_threads_and_one_that_says_too_little_is_refused(run):
    record = read_record(run)
    assert record["threads"]["learner"] >= 1 and record["threads"]["environment"] >= 1
    assert values_of(config_of(record["config"])) == record["config"]
    (run / "run.json").write_text(json.dumps({name: value for name, value in record.items() if name != "beginning"}))
    with pytest.raises(InputError, match="has no fingerprints of the first iterations"):
        verify(run, Console(quiet=True))
