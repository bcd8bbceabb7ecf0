"""Checkpoints: exact, whole or absent, and damage that is noticed, whatever was damaged."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from train.runs.checkpoint import checkpoints, newest_checkpoint, read_checkpoint, set_aside_after, write_checkpoint

KINDS = (np.float32, np.float64, np.int64, np.bool_)


def state(value: int = 0) -> dict:
    rng = np.random.default_rng(value)
    return {
        "weights": rng.standard_normal((40, 30)).astype(np.float32),
        "rows": rng.standard_normal((8, 170)),
        "generator": rng.bit_generator.state,
        "steps": value,
        "best": float("inf"),
    }


def same(left: dict, right: dict) -> bool:
    """Equal to the bit: NaN equals NaN, 0.0 is not -0.0."""

    def bits(values: dict) -> dict:
        return {
            name: (v.dtype, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else json.dumps(v)
            for name, v in values.items()
        }

    return bits(left) == bits(right)


def refuse_to_tell(line: str) -> None:
    raise AssertionError(line)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=8),
        st.one_of(
            *(arrays(kind, array_shapes(max_side=4)) for kind in KINDS),
            st.integers(),
            st.floats(),
            st.none(),
            st.text(max_size=5),
            st.dictionaries(st.text("xy", max_size=3), st.integers(0, 2**128)),
        ),
        max_size=5,
    )
)
def test_what_is_written_is_read_to_the_bit(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("run")
    assert same(read_checkpoint(write_checkpoint(folder, 7, values, keep=1)), values)


def test_a_generator_goes_on_with_the_same_numbers(tmp_path):
    rng = np.random.default_rng(3)
    rng.standard_normal(5, np.float32)  # half of a 64-bit word is kept for the next float
    read = read_checkpoint(write_checkpoint(tmp_path, 1, {"rng": rng.bit_generator.state}, keep=1))
    other = np.random.default_rng()
    other.bit_generator.state = read["rng"]
    assert other.standard_normal(9, np.float32).tolist() == rng.standard_normal(9, np.float32).tolist()


def test_the_newest_are_kept_in_order_of_steps(tmp_path):
    for steps in (5, 20, 100, 1000):
        write_checkpoint(tmp_path, steps, state(steps), keep=2)
    assert [int(path.name) for path in checkpoints(tmp_path)] == [100, 1000]
    path, read = newest_checkpoint(tmp_path, refuse_to_tell)
    assert int(path.name) == 1000 and same(read, state(1000))


def test_the_one_just_written_is_kept_though_newer_ones_are_there(tmp_path):
    for steps in (5, 50, 10):
        write_checkpoint(tmp_path, steps, state(steps), keep=1)
    assert 10 in [int(path.name) for path in checkpoints(tmp_path)]


def test_sha256sum_agrees(tmp_path):
    path = write_checkpoint(tmp_path, 1, state(), keep=1)
    result = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=path, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.count("OK") == 2
    (path / "state.json").write_bytes(b"{}")
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=path, capture_output=True).returncode == 1


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["state.safetensors", "state.json", "SHA256SUMS"]),
    place=st.floats(0, 1, exclude_max=True),
    damage=st.sampled_from(["bit", "cut", "zeros", "missing", "empty folder"]),
)
def test_any_damage_falls_back_to_the_one_before_and_says_so(tmp_path_factory, name, place, damage):
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(folder, 1, state(1), keep=2)
    newest = write_checkpoint(folder, 2, state(2), keep=2)
    data = bytearray((newest / name).read_bytes())
    at = int(place * len(data))
    if damage == "bit":
        data[at] ^= 1
    elif damage == "cut":
        del data[at:]
    elif damage == "zeros":
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    (newest / name).write_bytes(data)
    if damage == "missing":
        (newest / name).unlink()
    elif damage == "empty folder":
        shutil.rmtree(newest)
        newest.mkdir()
    told = []
    path, read = newest_checkpoint(folder, told.append)
    if read["steps"] == 2:  # only where the damage is none: nothing that was read has changed
        assert name == "SHA256SUMS" and same(read, state(2)) and not told
    else:
        assert same(read, state(1)) and len(told) == 1 and str(newest) in told[0] and "damaged" in told[0]
    set_aside_after(path)
    assert newest_checkpoint(folder, refuse_to_tell)[0] == path


def test_no_whole_checkpoint_at_all_is_an_error(tmp_path):
    path = write_checkpoint(tmp_path / "checkpoints", 1, state(), keep=1)
    (path / "state.json").unlink()
    with pytest.raises(ValueError, match="no checkpoint that is whole"):
        newest_checkpoint(tmp_path / "checkpoints", lambda line: None)
    with pytest.raises(ValueError, match="no checkpoint"):
        newest_checkpoint(tmp_path / "elsewhere", lambda line: None)


def digest(path: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(path.iterdir()))).hexdigest()


@pytest.mark.parametrize("limit", [0, 1, 5_000, 15_000])
def test_a_write_that_fails_half_way_leaves_the_one_before(tmp_path, limit):
    """The process may write no file longer than limit bytes; a checkpoint is 16 kB.

    A real failing write(2), as on a full disk.
    """
    before = digest(write_checkpoint(tmp_path, 1, state(1), keep=1))
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write_checkpoint(tmp_path, 2, state(2), keep=1)
            os._exit(1)
        except OSError:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    path, read = newest_checkpoint(tmp_path, refuse_to_tell)
    assert int(path.name) == 1 and digest(path) == before and same(read, state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["000000000001"]


@pytest.mark.parametrize("call", range(1, 11))
def test_a_kill_at_any_system_call_of_a_write_leaves_a_whole_checkpoint(tmp_path, call):
    """SIGKILL at the call-th fsync or rename of the second write: either checkpoint is then the newest, whole, and the
    next write works.
    """
    write_checkpoint(tmp_path, 1, state(1), keep=1)
    child = os.fork()
    if not child:
        count = iter(range(1, 100))

        def kill_at(function):
            def wrapped(*arguments, **keywords):
                if next(count) == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **keywords)

            return wrapped

        for name in ("fsync", "rename", "mkdir"):
            setattr(os, name, kill_at(getattr(os, name)))
        write_checkpoint(tmp_path, 2, state(2), keep=1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    path, read = newest_checkpoint(tmp_path, refuse_to_tell)
    assert same(read, state(int(path.name)))
    write_checkpoint(tmp_path, 3, state(3), keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000003"]
