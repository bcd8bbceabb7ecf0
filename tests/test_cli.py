"""The command line, as a user types it."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import rfx
from go2_wire import ROOT, EmulatorProcess, Listener, free_domain
from rfx.cli import main
from rfx.robots.go2.config import GO2_CONFIG
from rfx.robots.keyboard import Keyboard


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy folder of a small network that nobody trained."""
    from rfx.nn import go2_mlp

    return str(go2_mlp([32]).save(tmp_path_factory.mktemp("policy") / "p", robot_config=GO2_CONFIG, training_info={"total_steps": 7}))


@pytest.fixture(scope="module")
def other_policies(tmp_path_factory):
    """Three that were made for other gains: kp 20, 120 and 0 N m/rad."""
    import dataclasses

    from rfx.nn import go2_mlp

    def made_for(kp):
        config = dataclasses.replace(GO2_CONFIG, joints=tuple(dataclasses.replace(joint, kp=kp) for joint in GO2_CONFIG.joints))
        return str(go2_mlp([32]).save(tmp_path_factory.mktemp("other") / "p", robot_config=config))

    return {kp: made_for(kp) for kp in (20.0, 120.0, 0.0)}


def start(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "rfx.cli", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **options)


def test_inspect(policy, capsys):
    assert main(["inspect", policy]) == 0
    out = capsys.readouterr().out
    assert "MLP, 1,964 weights" in out  # 48 x 32 + 32 + 32 x 12 + 12
    assert "robot: go2, 12 joints, 50 Hz, action scale 0.5 rad" in out
    assert "joint_position, joint_velocity" in out and "training total_steps: 7" in out


@pytest.mark.parametrize("robot", ["mock", "sim"])
def test_deploy(policy, robot, capsys):
    assert main(["deploy", policy, "--robot", robot, "--duration", "0.2", "--vx", "0.3"]) == 0
    assert capsys.readouterr().out.startswith("10 steps, ")


@pytest.mark.parametrize("arguments, message", [
    (["inspect", "/nowhere"], "rfx inspect: got /nowhere"),
    (["deploy", "/nowhere"], "rfx deploy: got /nowhere"),
    (["deploy", "{policy}", "--robot", "go1"], "unknown robot 'go1': did you mean 'go2'?"),
    (["deploy", "{policy}", "--interface", "eth0"], "got --interface, which does nothing with --robot sim: it is for --robot go2"),
    (["deploy", "{policy}", "--robot", "mock", "--silent-publishers", "1"], "got --silent-publishers, which does nothing with --robot mock"),
    (["deploy", "{policy}", "--log", "x"], "got --log, which"), (["deploy", "{policy}", "--no-motion-switcher"], "got --no-motion-switcher, which"),
    (["deploy", "{policy}", "--domain", "0"], "got --domain, which"),
    (["deploy", "{policy}", "--robot", "go2", "--viewer"], "got --viewer, which does nothing with --robot go2: it is for --robot sim"),
    (["deploy", "{policy}", "--velocity", "remote"], "--robot sim has no remote"),
    (["deploy", "{stiff}", "--robot", "sim"], "the policy asks for kp 120 of FR_hip_joint; expected 10 to 100, which is safe on a Go2"),
    (["deploy", "{limp}", "--robot", "go2"], "the policy asks for kp 0 of FR_hip_joint"),
    (["deploy", "{policy}", "--vx", "nan"], "expected finite numbers"),
    (["deploy", "{policy}", "--robot", "go2", "--interface", "eth9", "--no-motion-switcher"], "must be released first"),
    (["replay", "/nowhere"], "rfx replay: no log at /nowhere"),
    (["replay", "{policy}/rfx_config.json"], "is no rfx Go2 log"),
])
def test_errors_are_one_line_and_status_1(arguments, message, policy, other_policies, capsys):
    assert main([argument.format(policy=policy, stiff=other_policies[120.0], limp=other_policies[0.0]) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_policy_that_fails_is_one_line_and_status_1(policy, capsys, monkeypatch):
    monkeypatch.setattr("rfx.loaded_policy.LoadedPolicy.__call__", lambda self, observation: np.full((1, 12), np.nan))
    assert main(["deploy", policy, "--duration", "1"]) == 1
    error = capsys.readouterr().err
    assert "not finite" in error and error.count("\n") == 1


def test_no_such_interface(policy, capfd):
    assert main(["deploy", policy, "--robot", "go2", "--interface", "eth9"]) == 1
    assert "cannot join DDS domain 0 on network interface 'eth9'" in capfd.readouterr().err


class Deployed:
    """`rfx deploy --robot go2` against an emulator, led by the remote's buttons."""

    def __init__(self, emulator, policy, log, *options: str):
        self.emulator, self.lines = emulator, []
        self.process = start("deploy", policy, "--robot", "go2", "--domain", str(emulator.domain), "--log", str(log), *options,
                             stdin=subprocess.DEVNULL)

    def wait_for(self, begins: str) -> str:
        """The next line that begins so."""
        while not (line := self.process.stdout.readline()).startswith(begins):
            assert line, f"it ended before {begins!r}: {self.process.stderr.read()}"
            self.lines.append(line)
        return line

    def press(self, *names: str) -> None:
        self.emulator.ask("press " + " ".join(names))
        time.sleep(0.15)
        self.emulator.ask("press")

    def walk(self) -> None:
        """From the beginning, or from Passive, until it walks."""
        for state, button in (("Passive", "Start"), ("Stand:", "A")):
            self.wait_for(state)
            time.sleep(0.1)
            self.press(button)
        self.wait_for("Walk")

    def end(self, number=signal.SIGINT) -> tuple[str, str]:
        self.process.send_signal(number)
        return self.process.communicate(timeout=20.0)


@pytest.fixture
def emulator():
    pytest.importorskip("cyclonedds", reason="needs the extra go2")
    with EmulatorProcess("--no-sport") as process:
        yield process


def test_gains_are_the_policys_own(other_policies, tmp_path, emulator, capsys):
    """A policy trained with kp 20 walks with kp 20, on the wire."""
    assert main(["deploy", other_policies[20.0], "--robot", "sim", "--duration", "0.1"]) == 0
    wire, deployed = Listener(emulator.domain), Deployed(emulator, other_policies[20.0], tmp_path / "log.jsonl")
    deployed.walk()
    seen, deadline = set(), time.monotonic() + 20.0
    while seen != {0.0, 20.0, 60.0}:  # damping, walking, standing
        assert time.monotonic() < deadline, seen
        seen |= set(wire.take().kp[:, 0].tolist())
        time.sleep(0.05)
    deployed.end()
    assert set(wire.take().kp[:, 0].tolist()) <= {0.0, 20.0, 60.0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_lies_it_down_damps_and_exits_0(policy, number, tmp_path, emulator):
    wire, log = Listener(emulator.domain), tmp_path / "log.jsonl"
    deployed = Deployed(emulator, policy, log)
    deployed.walk()
    deadline, seen = time.monotonic() + 20.0, np.zeros(0)
    while (seen == 35.0).sum() < 100:
        assert time.monotonic() < deadline and deployed.process.poll() is None
        time.sleep(0.05)
        seen = np.append(seen, wire.take().kp[:, 0])
    out, error = deployed.end(number)
    assert deployed.process.returncode == 0 and error == "interrupted\n"
    assert "LowState to LowCmd p50" in out
    last = wire.take()
    assert (last.kp[:, 0] == 60.0).sum() > 600, "1.9 s on stiff legs"
    assert last.damping[-700:].all()  # nearly two seconds of it
    assert main(["replay", str(log), "--policy", policy]) == 0


def test_it_moves_nothing_before_somebody_has_said_so(policy, tmp_path, emulator):
    """Not by itself, not on A, not on Start that was held while it connected."""
    wire = Listener(emulator.domain)
    emulator.ask("press Start")
    deployed = Deployed(emulator, policy, tmp_path / "log.jsonl")
    deployed.wait_for("Passive")
    time.sleep(0.5)
    emulator.ask("press")
    deployed.press("A")
    time.sleep(0.5)
    assert wire.take().damping.all()
    out, error = deployed.end()
    assert deployed.process.returncode == 0 and "Standing up" not in out
    assert wire.take().damping.all()


def test_the_remote_leads(policy, tmp_path, emulator, record_property):
    """Start, A, B, Start: stand, walk, stand, lie, without a drop faster than 0.3 m/s; and once more."""
    deployed, rows, drops = Deployed(emulator, policy, tmp_path / "log.jsonl"), [], []

    def watch(seconds: float, planned: bool = True) -> None:
        """Look at the base's height; where a motion is planned, and not an untrained policy's, note how fast it drops."""
        end, rows[:] = time.monotonic() + seconds, []
        while time.monotonic() < end:
            pose = emulator.ask("pose")
            rows.append((pose["time_ns"] / 1e9, pose["position"][2]))
            time.sleep(0.005)
        times, height = np.array(rows).T
        drops.append(-((height[10:] - height[:-10]) / (times[10:] - times[:-10])).min() if planned else 0.0)

    deployed.walk()
    watch(0.5, planned=False)
    assert rows[-1][1] > 0.2
    deployed.press("B")
    watch(2.0)
    deployed.wait_for("Stand:")
    assert rows[-1][1] > 0.2
    time.sleep(0.1)
    deployed.press("Start")
    watch(3.0)
    assert rows[-1][1] < 0.12
    deployed.walk()
    deployed.press("Start")  # from a walk, too
    watch(4.0)
    deployed.wait_for("Passive")
    deployed.end()
    drop = max(drops)
    record_property("drop_m_s", round(float(drop), 3))
    print(f"drops at most {[round(float(value), 3) for value in drops]} m/s")
    assert drop < 0.3


def test_after_a_fault_it_stands_up_again_without_a_restart(policy, tmp_path, emulator):
    """L2+B damps at once; then it is Passive again, and Start, A walk it once more. Each fault has a log of its own."""
    wire, log = Listener(emulator.domain), tmp_path / "log.jsonl"
    deployed = Deployed(emulator, policy, log)
    deployed.walk()
    fault = emulator.ask("press L2 B")["time_ns"]
    assert "L2+B on the remote" in deployed.wait_for("Fault")
    seen = wire.take()
    assert (seen.time_ns[seen.kp[:, 0] > 0.0][-1] - fault) < 100e6
    time.sleep(0.3)
    emulator.ask("press")
    deployed.walk()
    deployed.end()
    assert log.is_file() and (tmp_path / "log-2.jsonl").is_file()


@pytest.mark.parametrize("command, match", [("charge 10", "the battery is empty: battery 10%")])
def test_an_empty_battery_lies_it_down(policy, tmp_path, emulator, command, match):
    wire, deployed = Listener(emulator.domain), Deployed(emulator, policy, tmp_path / "log.jsonl")
    deployed.walk()
    emulator.ask(command)
    deployed.wait_for(match)
    deployed.wait_for("Passive")
    assert (wire.take().kp[:, 0] == 60.0).sum() > 600
    deployed.end()


def test_a_low_battery_is_refused(policy, tmp_path, emulator, capsys):
    emulator.ask("charge 19")
    assert main(["deploy", policy, "--robot", "go2", "--domain", str(emulator.domain), "--log", str(tmp_path / "log.jsonl")]) == 1
    assert "the battery is at 19%, expected 20% or more" in capsys.readouterr().err


def test_a_duration_of_walking_ends_it(policy, tmp_path, emulator):
    deployed = Deployed(emulator, policy, tmp_path / "log.jsonl", "--duration", "0.4")
    deployed.walk()
    out, error = deployed.process.communicate(timeout=20.0)
    assert deployed.process.returncode == 0 and out.startswith("20 steps, ") and error == ""


def test_enter_leads_where_there_is_no_remote(policy, tmp_path, emulator):
    """In a terminal: Enter stands up, Enter walks, Enter stands again."""
    ours, theirs = pty.openpty()
    process = start("deploy", policy, "--robot", "go2", "--domain", str(emulator.domain), "--log", str(tmp_path / "log.jsonl"), stdin=theirs)
    for state in ("Passive", "Stand:", "Walk", "Stand:"):
        while not process.stdout.readline().startswith(state):
            assert process.poll() is None
        time.sleep(0.3)
        if state != "Stand:" or process.poll() is None:
            os.write(ours, b"\n")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20.0)[1] == "interrupted\n" and process.returncode == 0
    os.close(ours), os.close(theirs)


def test_replay_describes_and_computes_again(policy, tmp_path, capsys, emulator):
    """A fall, on record: the reason, the extremes, and the same actions from the same observations."""
    log, wire = tmp_path / "log.jsonl", Listener(emulator.domain)
    deployed = Deployed(emulator, policy, log)
    deployed.walk()
    deadline, seen = time.monotonic() + 20.0, np.zeros(0)
    while (seen == 35.0).sum() < 250:  # half a second of the policy's own gain
        assert time.monotonic() < deadline and deployed.process.poll() is None
        time.sleep(0.05)
        seen = np.append(seen, wire.take().kp[:, 0])
    emulator.ask("tip")
    assert "the Go2 was damped: tilted by 1.5" in deployed.wait_for("Fault")
    deployed.wait_for("Passive")
    deployed.end()
    assert main(["replay", str(log), "--policy", policy]) == 0
    out = capsys.readouterr().out
    assert "stopped: tilted by 1.5" in out
    assert float(re.search(r"tilt: greatest ([0-9.]+) rad", out)[1]) > 1.5
    difference = float(out.strip().rpartition(" ")[2])
    assert difference < 1e-5
    header, *rows = map(json.loads, log.read_text().splitlines())
    assert header["limits"]["tilt_rad"] == 1.05 and 1200 < len(rows) <= 2500
    assert rows[-1]["phase"] == "FAULT" and {"observation", "action", "target"} <= next(row for row in rows if row["step"] > 1).keys()
    rfx.RobotConfig.from_dict(header["robot_config"])


def test_emulate_go2_ends_on_quit_and_on_ctrl_c():
    pytest.importorskip("cyclonedds", reason="needs the extra go2")
    process = start("emulate-go2", "--domain", str(free_domain()), stdin=subprocess.PIPE)
    assert json.loads(process.stdout.readline())["ready"]
    assert process.communicate("quit\n", timeout=5.0)[1] == "" and process.returncode == 0
    process = start("emulate-go2", "--domain", str(free_domain()), stdin=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=5.0)[1] == "interrupted\n" and process.returncode == 0


@pytest.fixture
def terminal():
    """A terminal's two ends: what a user types goes into the first."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours), os.close(theirs)


def typed(ours: int, keys: bytes) -> None:
    os.write(ours, keys)
    time.sleep(0.05)


def test_keyboard(terminal):
    ours, theirs = terminal
    with Keyboard(theirs) as keyboard:
        assert keyboard.read() == (0.0, 0.0, 0.0)
        typed(ours, b"wwwdqx")
        assert keyboard.read() == (0.3, -0.1, 0.1)
        typed(ours, b" s")
        assert keyboard.read() == (-0.1, 0.0, 0.0) and not keyboard.entered()
        typed(ours, b"\n")
        assert keyboard.entered() and not keyboard.entered()
    with open(os.devnull) as nothing, pytest.raises(OSError, match="needs a terminal"):
        Keyboard(nothing.fileno()).__enter__()


def test_keyboard_commands_do_not_wind_up(terminal):
    """40 presses forward are 1.0 m/s, the limit; 4 of the brake leave 0.6."""
    ours, theirs = terminal
    with Keyboard(theirs, (1.0, 0.4, 0.8)) as keyboard:
        typed(ours, b"w" * 40 + b"a" * 40 + b"e" * 40)
        assert keyboard.read() == (1.0, 0.4, -0.8)
        typed(ours, b"ssss")
        assert keyboard.read()[0] == pytest.approx(0.6)


def test_keyboard_commands_decay(terminal, monkeypatch):
    """After a second without a press, by 0.5 m/s in a second, to zero and no further."""
    ours, theirs = terminal
    now = [100.0]
    monkeypatch.setattr("rfx.robots.keyboard.time.monotonic", lambda: now[0])
    monkeypatch.setattr("rfx.robots.keyboard.HOLD_S", 1.0)
    with Keyboard(theirs) as keyboard:
        typed(ours, b"wwwwwwd")
        for after_s, vx, vy in ((0.0, 0.6, -0.1), (0.9, 0.6, -0.1), (1.1, 0.55, -0.05), (1.5, 0.35, 0.0), (2.0, 0.1, 0.0), (9.0, 0.0, 0.0)):
            now[0] = 100.0 + after_s
            assert keyboard.read() == pytest.approx((vx, vy, 0.0))


def test_keyboard_deploy_needs_a_terminal(policy, capsys, monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["deploy", policy, "--velocity", "keyboard"]) == 1
    assert "needs a terminal" in capsys.readouterr().err
