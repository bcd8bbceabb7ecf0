"""Short training runs in processes of their own, to be killed, and compared to the bit."""

import csv
import functools
import json
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorboardX  # noqa: F401  (brings torch along: once here, and not in every child)
from rich.console import Console

from envs.settings.configs import compose
from train.runs.checkpoint import newest_checkpoint
from train.runs.resume import FREE, read_record
from train.task.config import TrainConfig

# Children are forked from a server that has imported everything, and so start in no time.
children = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(["train.runs.run", "tiny_run", "warm"])
scratch = tempfile.TemporaryDirectory()

TINY = {
    "env.num_envs": 8,
    "env.episode_length_s": 0.6,
    "env.command_interval_s": [0.1, 0.3],
    "policy.hidden": [16],
    "ppo.num_epochs": 2,
    "ppo.num_minibatches": 2,
    "trainer.rollout_steps": 8,
    "trainer.total_steps": 24 * 64,
    "trainer.evaluate_every": 8 * 64,
    "trainer.evaluation_envs": 4,
    "trainer.evaluation_s": 0.3,
    "trainer.final_evaluation_envs": 4,
    "trainer.final_evaluation_s": 0.3,
    "trainer.checkpoint_every": 2 * 64,
}


def make_config(**changed) -> TrainConfig:
    whole = compose("robot", "go2")
    values = {
        "robot": "go2",
        "env": whole["env"],
        "policy": {name: whole["policy"][name] for name in ("critic_terms", "symmetric")},
        "ppo": {},
        "trainer": {},
    }
    for key, value in (TINY | changed).items():
        group, _, name = key.rpartition(".")
        (values[group] if group else values)[name] = value
    return TrainConfig.from_dict(values)


def run(folder: Path, changed: dict, kill_at: int = 0) -> None:
    """Train in this process, which kills itself at the kill_at-th time that it forces something to disk.

    What it says goes to folder.log.
    """
    from train.runs.run import train

    if kill_at:
        fsync, count = os.fsync, iter(range(1, 10**6))

        def killing_fsync(descriptor):
            if next(count) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(descriptor)

        os.fsync = killing_fsync
    with open(f"{folder}.log", "a", buffering=1) as log:
        result = train(make_config(**changed), folder, Console(file=log, width=500))
    Path(f"{folder}.cpu_s").write_text(str(time.process_time()))
    raise SystemExit(result["exit_code"])


def start(folder: Path, changed: dict, kill_at: int = 0, target=run):
    """A process that trains into folder."""
    process = children.Process(target=target, args=(folder, changed, kill_at))
    process.start()
    return process


def finish(folder: Path, **changed) -> Path:
    """A run that ended well."""
    process = start(folder, changed)
    process.join()
    assert process.exitcode == 0
    return folder


@functools.cache
def reference_run() -> tuple[Path, float]:
    """Folder of a run that nothing interrupted, and how many seconds of CPU time it took."""
    folder = Path(scratch.name)
    finish(folder / "warm")  # compiles kernels, where they are not cached yet
    return finish(folder / "run"), float((folder / "run.cpu_s").read_text())


def cpu_s(process) -> float:
    """The CPU time that a process has used so far; nothing once it has ended."""
    try:
        user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def events(folder: Path) -> list:
    """(step, tag, value as it is written) of every scalar in the folder's metrics, durations left out."""
    with open(folder / "metrics.csv", newline="") as file:
        return [
            (int(row["steps"]), tag, value)
            for row in csv.DictReader(file)
            for tag, value in row.items()
            if value and tag != "steps" and not tag.startswith("time")
        ]


def refuse_to_tell(line: str) -> None:
    """Where nothing is to be told."""
    raise AssertionError(line)


def final_state(folder: Path) -> dict:
    """All that the last checkpoint holds but times, as bytes."""
    _, state = newest_checkpoint(folder / "checkpoints", refuse_to_tell)
    assert not state.pop("run.elapsed_s") < 0
    shown = {tag: value for tag, value in state.pop("run.shown").items() if not tag.startswith("time/")}
    state.pop("run.provenance")  # the checkout's state, which can change while tests run
    config = {key: value for key, value in state.pop("run.config").items() if key not in FREE}
    plain = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)} | {
        "shown": shown,
        "config": config,
    }
    return {name: value.tobytes() for name, value in state.items() if isinstance(value, np.ndarray)} | {
        "": json.dumps(plain, sort_keys=True)
    }


def assert_same_run(folder: Path, reference: Path) -> None:
    """Same weights, policy, metrics and last checkpoint, to the bit."""
    assert read_record(folder)["fingerprint"] == read_record(reference)["fingerprint"]
    for name in ("model.safetensors", "normalizer.json"):
        assert (folder / "policy" / name).read_bytes() == (reference / "policy" / name).read_bytes()
    assert (folder / "evaluation.json").read_text() == (reference / "evaluation.json").read_text()
    assert events(folder) == events(reference)
    one, other = final_state(folder), final_state(reference)
    differing = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    assert not differing
