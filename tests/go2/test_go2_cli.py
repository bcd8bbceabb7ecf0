"""What the command line makes of an emulated Go2, in virtual time: replay of a log, and the findings of preflight."""

import json
import re

import numpy as np
import pytest
from test_cli import other_policy, policy  # noqa: F401

import rfx
from rfx.commands.cli import main
from rfx.loading.loaded_policy import load_policy

pytest.importorskip("cyclonedds", reason="needs the extra go2")

from virtual_go2 import VirtualGo2  # noqa: E402

from rfx.drivers.go2.operator.preflight import check, check_robot  # noqa: E402


def test_replay_describes_computes_again_and_plots(policy, tmp_path, capsys):  # noqa: F811
    """A fall, on record: the reason, the extremes, and the same actions from the same observations."""
    with VirtualGo2(tmp_path, log_s=1.0) as bench:
        robot, session = bench.walk(load_policy(policy))
        bench.clock.sleep(1.0)
        bench.ask("tip")
        assert "tilted by 1.5" in bench.finish(robot, session)
    log = str(tmp_path / "log.jsonl")
    assert main(["replay", log, "--policy", policy]) == 0
    out = capsys.readouterr().out
    assert "stopped: tilted by 1.5" in out
    assert float(re.search(r"tilt: greatest ([0-9.]+) rad", out)[1]) > 1.5
    assert float(out.strip().rpartition(" ")[2]) < 1e-5
    header, *rows = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert header["limits"]["tilt_rad"] == 1.05 and len(rows) == 500, (
        "of 400 ticks a second and one for each step, the newest 500 fit"
    )
    assert np.diff([row["time_s"] for row in rows]).max() <= 0.0025 + 1e-6
    assert (
        rows[-1]["phase"] == "FAULT"
        and {"observation", "action", "target"} <= next(row for row in rows if row["step"] > 1).keys()
    )
    rfx.RobotConfig.from_dict(header["robot_config"])
    pytest.importorskip("matplotlib", reason="needs the extra viz")
    assert main(["replay", log, "--plot", str(tmp_path / "run.png")]) == 0
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"


def findings(bench) -> dict[str, tuple[str, str]]:
    """What preflight finds of the robot: mark and words by name."""
    found = check_robot(bench.network.bus(bench.clock.test), "lo", 1, bench.clock)
    return {finding.name: (finding.mark, finding.found) for finding in found}


def test_preflight_of_a_robot_that_is_well(tmp_path):
    """Nothing is commanded, and the robot's own controller keeps the motors."""
    with VirtualGo2(tmp_path, sport=True) as bench:
        bench.clock.sleep(0.5)
        bench.ask("sticks ly=1")
        found = findings(bench)
        assert bench.ask("pose")["mode"] == "normal" and not bench.wire.time_s
    assert {mark for mark, _ in found.values()} == {"ok", "note"} and found["rt/lowcmd"][0] == "note"
    assert found["LowState"][1].startswith("500 Hz, longest gap 2 ms")
    assert found["battery"][1] == "80%" and found["legs"][1] == "folded" and found["remote"][1] == "seen"
    assert found["rt/lowcmd"][1].startswith("published by 1 ('robot', process") and found["sport service"][1] == "there"
    assert found["motion switcher"][1] == "the robot's own controller 'normal' has the motors"


def test_preflight_of_a_robot_that_is_not(tmp_path):
    with VirtualGo2(tmp_path, sport=True) as bench:
        for line in (
            "again standing",
            "charge 5",
            "heat 90",
            "disorient",
            "hide",
            "intrude",
            "slow motion_switcher inf",
        ):
            bench.ask(line)
        found = findings(bench)
        assert {name for name, (mark, _) in found.items() if mark == "FAULT"} == {
            "battery",
            "motors",
            "orientation",
            "motion switcher",
        }
        assert {"remote", "rt/lowcmd"} <= {name for name, (mark, _) in found.items() if mark == "note"}
        bench.robot_process.kill()
        assert findings(bench)["LowState"] == ("FAULT", "none")


def test_preflight_of_a_policy(policy, other_policy):  # noqa: F811
    for path, mark, words in (
        (policy, "ok", "MLP for go2, 50 Hz, kp 35, kd 0.5"),
        (other_policy, "FAULT", "kp is 10"),
        ("/nowhere", "FAULT", ""),
    ):
        found = next(finding for finding in check("lo", 1, path) if finding.name == "policy")
        assert found.mark == mark and words in found.found
