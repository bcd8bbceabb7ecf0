"""A run before which another is trained (configs/first.yaml): both are trained by one command, and however it is
interrupted, it goes on.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli_train import SMALL, command, environment

import rfx
from envs.settings.configs import CONFIGS, compose, merged
from rfx.settings.reader import read_yaml
from train.runs.checkpoint import checkpoints, newest_checkpoint

TINY = [*SMALL, "policy.hidden=[16]", "policy.history=1", "trainer.evaluate_every=1_000_000", "threads=1"]


def begun_by(*walking: str) -> list[str]:
    """The arguments of a run on rough ground, of three iterations, after one on the flat."""
    first = ",".join(
        f"'{argument}'" for argument in ("+robot=go2", "preset=deploy", *TINY, "trainer.checkpoint_every=128", *walking)
    )
    return ["+robot=go2_rough", *TINY, "trainer.total_steps=384", f"+first=[{first}]", "seed=3", "hydra.run.dir=rough"]


def refuse_to_tell(line: str) -> None:
    raise AssertionError(line)


@pytest.mark.e2e
def test_it_is_trained_before_and_its_network_is_begun_with(tmp_path: Path) -> None:
    done = command(*begun_by("trainer.total_steps=256"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "First: +robot=go2 preset=deploy" in done.stdout and "rough/first, after 256 steps" in done.stdout
    records = {folder: json.loads((tmp_path / folder / "run.json").read_text()) for folder in ("rough", "rough/first")}
    assert all(record["finished"] for record in records.values())
    assert records["rough/first"]["steps"] == 256 and records["rough"]["steps"] == 384
    walks, climbs = (rfx.load_policy(tmp_path / folder / "policy").training_info for folder in ("rough/first", "rough"))
    assert (
        walks["seed"] == climbs["seed"] == 3
        and walks["env"]["terrain"] is None
        and climbs["env"]["terrain"]["num_levels"] == 10
    )


@pytest.mark.e2e
def test_interrupted_in_the_first_run_it_goes_on_with_that_and_then_with_its_own(tmp_path: Path) -> None:
    arguments = begun_by("trainer.total_steps=12_800")
    folder = tmp_path / "rough" / "first" / "checkpoints"
    process = subprocess.Popen(
        [sys.executable, "-m", "train", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    while not any(int(path.name) for path in checkpoints(folder)):  # the one of step 0 is written as it begins
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT and "Stopped after" in shown, shown
    (said,) = (line.partition("python -m train ")[2] for line in shown.splitlines() if line.startswith("go on"))
    (tmp_path / "rough" / "checkpoints").mkdir()  # as a run leaves it that is killed before its first checkpoint
    reached = newest_checkpoint(folder, refuse_to_tell)[1]["steps"]
    done = command(said, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0 < reached < 12_800 and "rough/first, after 13 k steps" in done.stdout, done.stdout
    again = command(*arguments, folder=tmp_path)  # both have ended
    assert (
        again.returncode == 2
        and "holds the checkpoints of an earlier run" in again.stderr
        and "First" not in again.stdout
    )


@pytest.mark.e2e
def test_the_newest_run_is_the_whole_and_not_the_first_part(tmp_path: Path) -> None:
    arguments = [
        argument for argument in begun_by("trainer.total_steps=256") if not argument.startswith("hydra.run.dir")
    ]
    wrong = [*arguments, "ppo.num_minibatches=7"]
    assert command(*wrong, folder=tmp_path).returncode == 2 and not list(
        (tmp_path / "runs").glob("*")
    )  # before anything is trained
    begun = command(*arguments, "hydra.run.dir=other/rough", "start_from=nowhere", folder=tmp_path)
    assert begun.returncode == 2 and "start_from=nowhere" in begun.stderr
    assert not (tmp_path / "other" / "rough" / "first").exists()
    walking = command(
        "+robot=go2",
        "preset=deploy",
        *TINY,
        "trainer.total_steps=256",
        "seed=3",
        "hydra.run.dir=runs/rough/first",
        folder=tmp_path,
    )
    assert walking.returncode == 0, walking.stderr
    (tmp_path / "runs" / "rough" / ".hydra").mkdir(exist_ok=True)  # as the whole run leaves it
    done = command(*arguments, "resume=latest", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "First" not in done.stdout and (tmp_path / "runs" / "rough" / "policy").is_dir()


def test_what_comes_first_is_of_the_same_robot_and_has_the_network_that_is_gone_on_with() -> None:
    """Else the run would end after the first one has been trained."""
    for name, overrides in read_yaml(CONFIGS / "first.yaml").items():
        (group, robot), (other, preset), *rest = (override.lstrip("+").split("=") for override in overrides)
        assert (group, other) == ("robot", "preset") and not any(key.startswith("policy.") for key, _ in rest)
        before, after = merged(compose("robot", robot), compose("preset", preset)), compose("robot", name)
        assert before["robot"] == after["robot"]
        for key in ("hidden", "history", "critic", "critic_terms", "symmetric"):
            assert before["policy"][key] == after["policy"][key]


def test_a_first_run_that_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    done = command(
        "+robot=go2_rough",
        *TINY,
        "+first=['+robot=go2','trainer.total_stepz=5']",
        "hydra.run.dir=rough",
        folder=tmp_path,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: first: ") and done.stderr.count("\n") == 1, (
        done.stderr
    )
