"""docs/loop.md: every block of code runs, in order, with small runs in place of the page's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import train.commands.from_python
from train import TrainedRun
from train.runs.metrics import read_metrics

PAGE = (Path(__file__).parents[2] / "docs" / "loop.md").read_text()
BLOCKS = re.findall(r"^```python(?: file=(\S+))?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LEGGED = (
    "env.num_envs=32",
    "trainer.rollout_steps=8",
    "trainer.total_steps=1024",
    "trainer.evaluate_every=512",
    "trainer.evaluation_envs=4",
    "trainer.evaluation_s=3",
    "trainer.final_evaluation_envs=4",
    "trainer.final_evaluation_s=3",
    "policy.hidden=[16]",
)
SECTIONS = {"rfx": range(7), "own": range(7, 8), "sb3": range(8, 10)}  # of the page: numbers of its blocks


def run_blocks(numbers: range, names: dict) -> dict:
    """Run blocks in one namespace; those of a file are written into the working folder."""
    for number in numbers:
        file, block = BLOCKS[number]
        if file:
            Path(file).write_text(block)
        else:
            exec(compile(block, f"docs/loop.md, block {number}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def small_runs(tmp_path, monkeypatch):
    """The page's runs of a robot are short ones with few robots, in a folder of their own."""
    whole = train.commands.from_python.take_robot_folders
    monkeypatch.setattr(
        train.commands.from_python,
        "take_robot_folders",
        lambda given: whole([*given, *(LEGGED if "+robot=go2" in given else ())]),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_every_block_is_of_a_section():
    assert [number for numbers in SECTIONS.values() for number in numbers] == list(range(len(BLOCKS)))
    assert "PPO on one page" in PAGE and "def network" in BLOCKS[7][1] and "make_vec_env" in BLOCKS[8][1]


@pytest.mark.e2e
def test_runs_callbacks_and_loggers_of_the_page(capsys):
    names = run_blocks(SECTIONS["rfx"], {"__name__": "page"})
    assert names["action"].shape == (4, 12) and names["reward"].shape == (4,)
    assert isinstance(names["run"], TrainedRun) and (names["run"].status, names["run"].folder) == (
        "finished",
        Path("runs/logged"),
    )
    early = read_metrics(Path("runs/early"), "episode/length")
    assert early[-1, 1] > 60.0 and (early[:-1, 1] <= 60.0).all() and early[-1, 0] < 200_000
    assert (
        names["best"].score < float("inf") and names["best"].kl == read_metrics(Path("runs/watched"), "ppo/kl")[-1, 1]
    )
    lines = Path("runs/logged/lines.txt").read_text().splitlines()
    assert [float(line.split()[1]) for line in lines] == list(read_metrics(Path("runs/logged"), "ppo/kl")[:, 1])
    assert "finished 1024 runs/" in capsys.readouterr().out


@pytest.mark.e2e
def test_the_loop_of_the_page_updates_its_networks(capsys):
    torch = pytest.importorskip("torch")
    names = run_blocks(SECTIONS["own"], {"__name__": "page"})
    assert len(re.findall("mean reward", capsys.readouterr().out)) == names["iterations"] == 3
    assert names["ratio"].isfinite().all() and not torch.equal(names["log_std"], torch.full((12,), -0.5))


@pytest.mark.e2e
def test_stable_baselines3_learns_in_the_environments_of_the_page():
    pytest.importorskip("stable_baselines3")
    import gymnasium

    names = run_blocks(SECTIONS["sb3"], {"__name__": "page", "gymnasium": gymnasium})
    assert names["slow"].observation_space.shape == (64,) and names["batch"].observation_space.shape == (48,)
    assert names["model"].num_timesteps == 64 * 24 and names["model"].env.num_envs == 64
