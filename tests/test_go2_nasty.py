"""Connecting to a robot that misbehaves ends safe and says why, or gets over it."""

import threading
import time

import numpy as np
import pytest

from go2_wire import EmulatorProcess
from rfx.robots.go2 import Go2, SafetyLimits

pytest.importorskip("cyclonedds", reason="needs the extra go2")
LIMITS = SafetyLimits(stand_s=0.4, settle_s=0.3, lie_s=0.4, damping_s=0.2)


@pytest.fixture(scope="module")
def emulator():
    with EmulatorProcess() as process:
        yield process


def go2(emulator, tmp_path, **options) -> Go2:
    return Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl", **options)


def refused(emulator, tmp_path, match: str) -> str:
    """Connecting must fail with this reason. Returns it."""
    robot = go2(emulator, tmp_path)
    with pytest.raises(ConnectionError, match=match) as raised:
        robot.connect()
    assert robot._process is None
    return str(raised.value)


@pytest.mark.parametrize("fault", ["fail late 0.7", "fail slow 0.6", "fail dazed 6", "gap 0.5"])
def test_it_waits_for_a_robot_that_takes_its_time(emulator, tmp_path, fault):
    """Readers that meet us late, slow answers, none for 6 s after the release, LowState that pauses while it connects."""
    emulator.ask("again")
    emulator.ask(fault)
    with go2(emulator, tmp_path) as robot:
        robot.reset()
        assert emulator.ask("pose")["mode"] == "" and emulator.ask("pose")["position"][2] > 0.2


def test_low_state_pauses_after_it_connected(emulator, tmp_path):
    """Damped already, nothing is live: it waits, and stands up afterwards."""
    emulator.ask("again released")
    with go2(emulator, tmp_path) as robot:
        robot.connect()
        emulator.ask("gap 0.5")
        time.sleep(0.1)  # the gap is there to see
        robot.reset()
        robot.act(np.zeros((1, 12)))


def test_a_robot_that_stands_is_laid_down_before_it_is_released(emulator, tmp_path):
    emulator.ask("again standing")
    heights, robot = [], go2(emulator, tmp_path)
    thread = threading.Thread(target=robot.connect)
    thread.start()
    while thread.is_alive():
        pose = emulator.ask("pose")
        heights.append((pose["time_ns"] / 1e9, pose["position"][2], pose["mode"]))
        time.sleep(0.01)
    thread.join()
    robot.close()
    times, height = np.array([row[:2] for row in heights]).T
    drop = -(height[6:] - height[:-6]) / (times[6:] - times[:-6])
    assert height[0] > 0.2 and [row for row in heights if row[2] == ""][0][1] < 0.12, "it lay when it was released"
    assert drop.max() < 0.4, "its own controller lies down within a second"


@pytest.mark.parametrize("fault, why", [("refuse", "sport service refused request 1005 with status 4201"),
                                        ("hidden", "its sport service, which could lie it down, was not found"),
                                        ("hung sport", "sport service did not answer request 1005 within 5 s")])
def test_a_robot_that_stands_and_will_not_lie_down_keeps_its_controller(emulator, tmp_path, fault, why):
    """Releasing it would drop it from full height."""
    emulator.ask("again standing")
    emulator.ask(f"fail {fault}")
    reason = refused(emulator, tmp_path, "the robot does not lie with folded legs")
    assert why in reason and "_calf_joint is at -1." in reason and "lay it down with the remote" in reason
    pose = emulator.ask("pose")
    assert pose["mode"] == "normal" and pose["position"][2] > 0.2


def test_a_service_that_hangs(emulator, tmp_path):
    emulator.ask("again")
    emulator.ask("fail hung motion_switcher")
    assert "left without" not in refused(emulator, tmp_path, "motion_switcher service did not answer request 1001 within 5 s")
    assert emulator.ask("pose")["mode"] == "normal"


def test_a_controller_that_does_not_let_go(emulator, tmp_path):
    emulator.ask("again")
    emulator.ask("fail keep")
    assert "left without" not in refused(emulator, tmp_path, "motion_switcher service refused request 1003 with status 4201")
    assert emulator.ask("pose")["mode"] == "normal"


def test_samples_with_a_wrong_crc_are_no_cable(emulator, tmp_path):
    emulator.ask("again")
    emulator.ask("spoil")
    reason = refused(emulator, tmp_path, r"got [0-9]+ samples of rt/lowstate, none of them intact \(wrong CRC or length\)")
    assert "check cable" not in reason and emulator.ask("pose")["mode"] == "normal"


def test_a_quaternion_of_zeros_is_no_level_robot(emulator, tmp_path):
    emulator.ask("again")
    emulator.ask("zero")
    refused(emulator, tmp_path, "LowState's quaternion has norm 0.00, expected 1")
    assert emulator.ask("pose")["mode"] == "normal"


def test_nobody_listens(emulator, tmp_path):
    """Before anything else is sent; the robot's own controller has gone by then, and the message says so."""
    emulator.ask("again")
    emulator.ask("deaf")
    assert "left without its own controller, 'normal'" in refused(emulator, tmp_path, "nobody reads rt/lowcmd")


@pytest.mark.parametrize("command, match", [("stick 2", "FR_calf_joint is 0.[5-9][0-9] rad from the default pose"), ("gap 99", "no LowState for")])
def test_it_does_not_stand(emulator, tmp_path, command, match):
    """A leg that is stuck; and a robot that falls silent."""
    emulator.ask("again released")
    with go2(emulator, tmp_path) as robot:
        robot.connect()
        emulator.ask(command)
        with pytest.raises(RuntimeError, match=match):
            robot.reset()
