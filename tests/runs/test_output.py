"""A run whose output cannot be written, and one whose terminal is gone: neither ends with nothing."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tiny_run import make_config

from rfx.system.output import Lasting, lasting_output
from train.runs.progress import Progress
from train.runs.run import StopSignal, train
from train.sweeps.jobs import stop_signal

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "env.num_envs=8",
    "trainer.rollout_steps=8",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "policy.hidden=[8]",
    "threads=1",
    "trainer.evaluation_envs=2",
    "trainer.final_evaluation_envs=2",
    "trainer.checkpoint_every=1e9",
]
WALKING = ["+robot=go2", *SMALL, "trainer.evaluation_s=0.5", "trainer.final_evaluation_s=0.5"]
SWINGING = ["+robot=gym", "env.id=Pendulum-v1", *SMALL, "env.num_envs=2"]  # each environment in a process of its own
INTO = "hydra.run.dir=run"


class Failing(io.StringIO):
    """A stream that writes what it is given until it is broken."""

    error: Exception | None = None

    def write(self, text):
        if self.error:
            raise self.error
        return super().write(text)

    def fileno(self):
        raise io.UnsupportedOperation("fileno")


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "no reader"),
        OSError(errno.EIO, "no terminal"),
        OSError(errno.ENOSPC, "full"),
        ValueError("I/O operation on closed file"),
    ],
)
def test_what_cannot_be_written_is_dropped_and_what_can_is_written(error):
    stream = Failing()
    lasting = Lasting(stream)
    print("one", file=lasting, flush=True)
    stream.error = error
    print("two", file=lasting, flush=True)
    Console(file=lasting).print("three")
    stream.error = None
    print("four", file=lasting)
    assert stream.getvalue() == "one\nfour\n"


def test_standard_output_is_put_back(monkeypatch):
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), lasting_output():
        assert isinstance(sys.stdout, Lasting)
        raise KeyError
    assert (sys.stdout, sys.stderr) == before
    monkeypatch.setattr(sys, "stdout", None)  # as where there is none
    with lasting_output():
        print("nothing")


def test_a_run_whose_output_breaks_ends_well(tmp_path, monkeypatch):
    out = Failing()
    out.error = BrokenPipeError(errno.EPIPE, "no reader")
    monkeypatch.setattr(sys, "stdout", out)
    result = train(make_config(**{"trainer.total_steps": 64, "trainer.final_evaluation_s": 0.1}), tmp_path / "run")
    assert result["status"] == "finished" and (tmp_path / "run" / "policy").is_dir()


@pytest.fixture
def handlers():
    """The signals' handlers, put back after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted_and_a_hangup_may_come_twice(number, handlers):
    with StopSignal(Progress(1, (), Console(quiet=True), 0.0)) as stop:
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGHUP)
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert {signal.getsignal(each) for each in handlers} == {*handlers.values()}
    with stop_signal() as received:  # of a sweep's jobs
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert received == [signal.SIGHUP]


def test_under_nohup_a_hangup_stays_ignored(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal(Progress(1, (), Console(quiet=True), 0.0)) as stop, stop_signal() as received:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.signal and not received


def start(arguments: list[str], folder: Path, **options) -> subprocess.Popen:
    """The command in a group of its own, as a terminal's foreground job is."""
    return subprocess.Popen(
        [sys.executable, "-m", "train", *arguments],
        cwd=folder,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )


@pytest.mark.e2e
@pytest.mark.parametrize("arguments", [WALKING, SWINGING], ids=["here", "in processes"])
def test_a_run_whose_terminal_is_gone_saves_first(arguments, tmp_path):
    """Every process of the group is told, and nothing can be written any more."""
    process = start([*arguments, INTO, "trainer.total_steps=1e9"], tmp_path, stderr=subprocess.STDOUT)
    while " steps " not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(120) == 128 + signal.SIGHUP
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    newest = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert result["status"] == "stopped" and result["steps"] == newest > 0 and (tmp_path / "run" / "policy").is_dir()


@pytest.mark.e2e
@pytest.mark.parametrize(
    "arguments", [[*WALKING, INTO], ["-m", *WALKING, "seed=0,1", "hydra.sweep.dir=run"]], ids=["a run", "a sweep"]
)
def test_head_ends_no_run(arguments, tmp_path):
    process = start([*arguments, "trainer.total_steps=20000"], tmp_path, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read()
    assert process.wait(240) == 0 and told == ""
    results = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("**/result.json")]
    assert [result["status"] for result in results] == ["finished"] * (2 if "-m" in arguments else 1)
