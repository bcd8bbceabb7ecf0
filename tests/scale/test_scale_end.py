"""`python -m train +scale=ray` as a user meets it: it shows its workers, leaves no process behind, and says in one line
that there is no cluster.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed: pip install -e '.[ray]'", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "env.num_envs=16",
    "trainer.rollout_steps=8",
    "policy.hidden=[16]",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "trainer.evaluation_envs=4",
    "trainer.evaluation_s=2",
    "trainer.final_evaluation_envs=4",
    "trainer.final_evaluation_s=2",
]
MARK = "RFX_TEST_RUN"  # in the environment of a run and of every process that it starts


def environment(mark: str) -> dict[str, str]:
    return {
        **os.environ,
        MARK: mark,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")])),
    }


def marked(mark: str) -> dict[int, str]:
    """Command lines, by number, of the processes there are with this mark: those that are over but not waited for have
    no environment.
    """
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


def left_after(mark: str, limit_s: float = 15.0) -> dict[int, str]:
    """The marked processes that are still there after a while, which Ray's own take to follow."""
    deadline = time.monotonic() + limit_s
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def start(*arguments: str, folder: Path, mark: str) -> subprocess.Popen:
    """The command in a group of its own, as a terminal's foreground job is."""
    return launch("+robot=go2", *SMALL, *arguments, folder=folder, mark=mark)


def launch(*arguments: str, folder: Path, mark: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "train", "+scale=ray", "hydra.run.dir=run", *arguments],
        cwd=folder,
        env=environment(mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen, text: str) -> str:
    """What it says up to a line with the text."""
    shown = ""
    for line in process.stdout:
        shown += line
        if text in line:
            return shown
    raise AssertionError(shown)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, True)],
    ids=["ctrl-c", "terminate", "hangup"],
)
def test_an_interrupted_run_saves_and_leaves_no_process_behind(tmp_path, number, whole_group):
    """Ctrl-C in a terminal, and its end, reach every process of the group; systems that end a job send SIGTERM to the
    one they began.
    """
    mark = uuid.uuid4().hex
    process = start("trainer.total_steps=1e9", "scale.workers=2", "scale.threads=1", folder=tmp_path, mark=mark)
    shown = read_until(process, " steps  ")
    assert "  2 workers  " in shown
    there = marked(mark)
    assert sum("ray::Worker" in line for line in there.values()) == 2 and any(
        "raylet" in line for line in there.values()
    )
    (os.killpg if whole_group else os.kill)(process.pid, number)
    shown += process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, shown
    assert "Traceback" not in shown and "Stopped after" in shown
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "stopped"
    assert left_after(mark) == {}


@pytest.mark.long
def test_a_second_ctrl_c_an_error_and_the_end_leave_no_process_behind(tmp_path):
    """At once while the workers collect; an error that an environment raises in its worker; SIGKILL of the learner; and
    a run to its end.
    """
    mark = uuid.uuid4().hex
    process = start(
        "trainer.total_steps=1e9", "env.num_envs=512", "trainer.rollout_steps=400", folder=tmp_path, mark=mark
    )
    while sum("ray::Worker.collect" in line for line in marked(mark).values()) < 2:
        time.sleep(0.1)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    shown = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in shown, shown
    assert left_after(mark) == {}

    process = launch(
        "+robot=gym",
        "env.id=gym_envs:Wet-v0",
        "env.num_envs=2",
        "trainer.rollout_steps=8",
        "ppo.num_minibatches=2",
        "hydra.run.dir=raises",
        folder=tmp_path,
        mark=mark,
    )
    shown = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and "Traceback" not in shown, shown
    assert shown.splitlines()[-1] == "error: env.id=gym_envs:Wet-v0 raised RuntimeError: the sensor is wet"
    assert left_after(mark) == {}

    process = start("trainer.total_steps=512", "hydra.run.dir=whole", folder=tmp_path, mark=mark)
    shown = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and "Done after" in shown, shown
    assert left_after(mark) == {}

    process = start("trainer.total_steps=1e9", "hydra.run.dir=killed", folder=tmp_path, mark=mark)
    read_until(process, " steps  ")
    process.kill()
    process.wait()
    assert left_after(mark, 40.0) == {}


def test_a_cluster_that_is_not_there_is_told_in_one_line(tmp_path):
    mark = uuid.uuid4().hex
    process = start("scale.address=127.0.0.1:1", folder=tmp_path, mark=mark)
    shown = process.communicate(timeout=120)[0]
    assert process.returncode == 2, shown
    assert re.fullmatch(
        r"error: scale.address=127.0.0.1:1: no Ray cluster answers there \(.*\); begin one with ray start --head, or leave "
        r"scale.address out\n",
        shown,
    )
    assert not (tmp_path / "run").exists() and left_after(mark) == {}
