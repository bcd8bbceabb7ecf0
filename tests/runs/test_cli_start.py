"""How `python -m train` begins: Ctrl-C before there is anything to save, and the folder that a run or sweep gets for
itself.
"""

import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from envs.settings.configs import compose
from train.commands import train as entry
from train.runs.lock import FolderInUse, sole_process
from train.sweeps.sweep import claim_folder
from train.task.errors import InputError

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
            lambda values, folder, *more, **options: folders.append(folder) or {"status": "finished", "exit_code": 0},
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


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Begins a run, by the command line, whose training raises what it is given."""

    def fail(error: Exception, *arguments: str) -> None:
        def train(values, folder, *more, **settings):
            with sole_process(folder):
                raise error

        monkeypatch.setattr(entry, "train", train)
        monkeypatch.setattr(sys, "argv", ["train", "+robot=go2", *arguments])
        with pytest.raises(SystemExit) as end:
            entry.main()
        assert end.value.code == 2

    monkeypatch.chdir(tmp_path)
    return fail


WRONG = InputError("this cannot be trained")


def test_a_folder_that_another_process_trains_in_stays_its_own(fail, tmp_path: Path, capsys) -> None:
    """Whether that process has written into it yet or not."""
    with sole_process(tmp_path / "here"):
        fail(WRONG, "hydra.run.dir=here")
        assert "another process is training in" in capsys.readouterr().err
        with pytest.raises(FolderInUse), sole_process(tmp_path / "here"):
            pass


def test_nor_is_it_removed_where_the_other_came_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as other:

        def train(values, folder, *more, **settings):
            other.enter_context(sole_process(folder))
            raise WRONG

        monkeypatch.setattr(entry, "train", train)
        monkeypatch.setattr(sys, "argv", ["train", "+robot=go2", "hydra.run.dir=here"])
        with pytest.raises(SystemExit):
            entry.main()
        assert (tmp_path / "here" / ".hydra").is_dir()


def test_only_a_folder_that_the_run_made_is_removed(fail, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    fail(WRONG, "hydra.run.dir=here")
    assert (tmp_path / "here").is_dir()
    fail(WRONG, "hydra.run.dir=there/deep")
    fail(WRONG)
    assert (tmp_path / "there").is_dir() and not [*(tmp_path / "there").iterdir(), *(tmp_path / "runs").iterdir()]


def test_a_run_that_never_began_stays_when_going_on_with_it_is_refused(fail, tmp_path: Path) -> None:
    (tmp_path / "here" / ".hydra").mkdir(parents=True)
    fail(WRONG, "resume=here")
    assert (tmp_path / "here" / ".hydra").is_dir() and not any((tmp_path / "runs").iterdir())


def test_a_sweep_that_meets_another_writes_no_result_into_its_run(fail, tmp_path: Path) -> None:
    with sole_process(tmp_path / "here" / "0"):
        fail(WRONG, "-m", "seed=1,2", "hydra.sweep.dir=here")
    assert not list((tmp_path / "here").glob("*/result.json")) and not (tmp_path / "here" / "1").exists()


@pytest.mark.e2e
def test_of_two_processes_with_one_folder_one_trains_and_the_other_harms_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "train",
        "+robot=go2",
        "env.num_envs=8",
        "trainer.rollout_steps=8",
        "ppo.num_minibatches=2",
        "policy.hidden=[8]",
        "trainer.total_steps=1280",
        "trainer.final_evaluation_envs=2",
        "trainer.final_evaluation_s=0.5",
        "hydra.run.dir=here",
    ]
    both = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=120.0)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert all((tmp_path / "here" / name).is_file() for name in ("policy/model.safetensors", "result.json"))


def test_a_lock_is_never_one_of_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, flock, removed = tmp_path / "run", fcntl.flock, []

    def removing(*arguments) -> None:  # a process that gives the folder up comes between
        if not removed:
            removed.append(folder.rmdir())
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", removing)
    with sole_process(folder):
        assert folder.is_dir()
        with pytest.raises(FolderInUse), sole_process(folder):
            pass


def test_processes_that_begin_at_once_get_a_folder_each(tmp_path: Path) -> None:
    def claim(_: int) -> Path:
        config = OmegaConf.create(
            {"hydra": {"run": {"dir": str(tmp_path / "runs" / "now")}, "overrides": {"hydra": []}}}
        )
        return claim_folder(config, "run")[0]

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(claim, range(8)))
    assert {folder.name for folder in folders} == {"now", *(f"now_{number}" for number in range(2, 9))}
    assert all(folder.is_dir() for folder in folders)


def test_a_robot_of_ones_own_is_the_folder_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    composed = []
    monkeypatch.setattr(
        entry,
        "train",
        lambda values, folder, *more: (
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
