"""The command line beside an emulated Go2: replay, preflight, and the emulator's own."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from go2_wire import ROOT, EmulatorProcess, Listener, free_domain
from test_cli import other_policy, policy  # noqa: F401

import rfx
from rfx.commands.cli import main

pytest.importorskip("cyclonedds", reason="needs the extra go2")
pytestmark = pytest.mark.e2e


def start(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rfx.commands.cli", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


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


def test_replay_describes_computes_again_and_plots(policy, tmp_path, capsys):
    """A fall, on record: the reason, the extremes, and the same actions from the same observations."""
    log = tmp_path / "log.jsonl"
    with EmulatorProcess("--no-sport") as emulator:
        wire = Listener(emulator.domain)
        process = start(
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
            "--vx",
            "0.1",
            stdin=subprocess.DEVNULL,
        )
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
    assert (
        rows[-1]["phase"] == "FAULT"
        and {"observation", "action", "target"} <= next(row for row in rows if row["step"] > 1).keys()
    )
    rfx.RobotConfig.from_dict(header["robot_config"])
    pytest.importorskip("matplotlib", reason="needs the extra viz")
    assert main(["replay", str(log), "--plot", str(tmp_path / "run.png")]) == 0
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"


def test_emulate_go2_ends_on_quit_and_on_ctrl_c():
    process = start("emulate-go2", "--domain", str(free_domain()), stdin=subprocess.PIPE)
    assert json.loads(process.stdout.readline())["ready"]
    assert process.communicate("quit\n", timeout=5.0)[1] == "" and process.returncode == 0
    process = start("emulate-go2", "--domain", str(free_domain()), stdin=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=5.0)[1] == "interrupted\n" and process.returncode == 0


def test_preflight(policy, other_policy, tmp_path, capsys):
    """A line each, with its mend; nothing is commanded, and the robot's own controller keeps the motors."""
    with EmulatorProcess() as emulator:
        emulator.ask("sticks ly=1")
        where = ["--interface", "lo", "--domain", str(emulator.domain)]
        assert main(["preflight", policy, *where]) == 0
        lines = dict(line[6:].split(": ", 1) for line in capsys.readouterr().out.splitlines())
        assert (
            lines["policy"].startswith("MLP for go2, 50 Hz, kp 35, kd 0.5")
            and lines["battery"] == "80%"
            and lines["legs"] == "folded"
        )
        assert re.match(r"(4[5-9]|5[0-4])[0-9] Hz", lines["LowState"]) and lines["remote"] == "seen"
        assert (
            "published by 1" in lines["rt/lowcmd"]
            and lines["motion switcher"] == "the robot's own controller 'normal' has the motors"
        )
        wire = Listener(emulator.domain)
        for line in (
            "again standing",
            "charge 5",
            "heat 90",
            "disorient",
            "hide",
            "intrude",
            "slow motion_switcher inf",
        ):
            emulator.ask(line)
        process = start("preflight", other_policy, *where)  # a process joins a domain once, and this one listens
        out, error = process.communicate(timeout=60.0)
        assert process.returncode == 1
        marks = {line[6:].split(":")[0]: line[:5].strip() for line in out.splitlines()}
        assert {"policy", "battery", "motors", "orientation", "motion switcher"} == {
            name for name, mark in marks.items() if mark == "FAULT"
        }
        assert {"remote", "rt/lowcmd"} <= {
            name for name, mark in marks.items() if mark == "note"
        } and "not ready" in error
        assert len(set(wire.take().writer.tolist())) == 2 and emulator.ask("pose")["mode"] == "normal"
    assert main(["preflight", "--interface", "lo", "--domain", str(free_domain())]) == 1
    assert "FAULT LowState: none. Check cable" in capsys.readouterr().out
    assert main(["preflight", "--interface", "eth9"]) == 1
    assert "FAULT interface: eth9 is not there" in capsys.readouterr().out
