"""Sweeps on a Ray cluster: across two nodes, through the death of one, with all folders where the command was given."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed: pip install -e '.[ray]'", allow_module_level=True)

from train.runs.resume import read_record
from train.sweeps.gather import Inbox, Outbox
from train.sweeps.jobs import Job, JobsConfig, connect, run_jobs
from train.task.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "+robot=go2",
    "env.num_envs=16",
    "trainer.rollout_steps=8",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "trainer.evaluation_envs=4",
    "trainer.evaluation_s=2",
    "trainer.final_evaluation_envs=4",
    "trainer.final_evaluation_s=2",
    "policy.hidden=[16]",
]
LONG = ["trainer.total_steps=51200", "trainer.checkpoint_every=1280"]  # 400 iterations
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "RAY_USAGE_STATS_ENABLED": "0",
}


def start(*arguments: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "train", "-m", *SMALL, *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(condition, process: subprocess.Popen, limit_s: float = 240.0):
    """What condition returns, once that is true."""
    begin = time.monotonic()
    while not (found := condition()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() - begin < limit_s, "it takes too long"
        time.sleep(0.1)
    return found


def add_node(cluster):
    """Another node; tried again where Ray, which waits for half a minute, gives up on a busy machine."""
    for left in (2, 1, 0):
        try:
            return cluster.add_node(num_cpus=1, include_dashboard=False)
        except Exception:
            if not left:
                raise


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster()
    add_node(cluster)
    yield cluster
    cluster.shutdown()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_sweep_runs_on_both_nodes_and_survives_the_death_of_one(cluster, tmp_path):
    """The job of the node that dies begins again on the other, from the checkpoint that it had sent: to the bit what no
    death gives.
    """
    other = add_node(cluster)
    process = start(
        "seed=1,2",
        *LONG,
        "hydra/launcher=ray",
        f"ray.address={cluster.address}",
        "ray.cpus_per_job=1",
        "ray.gather_s=0.5",
        "hydra.sweep.dir=sweep",
        folder=tmp_path,
    )
    sweep = tmp_path / "sweep"
    by_node = {node["NodeID"]: node for node in _nodes(cluster.address)}
    assert len(by_node) == 2
    remote = wait_for(
        lambda: _sent(sweep), process
    )  # only the run on the other node sends; those here write their output as they go
    cluster.remove_node(other, allow_graceful=False)
    shown, _ = process.communicate(timeout=400)
    assert process.returncode == 0, shown
    assert (
        f"Run {remote.name}: its machine or process died" in shown
        and "begins again from its last checkpoint, 1 of at most 3 times" in shown
    )
    rows = list(csv.DictReader((sweep / "sweep.csv").open()))
    assert [(row["run"], row["seed"], row["status"]) for row in rows] == [
        ("0", "1", "finished"),
        ("1", "2", "finished"),
    ]
    for run in ("0", "1"):
        assert {"policy", "checkpoints", "evaluation.json", "result.json", "run.json", "output.log", ".hydra"} <= {
            path.name for path in (sweep / run).iterdir()
        }
        assert (
            list((sweep / run).glob("events.out.tfevents*"))
            and (sweep / run / "policy" / "model.safetensors").is_file()
        )
    (resumed,) = read_record(remote)["resumed"]
    assert resumed["steps"] >= 1280 and not resumed["changed"]
    alone = start(f"seed={remote.name == '1' and 2 or 1}", *LONG, "hydra.sweep.dir=alone", folder=tmp_path)
    said, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, said
    assert read_record(remote)["fingerprint"] == read_record(tmp_path / "alone" / "0")["fingerprint"]
    assert json.loads((remote / "evaluation.json").read_text()) == json.loads(
        (tmp_path / "alone" / "0" / "evaluation.json").read_text()
    )


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ctrl_c_stops_the_runs_here_and_elsewhere_which_save_what_they_have(cluster, tmp_path):
    add_node(cluster)
    process = start(
        "seed=1,2",
        "trainer.total_steps=100_000_000",
        "trainer.checkpoint_every=50_000_000",
        "hydra/launcher=ray",
        f"ray.address={cluster.address}",
        "ray.cpus_per_job=1",
        "ray.gather_s=0.5",
        "hydra.sweep.dir=sweep",
        folder=tmp_path,
    )
    runs = [tmp_path / "sweep" / num for num in ("0", "1")]
    wait_for(
        lambda: all(len(read_record(run).get("beginning", {})) == 3 for run in runs), process
    )  # both are in the midst of training
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "stopping the runs, which save what they have" in shown, shown
    assert sum("rfx-sweep-" in (run / "output.log").read_text() for run in runs) == 1  # a folder of another node
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        assert result["status"] == "stopped" and result["steps"] >= 3 * 128
        assert (run / "checkpoints" / f"{result['steps']:012d}" / "SHA256SUMS").is_file() and (run / "policy").is_dir()


def _sent(sweep: Path) -> Path | None:
    """The folder of a run that has sent a checkpoint from elsewhere: what it says is there, but its process does not
    lock the folder.
    """
    import fcntl

    for folder in (path for path in sweep.glob("[0-9]") if any((path / "checkpoints").glob("0*[1-9]*/SHA256SUMS"))):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return None


def _nodes(address: str) -> list[dict]:
    code = f"import ray, json; ray.init({address!r}, logging_level='ERROR'); print(json.dumps([n['NodeID'] for n in ray.nodes() if n['Alive']]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [{"NodeID": name} for name in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def local_ray():
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        )  # processes of Ray find this file there
        connect(None, 2)
        yield
    ray.shutdown()


def _leave_pid(sweep: Path, num: int, deaths: int) -> None:
    """A job that kills its process at its first starts, so many times."""
    from rfx.system.folders import replace_file

    folder = sweep / str(num)
    starts = len(list(folder.glob("start*")))
    replace_file(folder / f"start{starts}", b"")
    if starts < deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    replace_file(
        folder / "result.json",
        json.dumps({"status": "finished", "overrides": [f"n={num}"], "policy": "elsewhere/policy"}).encode(),
    )


@pytest.mark.e2e
def test_a_job_whose_process_dies_is_retried_and_a_hopeless_one_is_a_failure(local_ray, tmp_path):
    import functools

    said, jobs = (
        [],
        [
            Job(num=num, overrides=(f"n={num}",), run=functools.partial(_leave_pid, num=num, deaths=deaths))
            for num, deaths in enumerate((0, 2, 9))
        ],
    )
    ended = list(run_jobs(jobs, tmp_path, JobsConfig(cpus_per_job=1, retries=2), said.append))
    assert sorted(ended) == [0, 1, 2]
    results = [json.loads((tmp_path / str(num) / "result.json").read_text()) for num in range(3)]
    assert [result["status"] for result in results] == ["finished", "finished", "failed"]
    assert [len(list((tmp_path / str(num)).glob("start*"))) for num in range(3)] == [1, 3, 3]
    assert "its machine or process died (WorkerCrashedError)" in results[2]["error"] and results[2]["overrides"] == [
        "n=2"
    ]
    assert sum("begins again" in line for line in said) == 4


@pytest.mark.e2e
def test_machines_that_are_too_small_are_one_line(local_ray, tmp_path):
    with pytest.raises(
        InputError, match="ray.cpus_per_job is 64, and the machines of the Ray cluster have 2 CPUs: lower it"
    ):
        list(run_jobs([], tmp_path, JobsConfig(cpus_per_job=64)))


@pytest.mark.e2e
def test_no_cluster_is_one_line_and_leaves_no_folder(tmp_path):
    process = start("seed=1,2", "hydra/launcher=ray", "ray.address=127.0.0.1:9", folder=tmp_path)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "error: ray.address=127.0.0.1:9: no Ray cluster answers there" in shown
    assert len([line for line in shown.splitlines() if line.startswith("error")]) == 1 and not list(
        tmp_path.rglob("*.yaml")
    )


def test_what_is_sent_arrives_and_what_was_removed_goes(tmp_path):
    """Checkpoints first; one being written is left out; of an attempt that was taken for dead nothing is taken any
    more.
    """
    there, here = tmp_path / "there" / "7", tmp_path / "here"
    inbox = Inbox(here)
    assert inbox.begin(7, 0) == {}
    sent = []

    def send(new, names):
        sent.append(list(new))
        inbox.take(7, 0, new, names)

    def put(name, text):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(text)

    for name in ("events.1", "checkpoints/000100/SHA256SUMS", "checkpoints/.000200.x/state.json", ".hydra/config.yaml"):
        put(name, "one")
    outbox = Outbox(there, 1000.0, send)
    outbox.send()
    assert sent == [["checkpoints/000100/SHA256SUMS", ".hydra/config.yaml", "events.1"]]
    put("events.1", "one and two")
    put("checkpoints/000200/SHA256SUMS", "two")
    (there / "checkpoints/000100/SHA256SUMS").unlink()
    outbox.send()
    assert sent[1] == ["checkpoints/000200/SHA256SUMS", "events.1"]
    assert {str(path.relative_to(here / "7")) for path in (here / "7").rglob("*") if path.is_file()} == {
        "events.1",
        "checkpoints/000200/SHA256SUMS",
        ".hydra/config.yaml",
    }
    outbox.send()
    assert len(sent) == 2  # nothing is new
    assert inbox.begin(7, 1)["events.1"] == b"one and two"
    assert (
        not inbox.take(7, 0, {"events.1": b"late"}, ["events.1"])
        and (here / "7" / "events.1").read_text() == "one and two"
    )
