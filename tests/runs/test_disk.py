"""A full disk, a folder that is gone or not writable, a clock that jumps: training goes on, says so once, and loses
nothing it had.
"""

import ctypes
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tiny_run import assert_same_run, finish, reference_run, refuse_to_tell, run, start

from rfx.system.folders import replace_file
from train.runs.checkpoint import checkpoints, newest_checkpoint
from train.runs.disk import Writes
from train.runs.resume import read_record

LONGER = {"trainer.total_steps": 120 * 64}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB: about five checkpoints."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root; test_checkpoint.py shows the same with a limit on file sizes")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def wait_for_checkpoint(folder: Path, process) -> None:
    while process.is_alive() and not (
        checkpoints(folder / "checkpoints") and int(checkpoints(folder / "checkpoints")[-1].name)
    ):
        time.sleep(0.005)
    assert process.is_alive()


def fill(place: Path) -> Path:
    """A file that takes all that is left of the file system."""
    with open(place / "filler", "wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return place / "filler"


def said(folder: Path) -> str:
    return Path(f"{folder}.log").read_text()


@pytest.mark.e2e
def test_a_disk_that_fills_up_costs_nothing_that_was_there(small_disk, tmp_path):
    (tmp_path / "log").mkdir()
    folder = small_disk / "run"
    os.symlink(tmp_path / "log" / "run.log", f"{folder}.log")  # what it says is on another disk
    process = start(folder, {})
    wait_for_checkpoint(folder, process)
    filler = fill(small_disk)
    process.join()
    assert process.exitcode == 1  # it trained to the end, and could not write the policy
    assert (
        said(folder).count("could not write the checkpoint") == 1
        and said(folder).count("could not write the metrics") == 1
    )
    assert "no space left" in said(folder)
    path, state = newest_checkpoint(folder / "checkpoints", refuse_to_tell)
    assert 0 < state["steps"] <= 24 * 64
    filler.unlink()
    finish(folder, resume=str(folder))
    assert_same_run(folder, reference_run()[0])


@pytest.mark.e2e
def test_a_disk_that_is_full_for_a_while_is_written_again_later(small_disk):
    folder = small_disk / "run"
    process = start(folder, LONGER)
    wait_for_checkpoint(folder, process)
    filler = fill(small_disk)
    while "could not write the checkpoint" not in said(folder):
        time.sleep(0.01)
    filler.unlink()
    process.join()
    assert process.exitcode == 0 and newest_checkpoint(folder / "checkpoints", refuse_to_tell)[1]["steps"] == 120 * 64
    assert (folder / "policy" / "model.safetensors").exists()


@pytest.mark.e2e
def test_a_folder_that_is_removed_is_made_again(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, {})
    wait_for_checkpoint(folder, process)
    shutil.rmtree(folder, ignore_errors=True)
    process.join()
    assert process.exitcode == 0
    assert read_record(folder)["fingerprint"] == read_record(reference_run()[0])["fingerprint"]
    assert newest_checkpoint(folder / "checkpoints", refuse_to_tell)[1]["steps"] == 24 * 64 and list(
        folder.glob("events*")
    )


def run_without_privileges(folder: Path, changed: dict, kill_at: int) -> None:
    """As an owner who is bound by permissions; root is not."""
    header, no_capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, no_capabilities) == 0
    run(folder, changed)


@pytest.mark.e2e
def test_a_folder_that_may_not_be_written_keeps_its_checkpoint(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, {}, target=run_without_privileges)
    wait_for_checkpoint(folder, process)
    for path in (folder / "checkpoints", folder):
        path.chmod(0o500)
    process.join()
    assert (
        process.exitcode == 1
        and said(folder).count("could not write the checkpoint") == 1
        and "permission denied" in said(folder)
    )
    assert newest_checkpoint(folder / "checkpoints", refuse_to_tell)[1]["steps"] > 0
    for path in (folder, folder / "checkpoints"):
        path.chmod(0o700)
    finish(folder, resume=str(folder))
    assert_same_run(folder, reference_run()[0])


def run_with_a_jumping_clock(folder: Path, changed: dict, kill_at: int) -> None:
    """The wall clock jumps by a day at every look, back and forth."""
    real, calls = time.time, iter(range(10**9))
    time.time = lambda: real() + 86400.0 * (1 if next(calls) % 2 else -1)
    run(folder, changed)


@pytest.mark.e2e
def test_a_clock_that_jumps_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, {}, target=run_with_a_jumping_clock)
    process.join()
    assert process.exitcode == 0
    assert_same_run(folder, reference_run()[0])


def test_failures_are_told_once_for_each_kind_and_nothing_else_is_caught():
    told = []
    writes, done = Writes(told.append), []
    for what in ("the checkpoint", "the metrics", "the checkpoint"):
        with writes.attempt(what):
            raise OSError(28, "No space left on device", "/some/file")
    with writes.attempt("the checkpoint"):
        done.append(1)
    assert (
        done
        and len(told) == 2
        and "the checkpoint in /some/file: no space left" in told[0]
        and "the metrics" in told[1]
    )
    with pytest.raises(ValueError), writes.attempt("the checkpoint"):
        raise ValueError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    replace_file(tmp_path / "new" / "run.json", b"first")
    path = tmp_path / "new" / "run.json"

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        replace_file(path, b"second")
    assert path.read_bytes() == b"first" and list(path.parent.iterdir()) == [path]
    monkeypatch.undo()
    replace_file(path, b"third")
    assert path.read_bytes() == b"third"
