"""`python -m train` as a user meets it: help, a run, a sweep, Ctrl-C, and what is said about bad input."""

import csv
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

import rfx
from train.commands.train import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "env.num_envs=16",
    "trainer.rollout_steps=8",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "trainer.evaluation_envs=4",
    "trainer.evaluation_s=2",
    "trainer.final_evaluation_envs=4",
    "trainer.final_evaluation_s=2",
]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "train", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(),
    )


def test_help_shows_robots_keys_and_examples(tmp_path: Path) -> None:
    done = command("--help", folder=tmp_path)
    assert done.returncode == 0
    for part in (
        "usage: python -m train +robot=NAME",
        "robot: a1, anymal_c, g1, go1, go2, go2_rough, spot",
        "policy.hidden=",
        "env.num_envs=",
        "trainer.total_steps=",
        "python -m train -m +robot=go2 policy.hidden=[128,128],[256,256],[512,256,128]",
    ):
        assert part in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A run of five iterations with evaluations after two and four, in a folder of Hydra's choice."""
    folder = tmp_path_factory.mktemp("workspace")
    done = command(
        "+robot=go2",
        *SMALL,
        "policy.hidden=[16]",
        "trainer.total_steps=600",
        "trainer.evaluate_every=256",
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "runs").iterdir()
    return path, done


def test_a_run_ends_with_a_policy_that_acts_in_another_process(run) -> None:
    folder, _ = run
    code = "import rfx, numpy; p = rfx.load_policy('policy'); print(p.training_info['steps'], p({'state': numpy.ones((1, 64), 'f4')}).tolist())"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment(), check=True
    ).stdout
    policy = rfx.load_policy(folder / "policy", rfx.GO2_CONFIG)
    action = policy({"state": np.ones((1, 64), np.float32)})
    assert policy.normalizer.count > 0 and policy.training_info["steps"] in (256, 512, 640)
    assert np.abs(action).max() <= 1
    assert shown.split(" ", 1) == [str(policy.training_info["steps"]), f"{action.tolist()}\n"]


def test_a_run_leaves_configuration_logs_and_figures(run) -> None:
    folder, _ = run
    assert (folder / ".hydra" / "config.yaml").is_file() and list(folder.glob("events.out.tfevents*"))
    result, evaluation = (json.loads((folder / name).read_text()) for name in ("result.json", "evaluation.json"))
    assert result["status"] == "finished" and result["steps"] == 640 and result["overrides"][0] == "+robot=go2"
    assert result["evaluation"] == evaluation and (
        evaluation["num_envs"],
        evaluation["duration_s"],
        evaluation["seed"],
    ) == (4, 2.0, 2)


def test_a_run_says_where_the_policy_is_and_what_to_do_with_it(run) -> None:
    folder, done = run
    path = f"runs/{folder.name}/policy"
    assert f"python -m train.evaluate policy={path}" in done.stdout and f"rfx deploy {path} --robot sim" in done.stdout
    assert "640 of 640 steps" in done.stdout and len(re.findall(r"^evaluated", done.stdout, re.MULTILINE)) == 3
    assert "\x1b[" not in done.stdout  # no terminal, no colours


def test_tags_of_the_logs_are_names_of_the_configuration(run) -> None:
    from tiny_run import events

    found = {tag for _, tag, _ in events(run[0])}
    assert {"episode/error_vx", "reward/tilt", "ppo/kl", "evaluation/falls_per_episode"} <= found


@pytest.mark.e2e
def test_a_sweep_over_networks_ends_with_a_table_of_three_rows(tmp_path: Path) -> None:
    done = command(
        "-m",
        "+robot=go2",
        "policy.hidden=[128,128],[256,256],[512,256,128]",
        *SMALL,
        "trainer.total_steps=128",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "runs").iterdir()
    rows = list(csv.DictReader((sweep / "sweep.csv").open()))
    assert [row["policy.hidden"] for row in rows] == ["[128,128]", "[256,256]", "[512,256,128]"]
    assert all(row["status"] == "finished" and float(row["env_steps_per_s"]) > 0 for row in rows)
    assert [rfx.load_policy(row["policy"]).policy.hidden for row in rows] == [[128, 128], [256, 256], [512, 256, 128]]
    table = done.stdout.rpartition("Final evaluations")[2]
    for row in rows:
        (line,) = (line for line in table.splitlines() if row["policy.hidden"] in line)
        assert f"{float(row['error_vx']):.3f}" in line


@pytest.mark.e2e
def test_a_sweep_given_again_with_more_seeds_keeps_what_it_has(tmp_path: Path) -> None:
    given = "-m", "+robot=go2", *SMALL, "policy.hidden=[16]", "trainer.total_steps=128", "hydra.sweep.dir=sweep"
    for seeds in (2, 3):
        done = command(*given, f"seeds={seeds}", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        first = [(tmp_path / "sweep" / run / "result.json").read_text() for run in ("0", "1")]
        if seeds == 2:
            before = first
    rows = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open()))
    assert first == before and [(row["seed"], row["status"]) for row in rows] == [
        ("0", "finished"),
        ("1", "finished"),
        ("2", "finished"),
    ]


@pytest.mark.e2e
def test_a_failed_run_of_a_sweep_is_shown_and_the_others_still_run(tmp_path: Path) -> None:
    done = command(
        "-m", "+robot=go2", "seed=1,2", "policy.hidden=[0],[16]", *SMALL, "trainer.total_steps=128", folder=tmp_path
    )
    assert done.returncode == 1
    (sweep,) = (tmp_path / "runs").iterdir()
    rows = list(csv.DictReader((sweep / "sweep.csv").open()))
    assert [(row["seed"], row["policy.hidden"], row["status"]) for row in rows] == [
        ("1", "[0]", "failed"),
        ("1", "[16]", "finished"),
        ("2", "[0]", "failed"),
        ("2", "[16]", "finished"),
    ]
    assert "policy.hidden is [0]" in rows[0]["error"] and "policy.hidden is [0]" in done.stderr
    assert done.stdout.rpartition("Final evaluations")[2].count("failed") == 2


@pytest.mark.e2e
def test_ctrl_c_in_a_terminal_stops_cleanly_with_a_policy_on_disk(tmp_path: Path) -> None:
    process, terminal = in_terminal(
        [
            "+robot=go2",
            *SMALL,
            "policy.hidden=[16]",
            "trainer.total_steps=1e9",
            "trainer.evaluate_every=256",
            "hydra.run.dir=run",
        ],
        tmp_path,
    )
    shown = read_until(terminal, b"saved")
    os.write(terminal, b"\x03")
    shown += read_until(terminal, None)
    assert process.wait(60) == 128 + signal.SIGINT, shown.decode()
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert "Traceback" not in text and "Stopped after" in text and "run/policy" in text
    assert rfx.load_policy(tmp_path / "run" / "policy").training_info["steps"] >= 256
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "stopped"


def in_terminal(arguments: list[str], folder: Path) -> tuple[subprocess.Popen, int]:
    """The command with a pseudo-terminal as its own, and the other end of that."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "train", *arguments],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
        env=environment() | {"TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    return process, ours


def take_terminal() -> None:
    """Make standard input the terminal whose Ctrl-C reaches this process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(terminal: int, text: bytes | None, limit_s: float = 120.0) -> bytes:
    """What the terminal shows up to text, or to the end without one."""
    shown, begin = b"", time.monotonic()
    while text is None or text not in shown:
        assert time.monotonic() - begin < limit_s, shown.decode()
        try:
            more = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        shown += more
    return shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no robot given: choose one with +robot=NAME, possible are a1, anymal_c"),
        (["robot=go2"], "+robot=NAME"),
        (["preset=deploy", "policy.hidden=[8]"], ": python -m train +robot=NAME preset=deploy 'policy.hidden=[8]'\n"),
        (
            ["env.num_envs=64"],
            "env.num_envs comes with a robot, and no robot is given: choose one with +robot=NAME, possible are a1, anymal_c",
        ),
        (["+robot=go2", "task=leged"], "unknown task 'leged': did you mean 'legged'?"),
        (
            ["+robot=go2", "env.rewards.yaw_rate_precision.term=yaw_rat"],
            "unknown term 'yaw_rat' among rewards: did you mean 'yaw_rate'?",
        ),
        (["preset=deploy", "robot=go2"], ": python -m train +robot=NAME preset=deploy\n"),
        (["+robot=go2", "preset=deploi"], "unknown preset 'deploi': did you mean 'deploy'?"),
        (
            ["--unknown-flag"],
            "unknown option '--unknown-flag': Settings are written key=value; --help tells what can be set\n",
        ),
        (["+robot=go2", "--multirum", "seed=1,2"], "did you mean '--multirun'?"),
        (["+robot=go2", "--trainer.total_steps=5"], "settings have no dashes, trainer.total_steps=5\n"),
        (
            ["+robot=go2", "-m", "seed=1,2"],
            "seed=1,2 stands apart from the other settings: write options such as -m before all of them\n",
        ),
        (["--robot", "go2"], "settings have no dashes, +robot=go2\n"),
        (["--robot=go2"], "settings have no dashes, +robot=go2\n"),
        (["+robot=go2", "--preset", "deploy"], "settings have no dashes, +preset=deploy\n"),
        (["+robot=go2", "--seed", "3"], "settings have no dashes, seed=3\n"),
        (["+robot=go2", "env.rewards.tilt=-3"], "write env.rewards.tilt.weight=-3, or ~env.rewards.tilt"),
        (["+robot=go2", "env.commands.uniform_velocity=1"], "write env.commands.uniform_velocity.vx=1"),
        (
            ["+robot=go2", "env.commands.uniform_velocity.vx=[1,-1]"],
            "env.commands.uniform_velocity.vx is [1, -1]: it must be [lowest, highest]",
        ),
        (
            ["+robot=go2", "env.resets.joint_position.range_rad=[0.2,0.1]"],
            "env.resets.joint_position.range_rad is [0.2, 0.1]",
        ),
        (["+robot=go2", "start_from=nowhere"], "start_from=nowhere: it is no folder"),
        (["+robot=go2", "--cfg"], "argument --cfg/-c: expected one argument"),
        (["+robot=go22"], "unknown robot 'go22': did you mean 'go2'?"),
        (["+robot=go2", "env.num_env=3"], "unknown key 'env.num_env': did you mean 'env.num_envs'?"),
        (["+robot=go2", "num_envs=3"], "did you mean 'env.num_envs'?"),
        (["+robot=go2", "+env.num_env=3"], "unknown key 'env.num_env': did you mean 'num_envs'?"),
        (["+robot=go2", "env.rewards.joint_torque.weigth=1"], "+env.rewards.joint_torque.weigth=VALUE"),
        (["+robot=go2", "+env.rewards.joint_torqe.weight=1"], "did you mean 'joint_torque'?"),
        (["+robot=go2", "+env.rewards.joint_torque.power=1"], "joint_torque"),
        (["+robot=go2", "env.num_envs=many"], "env.num_envs is 'many': it must be a whole number"),
        (["+robot=go2", "env.num_envs=-1"], "env.num_envs is -1"),
        (["+robot=go2", "policy.hidden=[256,0]"], "policy.hidden is [256, 0]"),
        (["+robot=go2", "ppo.num_minibatches=7"], "it does not divide the rollout"),
        (["+robot=go2", "policy.hidden=[1],[2]"], "add -m to run them one after the other"),
        (["+robot=go2", "policy.hidden=[1,"], "cannot read 'policy.hidden=[1,'"),
        (["+robot=go2", "seed"], "cannot read 'seed'"),
        (["+robot=go2", "env.timestep_s=0.003"], "0.003"),
        (["+robot=go2", "env.mjcf=none.xml"], "none.xml"),
        (["+robot=go2", "env.num_envs=${none}"], "Interpolation key 'none' not found"),
        (["+robot=go2", "hydra.run.dir=/proc/none/run"], "choose a folder that can be written with hydra.run.dir=PATH"),
        (["-m", "+robot=go2", "hydra.sweep.dir=/proc/none/sweep", "seed=1,2"], "hydra.sweep.dir=PATH"),
        (["+robot=go2", "hydra/launcher=submitit_slurm"], "pip install -e '.[slurm]' adds the launcher submitit_slurm"),
        (["+robot=go2", "seeds=3"], "seeds=3 is for sweeps, which run each point so often: add -m"),
        (
            ["-m", "+robot=go2", "seed=1,2", "seeds=3"],
            "seeds=3 gives every point the seeds from seed on, and seed=1,2 several",
        ),
        (["-m", "+robot=go2", "hydra/sweeper=optuna"], "has nothing to search: give a key a range"),
        (
            ["-m", "+robot=go2", "hydra/sweeper=optuna", "ppo.gama=interval(0.9,1)"],
            "unknown key 'ppo.gama': did you mean 'ppo.gamma'?",
        ),
        (
            ["-m", "+robot=go2", "hydra/launcher=ray", "ray.cpus_per_job=0"],
            "ray.cpus_per_job is 0: it must be a number of at least 1",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.*")), "a run that never began leaves nothing behind"


def test_a_key_that_stands_twice_in_a_file_of_ones_own_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "robot" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\ndefaults: [{/tasks: legged}, _self_]\nrobot: go2\nseed: 1\nseed: 2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "--config-dir", str(tmp_path), "+robot=mine"])
    with pytest.raises(SystemExit) as stop:
        main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and str(file) in error and "'seed'" in error and error.count("\n") == 1


def test_bad_input_shows_its_traceback_to_who_asks_for_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", "+robot=go2", "env.num_envs=many"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment() | {"HYDRA_FULL_ERROR": "1"},
    )
    assert done.returncode != 0 and "Traceback" in done.stderr and "env.num_envs is 'many'" in done.stderr
