"""`rfx deploy --robot go2` as somebody at the remote uses it: states, buttons, and how gently it comes down."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from go2_wire import ROOT, EmulatorProcess, descendants, is_alive

from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.log import Recording, run_path

pytest.importorskip("cyclonedds", reason="needs the extra go2")
pytestmark = pytest.mark.e2e
DROP_M_S = 0.3
STANDING_M, LYING_M = 0.2, 0.13


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy folder of a network that lifts diagonal pairs of legs in turn, as its gait clock says: it trots on the
    spot.
    """
    import numpy as np
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


class Watcher:
    """Notes the emulated robot's height, tilt and lowest joint gains over time, from a thread of its own."""

    def __init__(self, emulator):
        self.emulator, self.lock = emulator, threading.Lock()
        self.rows, self.ended = [], threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def ask(self, line):
        with self.lock:
            return self.emulator.ask(line)

    def tap(self, *buttons, seconds=0.15):
        """Press and let go."""
        self.ask(f"press {' '.join(buttons)}")
        time.sleep(seconds)
        self.ask("press")

    def _run(self):
        while not self.ended.wait(0.01):
            pose = self.ask("pose")
            w, x, y, z = pose["quaternion"]
            self.rows.append(
                (
                    pose["time_ns"] / 1e9,
                    pose["position"][2],
                    np.arccos(np.clip(1 - 2 * (x * x + y * y), -1, 1)),
                    pose["velocity"][2],
                )
            )

    def close(self):
        self.ended.set()
        self.thread.join()

    @property
    def height(self):
        return self.rows[-1][1]


class Deployed:
    """`rfx deploy` in a process of its own, and what it says."""

    def __init__(self, emulator, policy, log, *arguments):
        self.process = subprocess.Popen(
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
                "--log",
                str(log),
                *arguments,
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines, self.said_s = [], []  # what it said, and when, by time.time()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.said_s.append(time.time())
            self.lines.append(line.strip())

    def wait_for(self, line, count=1, timeout_s=30.0):
        deadline_s = time.monotonic() + timeout_s
        while sum(said.startswith(line) for said in self.lines) < count:
            assert time.monotonic() < deadline_s and self.process.poll() is None, (
                self.lines,
                self.process.poll() and self.process.stderr.read(),
            )
            time.sleep(0.01)

    def finish(self, number=signal.SIGINT):
        """Interrupt it, or with None wait for its own end. Returns its status and its standard error."""
        if number is not None:
            self.process.send_signal(number)
        error = self.process.stderr.read()
        self.process.wait(timeout=30.0)
        self.reader.join()
        return self.process.returncode, error

    def kill(self):
        """Kill it, and wait for its sender and guard, which damp for a while: to the next one they are another
        publisher.
        """
        if self.process.poll() is None:
            left = descendants(self.process.pid)
            self.process.kill()
            self.process.wait()
            deadline_s = time.monotonic() + 30.0
            while any(map(is_alive, left)) and time.monotonic() < deadline_s:
                time.sleep(0.01)


@pytest.fixture(scope="module")
def emulator():
    with EmulatorProcess() as process:
        yield process


@pytest.fixture
def deploy(emulator, policy, tmp_path):
    """A function that starts `rfx deploy` with more arguments, a watcher of the robot, and where its log goes."""
    emulator.ask("again")
    watcher, started = Watcher(emulator), []

    def start(*arguments):
        started.append(Deployed(emulator, policy, tmp_path / "log.jsonl", *arguments))
        return started[-1]

    yield start, watcher, tmp_path / "log.jsonl"
    for deployed in started:
        deployed.kill()
    watcher.close()


def check_gentle(rows, name, record_property):
    """No drop faster than DROP_M_S over any 50 ms, and never far from level."""
    times, heights, tilts, _ = np.array(rows).T
    later = np.searchsorted(times, times + 0.05)
    kept = later < len(times)
    speed = (heights[later[kept]] - heights[kept]) / (times[later[kept]] - times[kept])
    print(
        f"{name}: height {heights.max():.3f} to {heights.min():.3f} m, fastest drop {-speed.min():.3f} m/s, greatest tilt {tilts.max():.3f} rad"
    )
    record_property("fastest_drop_m_s", round(float(-speed.min()), 3))
    assert -speed.min() < DROP_M_S and tilts.max() < 0.35


def test_the_remote_leads(deploy, record_property):
    """It does nothing unasked; Start, A, B and Start are Stand, Walk, Stand and lying down; then Ctrl-C."""
    start, watcher, log = deploy
    deployed = start("--restore")
    deployed.wait_for("Passive")
    time.sleep(1.0)
    watcher.tap("A")
    watcher.tap("L2", "Start")  # means something else
    time.sleep(0.5)
    assert watcher.height < LYING_M, "it stands up without being asked to"
    watcher.tap("Start")
    deployed.wait_for("Stand")
    assert watcher.height > STANDING_M
    time.sleep(1.0)
    assert "Walk" not in deployed.lines, "it walks off without being asked to"
    watcher.tap("A")
    deployed.wait_for("Walk")
    watcher.ask("sticks ly=0.3")
    time.sleep(2.0)
    begun = len(watcher.rows)
    watcher.tap("B")
    deployed.wait_for("Stand", count=2)
    watcher.tap("A")
    deployed.wait_for("Walk", count=2)
    watcher.ask("sticks ly=0.3")
    time.sleep(1.0)
    watcher.tap("Start")
    deployed.wait_for("lying down")
    deployed.wait_for("Passive", count=2)
    assert watcher.height < LYING_M
    check_gentle(watcher.rows[begun:], "Start while walking", record_property)
    status, error = deployed.finish()
    assert status == 0 and error == "interrupted\n"
    assert watcher.ask("pose")["mode"] == "normal", "its own controller has the motors again"
    assert not any("without its own controller" in line for line in deployed.lines)
    run = Recording.load(run_path(log))
    commanded = np.array(
        [velocity[0] for velocity, phase in zip(run.arrays["velocity_command"], run.phase) if phase == "POLICY"]
    )
    assert commanded.max() > 0.2 and commanded[-1] == 0.0, (
        f"it brakes before it lies down: {commanded.max()}, {commanded[-1]}, {deployed.lines}"
    )
    phases = [phase for phase, before in zip(run.phase, [None, *run.phase]) if phase != before]
    assert [phase for phase in phases if phase not in ("CONNECTING", "DONE")] == [
        "IDLE",
        "STANDING_UP",
        "STANDING",
        "POLICY",
        "STANDING_UP",
        "STANDING",
        "POLICY",
        "LYING_DOWN",
        "IDLE",
    ]
    assert np.abs(np.diff(run.arrays["joint_position"][:, 1][np.array(run.phase) == "POLICY"])).max() > 0.01, (
        "it really lifts its legs"
    )
    assert (run.arrays["battery"] == 80).all() and any(remote[2] & 4 for remote in run.remote)
    assert np.median(run.arrays["accelerometer"][:, 2]) == pytest.approx(9.81, abs=0.5)


OTHER_SIGNALS = ["SIGTERM", "SIGHUP", "SIGTSTP"]  # that mean Ctrl-C too


@pytest.mark.parametrize(
    "end", ["SIGINT", "duration", *(pytest.param(name, marks=pytest.mark.long) for name in OTHER_SIGNALS)]
)
def test_a_planned_end_is_gentle(deploy, end, record_property):
    """Ctrl-C, and what else means it; a time that is up: to the default pose, down, and only then damped."""
    start, watcher, log = deploy
    deployed = start("--vx", "0.3", *(["--duration", "1.5"] if end == "duration" else []))
    deployed.wait_for("Passive")
    watcher.tap("Start")
    deployed.wait_for("Stand")
    watcher.tap("A")
    deployed.wait_for("Walk")
    time.sleep(1.0)
    begun = len(watcher.rows)
    if end == "duration":
        assert deployed.finish(None)[0] == 0
    else:
        assert deployed.finish(getattr(signal, end)) == (0, "interrupted\n")
    assert watcher.height < LYING_M
    check_gentle(watcher.rows[begun:], end, record_property)
    assert any("lies without its own controller 'normal'" in line for line in deployed.lines)
    assert Recording.load(log).reason == "closed"


@pytest.mark.parametrize(
    "end", [OTHER_SIGNALS[0], *(pytest.param(name, marks=pytest.mark.long) for name in OTHER_SIGNALS[1:])]
)
def test_what_else_means_ctrl_c(deploy, end):
    start, watcher, log = deploy
    deployed = start()
    deployed.wait_for("Passive")
    assert deployed.finish(getattr(signal, end)) == (0, "interrupted\n")
    assert Recording.load(log).reason == "closed"


@pytest.mark.parametrize("state", ["Stand", "Walk"])
def test_ctrl_c_twice_damps_at_once(deploy, state):
    """The second one while it lies down, or while it still brakes."""
    start, watcher, log = deploy
    deployed = start()
    deployed.wait_for("Passive")
    watcher.tap("Start")
    deployed.wait_for("Stand")
    if state == "Walk":
        watcher.tap("A")
        deployed.wait_for("Walk")
    deployed.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert deployed.finish() == (0, "interrupted\n")
    run = Recording.load(run_path(log))
    seconds = {
        phase: np.diff(run.arrays["time_s"])[np.array(run.phase[1:]) == phase].sum()
        for phase in ("LYING_DOWN", "POLICY")
    }
    assert 0.1 < seconds["LYING_DOWN" if state == "Stand" else "POLICY"] < 1.0 and (
        state == "Stand" or not seconds["LYING_DOWN"]
    )


def test_l2_b_damps_and_it_can_stand_up_again(deploy):
    """Without restarting the program; the first fault's log stays."""
    start, watcher, log = deploy
    deployed = start("--restore")
    deployed.wait_for("Passive")
    for count in (1, 2):
        watcher.tap("Start")
        deployed.wait_for("Stand", count)
        watcher.tap("L2", "B")
        deployed.wait_for("the Go2 was damped: L2+B on the remote", count=count)
        deployed.wait_for("connected again", count=count)
        deployed.wait_for("Passive", count=count + 1)
    assert deployed.finish()[0] == 0
    assert watcher.ask("pose")["mode"] == "normal", "it remembers whom to give the motors back to"
    reasons = [Recording.load(log.with_name(name)).reason for name in ("log.jsonl", "log-2.jsonl", "log-3.jsonl")]
    assert reasons == ["L2+B on the remote", "L2+B on the remote", "closed"]


def test_enter_leads_where_there_is_no_remote(emulator, policy, tmp_path):
    """On a terminal: Enter stands up, Enter walks, Backspace stands, Backspace lies down; and a status line tells how
    it is.
    """
    import pty

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
        wait_for(b"Passive | +0.00 +0.00 m/s")
        assert b"remote not seen" in said and b"battery 80%" in said
        wait_for(b"Stand |", b"\n")
        wait_for(b"Walk | +0.30", b"\nwww")
        wait_for(b"jitter")
        wait_for(b"Walk | +1.00", b"w" * 40)
        wait_for(b"Stand |", b"\x7f")
        wait_for(b"lying down |", b"\x7f")
        wait_for(b"Passive |")
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
