"""The command line, as a user types it."""

import json
import os
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


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A policy folder of a small network that nobody trained."""
    from rfx.nn import go2_mlp

    return str(go2_mlp([32]).save(tmp_path_factory.mktemp("policy") / "p", robot_config=GO2_CONFIG, training_info={"total_steps": 7}))


@pytest.fixture(scope="module")
def other_policy(tmp_path_factory):
    """One that was made for gains that a Go2 is too soft with."""
    import dataclasses

    from rfx.nn import go2_mlp

    joints = tuple(dataclasses.replace(joint, kp=10.0) for joint in GO2_CONFIG.joints)
    return str(go2_mlp([32]).save(tmp_path_factory.mktemp("other") / "p", robot_config=dataclasses.replace(GO2_CONFIG, joints=joints)))


def start(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "rfx.cli", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **options)


def test_inspect(policy, capsys):
    assert main(["inspect", policy]) == 0
    out = capsys.readouterr().out
    assert "MLP, 1,964 weights" in out  # 48 x 32 + 32 + 32 x 12 + 12
    assert "robot: go2, 12 joints, 50 Hz, action scale 0.5 to 0.5 rad" in out
    assert "joint_position, joint_velocity" in out and "training total_steps: 7" in out


@pytest.mark.parametrize("robot", ["mock", "sim"])
def test_deploy(policy, robot, capsys):
    assert main(["deploy", policy, "--robot", robot, "--duration", "0.2", "--vx", "0.3"]) == 0
    steps = int(re.match(r"(\d+) steps, ", capsys.readouterr().out)[1])
    assert 4 <= steps <= 10  # 0.2 s at 50 Hz; a busy machine leaves steps out


@pytest.mark.parametrize("arguments, message", [
    (["inspect", "/nowhere"], "rfx inspect: got /nowhere"),
    (["deploy", "/nowhere"], "rfx deploy: got /nowhere"),
    (["deploy", "{policy}", "--robot", "go1"], "unknown robot 'go1': did you mean 'go2'?"),
    (["deploy", "{policy}", "--viewer", "--robot", "mock"], "got --viewer with --robot mock, which has no such option"),
    (["deploy", "{policy}", "--interface", "eth0", "--restore", "--log", "x"], "got --interface, --log, --restore with --robot sim, which"),
    (["deploy", "{policy}", "--velocity", "remote"], "--robot sim, which has no remote control"),
    (["deploy", "{policy}", "--velocity", "keyboard", "--vx", "1"], "got --vx with --velocity keyboard; expected one or the other"),
    (["deploy", "{policy}", "--duration", "0"], "got --duration 0; expected more than 0"),
    (["deploy", "{policy}", "--robot", "go2"], "got no --interface, and none of this computer's leads to a robot"),
    (["deploy", "{other}", "--robot", "go2", "--interface", "lo"], "FR_hip_joint kp is 10, allowed are 17.5 to 52.5"),
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
    error = capfd.readouterr().err
    assert "rfx deploy: no Go2 in DDS domain 0 on 'eth9': cannot join DDS domain 0 on network interface 'eth9'" in error
    assert "Traceback" not in error


def lead(emulator, process) -> None:
    """Somebody at the remote: Start, then A."""
    for button, after, until in (("Start", "Passive\n", "Stand\n"), ("A", "", "Walk\n")):
        while after and process.stdout.readline() != after:
            assert process.poll() is None
        time.sleep(0.1)
        emulator.ask(f"press {button}")
        while process.stdout.readline() != until:
            assert process.poll() is None
        emulator.ask("press")


def test_replay_describes_and_computes_again(policy, tmp_path, capsys):
    """A fall, on record: the reason, the extremes, and the same actions from the same observations."""
    pytest.importorskip("cyclonedds", reason="needs the extra go2")
    log = tmp_path / "log.jsonl"
    with EmulatorProcess("--no-sport") as emulator:
        wire = Listener(emulator.domain)
        process = start("deploy", policy, "--robot", "go2", "--interface", "lo", "--domain", str(emulator.domain), "--log", str(log), "--vx", "0.1",
                        stdin=subprocess.DEVNULL)
        lead(emulator, process)
        deadline, seen = time.monotonic() + 20.0, np.zeros(0)
        while (seen == 35.0).sum() < 250:  # half a second of the policy's own gain
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
            seen = np.append(seen, wire.take().kp[:, 0])
        emulator.ask("tip")
        said = ""
        while "connected again" not in said:
            said += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20.0)
    assert process.returncode == 0 and "the Go2 was damped: tilted by 1.5" in said
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


def test_preflight(policy, other_policy, tmp_path, capsys):
    """A line each, with its mend; nothing is commanded, and the robot's own controller keeps the motors."""
    pytest.importorskip("cyclonedds", reason="needs the extra go2")
    with EmulatorProcess() as emulator:
        emulator.ask("sticks ly=1")
        where = ["--interface", "lo", "--domain", str(emulator.domain)]
        assert main(["preflight", policy, *where]) == 0
        lines = dict(line[6:].split(": ", 1) for line in capsys.readouterr().out.splitlines())
        assert lines["policy"].startswith("MLP for go2, 50 Hz, kp 35, kd 0.5") and lines["battery"] == "80%" and lines["legs"] == "folded"
        assert re.match(r"(4[5-9]|5[0-4])[0-9] Hz", lines["LowState"]) and lines["remote"] == "seen"
        assert "published by 1" in lines["rt/lowcmd"] and lines["motion switcher"] == "the robot's own controller 'normal' has the motors"
        wire = Listener(emulator.domain)
        for line in ("again standing", "charge 5", "heat 90", "disorient", "hide", "intrude", "slow motion_switcher inf"):
            emulator.ask(line)
        process = start("preflight", other_policy, *where)  # a process joins a domain once, and this one listens
        out, error = process.communicate(timeout=60.0)
        assert process.returncode == 1
        marks = {line[6:].split(":")[0]: line[:5].strip() for line in out.splitlines()}
        assert {"policy", "battery", "motors", "orientation", "motion switcher"} == {name for name, mark in marks.items() if mark == "FAULT"}
        assert {"remote", "rt/lowcmd"} <= {name for name, mark in marks.items() if mark == "note"} and "not ready" in error
        assert len(set(wire.take().writer.tolist())) == 2 and emulator.ask("pose")["mode"] == "normal"
    assert main(["preflight", "--interface", "lo", "--domain", str(free_domain())]) == 1
    assert "FAULT LowState: none. Check cable" in capsys.readouterr().out
    assert main(["preflight", "--interface", "eth9"]) == 1
    assert "FAULT interface: eth9 is not there" in capsys.readouterr().out


def test_interfaces(capsys, monkeypatch):
    """The wired one of the robot's network is the one; without --interface it is taken only when there is no other."""
    from rfx.robots.go2 import interfaces as module

    addresses = {"lo": "127.0.0.1", "wlan0": "192.168.123.5", "eth0": None, "eth1": "192.168.123.222"}
    kinds = {"lo": "loopback", "wlan0": "wireless"}
    monkeypatch.setattr(module.socket, "if_nameindex", lambda: list(enumerate(addresses)))
    monkeypatch.setattr(module, "_address", addresses.get)
    monkeypatch.setattr(module, "_kind", lambda name: kinds.get(name, "wired"))
    assert main(["interfaces"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("eth1 ") and lines[0].endswith("leads to the robot")
    assert sum("leads to the robot" in line for line in lines) == 1 and any("wlan0" in line and "use the cable" in line for line in lines)
    assert module.robot_interface() == "eth1"
    addresses["eth0"] = "192.168.123.99"
    with pytest.raises(ValueError, match="2 of this computer's leads to a robot"):
        module.robot_interface()


def test_keyboard_deploy_needs_a_terminal(policy, capsys, monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["deploy", policy, "--velocity", "keyboard"]) == 1
    assert "needs a terminal" in capsys.readouterr().err
