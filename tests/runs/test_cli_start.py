"""How `python -m train` begins: Ctrl-C before there is anything to save, and the folder that a run or sweep gets for
itself.
"""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from envs.settings.configs import compose
from train.commands import train as entry
from train.sweeps.sweep import claim_folder

ROOT = Path(__file__).resolve().parents[2]
SLOW = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"


@pytest.mark.parametrize("module", ["hydra", "tinygrad"])
def test_ctrl_c_during_the_imports_is_one_line_and_exit_code_130(module: str, tmp_path: Path) -> None:
    """Hydra is the first import; tinygrad comes when the folder of the run is there already, which goes again."""
    (tmp_path / f"{module}.py").write_text(SLOW)  # the current folder comes first in the search for modules
    process = subprocess.Popen(
        [sys.executable, "-m", "train", "+robot=go2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "importing\n"
    assert (tmp_path / "runs").is_dir() == (module == "tinygrad")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30.0) == ("", "interrupted\n") and process.returncode == 128 + signal.SIGINT
    assert not list(tmp_path.glob("runs/*"))


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Begins runs in an empty folder, by the command line, that do nothing; returns their folders."""

    def begin(*arguments: str) -> list[Path]:
        folders: list[Path] = []
        monkeypatch.setattr(
            entry,
            "train",
            lambda values, folder, watch=None: folders.append(folder) or {"status": "finished", "exit_code": 0},
        )
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        entry.main()
        return folders

    monkeypatch.chdir(tmp_path)
    return begin


def take_the_next_minute(ending: str = "") -> set[Path]:
    """Folders as of runs that began in each second of it."""
    now = datetime.now()
    taken = {
        Path.cwd() / "runs" / f"{now + timedelta(seconds=number):%Y-%m-%d_%H-%M-%S}{ending}" for number in range(60)
    }
    for folder in taken:
        folder.mkdir(parents=True)
    return taken


def test_a_run_whose_folder_is_taken_gets_another(begin) -> None:
    taken = take_the_next_minute()
    (folder,), (other,) = begin("+robot=go2"), begin("+robot=go2")
    assert folder.name.endswith("_2") and folder.with_name(folder.name.removesuffix("_2")) in taken
    assert other.name.endswith(("_2", "_3")) and other != folder
    assert (folder / ".hydra" / "config.yaml").is_file() and (folder / "result.json").is_file()
    assert not any(list(path.iterdir()) for path in taken), "nothing is written into another run's folder"


def test_a_sweep_whose_folder_is_taken_gets_another_for_all_its_runs(begin) -> None:
    taken = take_the_next_minute("_sweep")
    folders = begin("-m", "+robot=go2", "seed=1,2")
    sweep = folders[0].parent
    assert [folder.name for folder in folders] == ["0", "1"] and folders[1].parent == sweep
    assert sweep.name.endswith("_sweep_2") and (sweep / "sweep.csv").is_file()
    assert not any(list(path.iterdir()) for path in taken)


def test_a_folder_that_was_asked_for_is_used_as_it_is(begin, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert begin("+robot=go2", "hydra.run.dir=here") == [tmp_path / "here"]
    assert begin("-m", "+robot=go2", "hydra.sweep.dir=here") == [tmp_path / "here" / "0"]
    assert not (tmp_path / "runs").exists()


def test_a_run_that_goes_on_stays_in_its_folder(begin, tmp_path: Path) -> None:
    """The one that would have been made for a new run is gone."""
    (folder,) = begin("+robot=go2")
    (again,) = begin("+robot=go2", f"resume={folder}")
    assert again == folder and list((tmp_path / "runs").iterdir()) == [folder]


def test_processes_that_begin_at_once_get_a_folder_each(tmp_path: Path) -> None:
    def claim(_: int) -> Path:
        config = OmegaConf.create(
            {"hydra": {"run": {"dir": str(tmp_path / "runs" / "now")}, "overrides": {"hydra": []}}}
        )
        return claim_folder(config, "run")

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(claim, range(8)))
    assert {folder.name for folder in folders} == {"now", *(f"now_{number}" for number in range(2, 9))}
    assert all(folder.is_dir() for folder in folders)


def test_a_robot_of_ones_own_is_the_folder_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    composed = []
    monkeypatch.setattr(
        entry,
        "train",
        lambda values, folder: (
            composed.append(OmegaConf.to_container(values))
            or {"status": "finished", "exit_code": 0, "evaluation": None}
        ),
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "robots" / "my_dog").mkdir(parents=True)
    (tmp_path / "robots" / "go2").mkdir()
    for arguments in (
        ["+robot=robots/my_dog", "env.num_envs=4"],
        ["+robot=robots/my_dog/", "preset=deploy"],
        ["+robot=go2"],
        ["+robot=robots/go2"],
    ):
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        entry.main()
    own, deploy, go2, namesake = composed
    assert (
        namesake["robot"] == str(tmp_path / "robots" / "go2") and namesake["env"] == compose("tasks", "legged")["env"]
    )
    assert own["robot"] == deploy["robot"] == str(tmp_path / "robots" / "my_dog") and go2["robot"] == "go2"
    assert own["env"] == compose("tasks", "legged")["env"] | {"num_envs": 4}
    assert deploy["policy"]["critic"] == "privileged" and own["policy"]["critic"] == "shared"
    monkeypatch.setattr(sys, "argv", ["train", "+robot=robots/my_cat"])
    with pytest.raises(SystemExit):
        entry.main()
