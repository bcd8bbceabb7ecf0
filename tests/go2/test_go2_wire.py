"""The real wire: processes, signals, discovery, DDS and its checksum, one walk, one distribution of latency.

Nothing here is virtual.

What each fault leads to, and when exactly, is tests/go2/test_go2_faults.py's in virtual time; here it is seen to be so
of real processes, within 100 ms. These tests keep time, so they are one file: `make test-e2e` gives a file to one
worker, and no two emulated robots run at once.
"""

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from go2_wire import (
    LYING_M,
    ROOT,
    STANDING_M,
    Deployed,
    EmulatorProcess,
    Listener,
    Watcher,
    check_gentle,
    descendants,
    drive,
    free_domain,
    is_alive,
    train,
)
from test_go2_fault_table import strike

from rfx.commands.cli import main
from rfx.drivers.go2.driver.driver import Go2
from rfx.drivers.go2.operator.replay import recompute
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.log import Recording, run_path
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.session import Session

pytest.importorskip("cyclonedds", reason="needs the extra go2")
pytestmark = pytest.mark.e2e
BOUND_MS = 100.0
LIMITS = SafetyLimits(stand_s=0.3, settle_s=0.1, damping_s=0.2)
LOW_CMD, LOW_STATE = "unitree_go::msg::dds_::LowCmd_", "unitree_go::msg::dds_::LowState_"
REQUEST, RESPONSE = "unitree_api::msg::dds_::Request_", "unitree_api::msg::dds_::Response_"
TOPICS = {  # topic, type, and whether the robot publishes it
    ("rt/lowstate", LOW_STATE, True),
    ("rt/lowcmd", LOW_CMD, True),  # of its own controller
    ("rt/api/motion_switcher/request", REQUEST, False),
    ("rt/api/motion_switcher/response", RESPONSE, True),
    ("rt/api/sport/request", REQUEST, False),
    ("rt/api/sport/response", RESPONSE, True),
}
CALLS = [
    ("rt/api/sport/request", 1005),
    ("rt/api/motion_switcher/request", 1001),
    ("rt/api/motion_switcher/request", 1003),
    ("rt/api/motion_switcher/request", 1002),
]  # stand down, check mode, release mode, select mode


@pytest.fixture(scope="module")
def shared():
    """One emulator, and one listener to it, for all faults that leave them usable."""
    with EmulatorProcess() as emulator:
        yield emulator, Listener(emulator.domain)


@pytest.fixture
def emulator(shared):
    """The shared emulator as new; the listener has heard nothing yet."""
    shared[0].ask("again released")
    time.sleep(0.1)
    shared[1].take()
    return shared[0]


@pytest.fixture
def wire(shared):
    return shared[1]


@pytest.fixture(autouse=True)
def _no_robot_outlives_its_test(monkeypatch):
    """A test that fails leaves its Go2 connected, and its sender at work: the next one would meet two publishers."""
    robots, connect = [], Go2.connect
    monkeypatch.setattr(Go2, "connect", lambda robot: (robots.append(robot), connect(robot)))
    yield
    for robot in robots:
        with suppress(RuntimeError):
            robot.close()


def test_topics_types_and_api_numbers(tmp_path):
    """What the robot's network must see of us and of the emulated robot, spelled out here once more, independently of
    the code.
    """
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription

    from rfx.drivers.go2.wire import idl
    from rfx.drivers.go2.wire.dds import DdsBus

    with EmulatorProcess() as emulator:
        bus = DdsBus(emulator.domain, "lo")
        publications = BuiltinDataReader(bus._participant, BuiltinTopicDcpsPublication)
        subscriptions = BuiltinDataReader(bus._participant, BuiltinTopicDcpsSubscription)
        own = {str(bus.key)}
        deadline_s = time.monotonic() + 10.0
        published, subscribed = set(), set()
        wanted_out = {(topic, kind) for topic, kind, out in TOPICS if out}
        wanted_in = {(topic, kind) for topic, kind, out in TOPICS if not out} | {("rt/lowcmd", LOW_CMD)}
        while not (published >= wanted_out and subscribed >= wanted_in):
            assert time.monotonic() < deadline_s, (published, subscribed)
            for reader, found in ((publications, published), (subscriptions, subscribed)):
                found |= {
                    (sample.topic_name, sample.type_name)
                    for sample in reader.take(100)
                    if getattr(sample, "topic_name", None) and str(sample.participant_key) not in own
                }
            time.sleep(0.05)
        assert published == wanted_out and subscribed == wanted_in, "nothing else either"

        requests = {name: bus.reliable_reader(name, idl.Request_) for name in {topic for topic, _ in CALLS}}
        seen, done = [], []
        robot = Go2(
            domain=emulator.domain, limits=SafetyLimits(damping_s=0.2), log_path=tmp_path / "log.jsonl", restore=""
        )
        robot.connect()
        robot.close()
        assert emulator.ask("pose")["mode"] == "normal"
        for topic, reader in requests.items():
            for sample in reader.take(100):
                if hasattr(sample, "header"):
                    header = sample.header
                    seen.append((topic, header.identity.api_id))
                    done.append(
                        (
                            sample.parameter,
                            header.lease.id,
                            header.policy.priority,
                            header.policy.noreply,
                            list(sample.binary),
                        )
                    )
        assert set(seen) == set(CALLS)
        assert {parameter for parameter, *_ in done} == {"{}", '{"name": "normal"}'}
        assert {tuple(rest[:3]) for _, *rest in done} == {(0, 0, False)}


def test_discovery_rates_and_latency(emulator, wire, tmp_path, record_property):
    """Its own controller lets go before our first command; LowState comes at 500 Hz, LowCmd at 400 Hz, each with an
    intact checksum.
    """
    emulator.ask("again")
    time.sleep(0.2)
    with Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl") as robot:
        session = Session(robot, lambda observation: np.zeros((1, 12), np.float32), warmup_s=0.0)
        robot.connect()
        status = Path(f"/proc/{robot._connection.process.pid}/status").read_text()
        assert int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) < 190_000, (
            "no 32 MB a core for numpy's OpenBLAS: a guard waits for its end"
        )
        wire.wait_for_writers(
            2
        )  # DDS drops what comes from a writer before the listener has met it, on a busy machine for 0.3 s
        session.run(1.5)
        assert emulator.ask("pose")["mode"] == ""
    seen = wire.take()
    ours = seen.writer == seen.writer[-1]
    assert len(set(seen.writer.tolist())) == 2
    assert seen.time_ns[~ours].max() < seen.time_ns[ours].min(), "the two never commanded at the same time"
    own = seen.of(seen.writer[-1])
    assert own.damping[0] and own.damping[-1]
    p50, p99 = robot.latency_s()
    record_property("latency_p50_ms", round(float(1e3 * p50), 2))
    record_property("latency_p99_ms", round(float(1e3 * p99), 2))
    print(f"LowState to LowCmd: median {1e3 * p50:.2f} ms, 99th percentile {1e3 * p99:.2f} ms")
    assert p50 < 0.005, "2 ms between two LowStates, and what it takes to decide and to send"
    log = Recording.load(tmp_path / "log.jsonl").arrays
    assert np.median(np.diff(log["time_s"])) == pytest.approx(0.0025, abs=0.0005)
    assert np.median(np.diff(np.unique(log["state_time_s"]))) == pytest.approx(0.002, abs=0.001)


def test_closing_while_connecting_leaves_no_process(emulator, tmp_path):
    emulator.ask("again")
    emulator.ask("slow motion_switcher inf")
    robot = Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl")
    connecting = threading.Thread(target=lambda: pytest.raises(ConnectionError, robot.connect))
    connecting.start()
    while robot._connection is None or not robot._connection.state["alive_s"]:
        time.sleep(0.01)
    process = robot._connection.process
    left = descendants(process.pid)
    robot.stop()
    connecting.join(timeout=10.0)
    assert not connecting.is_alive() and process.poll() is not None and not any(map(is_alive, left))


GUARDLESS = "the guard process is gone|did not answer for"  # a killed one too, until the system has taken it apart
STRIKES = {
    ("policy", "SIGKILL"): "the policy's process is gone",
    ("policy", "SIGTERM"): "the policy's process is gone",
    ("policy", "SIGSTOP"): "the policy's process was stopped",
    ("sender", "SIGTERM"): "the sender was sent SIGTERM",
    ("sender", "SIGKILL"): "the sender is gone; the guard damped",
    ("sender", "SIGSTOP"): "the sender stood still for",
    ("guard", "SIGKILL"): GUARDLESS,
    ("guard", "SIGSTOP"): GUARDLESS,
}


@pytest.mark.parametrize("target, name", list(STRIKES))
def test_a_process_gets_a_signal_while_it_walks(shared, tmp_path, target, name, record_property):
    """Damping is on the wire within 100 ms and goes on, no process is left, and one line of standard error says why."""
    delay_ms = strike(*shared, tmp_path, target, getattr(signal, name), "walking", random.Random(f"{target} {name}"))
    record_property("damping_after_ms", round(float(delay_ms), 2))
    assert delay_ms <= BOUND_MS
    assert re.search(STRIKES[target, name], (tmp_path / "errors.txt").read_text())
    assert Recording.load(run_path(tmp_path / "log.jsonl")).phase.count("POLICY")


def test_connecting_to_nobody_says_so(tmp_path):
    with pytest.raises(ConnectionError, match="no LowState from the robot"):
        Go2(domain=free_domain(), log_path=tmp_path / "log.jsonl").connect()


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy folder of a network that lifts diagonal pairs of legs in turn, as its gait clock says: it trots on the
    spot.
    """
    from tinygrad import Tensor

    from rfx.nn import go2_mlp

    network = go2_mlp([8])
    first, last = network.layers
    weights = [np.zeros(tensor.shape, np.float32) for tensor in (first.weight, first.bias, last.weight, last.bias)]
    weights[0][0, 45] = 1.0  # the gait clock's sine
    for leg, sign in enumerate((1.0, -1.0, -1.0, 1.0)):
        weights[2][3 * leg + 1, 0], weights[2][3 * leg + 2, 0] = 0.2 * sign, -0.4 * sign
    for tensor, values in zip((first.weight, first.bias, last.weight, last.bias), weights):
        tensor.assign(Tensor(values)).realize()
    return str(network.save(tmp_path_factory.mktemp("policy") / "p", robot_config=GO2_CONFIG))


@pytest.mark.parametrize(
    "number", ["SIGINT", *(pytest.param(name, marks=pytest.mark.long) for name in ("SIGTERM", "SIGHUP", "SIGTSTP"))]
)
def test_rfx_deploy_led_by_the_remote(emulator, policy, tmp_path, number, record_property):
    """Start, A, and a signal that means Ctrl-C while it walks: it lies down gently, and its own controller takes the
    motors again.
    """
    emulator.ask("again")
    watcher = Watcher(emulator)
    deployed = Deployed(emulator, policy, tmp_path / "log.jsonl", "--restore")
    try:
        deployed.wait_for("Passive")
        watcher.tap("Start")
        deployed.wait_for("Stand")
        assert watcher.height > STANDING_M
        watcher.tap("A")
        deployed.wait_for("Walk")
        watcher.ask("sticks ly=0.3")
        time.sleep(1.0)
        begun = len(watcher.rows)
        assert deployed.finish(getattr(signal, number)) == (0, "interrupted\n")
        assert watcher.height < LYING_M and watcher.ask("pose")["mode"] == "normal"
    finally:
        deployed.kill()
        watcher.close()
    check_gentle(watcher.rows[begun:], number, record_property)
    assert Recording.load(tmp_path / "log.jsonl").reason == "closed"
    run = Recording.load(run_path(tmp_path / "log.jsonl"))
    assert {"STANDING", "POLICY", "LYING_DOWN"} <= set(run.phase) and any(remote[2] & 4 for remote in run.remote)


def test_enter_leads_where_there_is_no_remote(emulator, policy, tmp_path):
    """On a terminal: Enter stands up, Enter walks, Backspace stands, Backspace lies down; and a status line tells how
    it is.
    """
    emulator.ask("again released")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "rfx.commands.cli",
            "deploy",
            policy,
            "--robot",
            "go2",
            "--interface",
            "lo",
            "--domain",
            str(emulator.domain),
            "--velocity",
            "keyboard",
            "--log",
            str(tmp_path / "log.jsonl"),
        ],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = b""

    def wait_for(text, keys=b""):
        nonlocal said
        os.write(ours, keys)
        said = b""
        while text not in said:
            said += os.read(ours, 4096)

    try:
        wait_for(b"Passive | remote not seen | +0.00 +0.00 m/s")
        assert b"remote not seen" in said and b"battery 80%" in said
        wait_for(b"Stand |", b"\n")
        wait_for(b"Walk | remote not seen | +0.30", b"\nwww")
        wait_for(b"Stand |", b"\x7f")
        wait_for(b"lying down |", b"\x7f")
    finally:
        process.send_signal(signal.SIGINT)
        reader = threading.Thread(target=lambda: [None for _ in iter(lambda: _read(ours), b"")], daemon=True)
        reader.start()
        error = process.communicate(timeout=30.0)[1]
        os.close(theirs)
    assert process.returncode == 0 and error == "interrupted\n"


def _read(descriptor):
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def emulate():
    return subprocess.Popen(
        [sys.executable, "-m", "rfx.commands.cli", "emulate-go2", "--domain", str(free_domain())],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_emulate_go2_ends_on_quit_and_on_ctrl_c():
    process = emulate()
    assert json.loads(process.stdout.readline())["ready"]
    assert process.communicate("quit\n", timeout=5.0)[1] == "" and process.returncode == 0
    process = emulate()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=5.0)[1] == "interrupted\n" and process.returncode == 0


def test_preflight_meets_a_robot_or_nobody(emulator, capsys):
    emulator.ask("again")
    done = subprocess.run(
        [sys.executable, "-m", "rfx.commands.cli", "preflight", "--interface", "lo", "--domain", str(emulator.domain)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # a process joins a domain once, and this one listens
    assert done.returncode == 0
    lines = dict(line[6:].split(": ", 1) for line in done.stdout.splitlines())
    assert re.match(r"(4[5-9]|5[0-4])[0-9] Hz", lines["LowState"]) and "published by 1" in lines["rt/lowcmd"]
    assert main(["preflight", "--interface", "lo", "--domain", str(free_domain())]) == 1
    assert "FAULT LowState: none. Check cable" in capsys.readouterr().out
    assert main(["preflight", "--interface", "eth9"]) == 1
    assert "FAULT interface: eth9 is not there" in capsys.readouterr().out


def test_train_export_deploy(tmp_path):
    """A folder that training exported, as it is, runs over DDS: a moment of training, then a second on the robot behind
    the wire.
    """
    policy = train(
        tmp_path / "run",
        "trainer.total_steps=6144",
        "env.num_envs=64",
        "trainer.final_evaluation_envs=2",
        "trainer.final_evaluation_s=0.1",
    )
    _, measured = drive(policy, [(2.0, (0.3, 0.0, 0.0))], tmp_path / "log.jsonl")
    assert len(measured) == 50 and np.isfinite(measured).all()
    recording = Recording.load(tmp_path / "log.jsonl")
    assert recording.reason == "closed" and "POLICY" in recording.phase
    assert float(recompute(recording, str(policy)).rpartition(" ")[2]) < 1e-5, (
        "the robot was sent what the policy decides"
    )
