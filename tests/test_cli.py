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
from rfx.config import GO2_CONFIG
from rfx.robots.keyboard import Keyboard


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy folder of a small network that nobody trained."""
    from rfx.nn import go2_mlp

    return str(go2_mlp([32]).save(tmp_path_factory.mktemp("policy") / "p", robot_config=GO2_CONFIG, training_info={"total_steps": 7}))


@pytest.fixture(scope="module")
def other_policy(tmp_path_factory):
    """One that was made for other gains."""
    import dataclasses

    from rfx.nn import go2_mlp

    joints = tuple(dataclasses.replace(joint, kp=20.0) for joint in GO2_CONFIG.joints)
    return str(go2_mlp([32]).save(tmp_path_factory.mktemp("other") / "p", robot_config=dataclasses.replace(GO2_CONFIG, joints=joints)))


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
    (["deploy", "{policy}", "--rate-hz", "100"], "trained for 50 Hz"),
    (["deploy", "{other}", "--robot", "sim"], "kp: 20.0, the robot has 35.0"),
    (["deploy", "{policy}", "--vx", "nan"], "expected finite numbers"),
    (["deploy", "{policy}", "--robot", "go2", "--interface", "eth9", "--no-motion-switcher"], "must be released first"),
    (["replay", "/nowhere"], "rfx replay: no log at /nowhere"),
    (["replay", "{policy}/rfx_config.json"], "is no rfx Go2 log"),
])
def test_errors_are_one_line_and_status_1(arguments, message, policy, other_policy, capsys):
    assert main([argument.format(policy=policy, other=other_policy) for argument in arguments]) == 1
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_damps_and_exits_0(policy, number, tmp_path):
    pytest.importorskip("cyclonedds", reason="needs the extra go2")
    with EmulatorProcess("--no-sport") as emulator:
        wire, log = Listener(emulator.domain), tmp_path / "log.jsonl"
        process = start("deploy", policy, "--robot", "go2", "--domain", str(emulator.domain), "--log", str(log))
        deadline, seen = time.monotonic() + 20.0, np.zeros(0)
        while (seen == 35.0).sum() < 100:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
            seen = np.append(seen, wire.take().kp[:, 0])
        process.send_signal(number)
        out, error = process.communicate(timeout=10.0)
        assert process.returncode == 0 and error == "interrupted\n"
        assert "LowState to LowCmd p50" in out
        last = wire.take()
        assert last.damping[-700:].all() and last.damping.sum() > 700  # nearly two seconds of it

        assert main(["replay", str(log), "--policy", policy]) == 0


def test_replay_describes_and_computes_again(policy, tmp_path, capsys):
    """A fall, on record: the reason, the extremes, and the same actions from the same observations."""
    pytest.importorskip("cyclonedds", reason="needs the extra go2")
    log = tmp_path / "log.jsonl"
    with EmulatorProcess("--no-sport") as emulator:
        wire = Listener(emulator.domain)
        process = start("deploy", policy, "--robot", "go2", "--domain", str(emulator.domain), "--log", str(log))
        deadline, seen = time.monotonic() + 20.0, np.zeros(0)
        while (seen == 35.0).sum() < 250:  # half a second of the policy's own gain
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
            seen = np.append(seen, wire.take().kp[:, 0])
        emulator.ask("tip")
        _, error = process.communicate(timeout=10.0)
    assert process.returncode == 1
    assert "damped and stopped: tilted by 1.5" in error
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


def test_keyboard_deploy_needs_a_terminal(policy, capsys, monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["deploy", policy, "--velocity", "keyboard"]) == 1
    assert "needs a terminal" in capsys.readouterr().err
