"""A nasty robot: services that are late, slow, hung or refuse, a body that lies, stands or is stuck.

Each ends safe and says why.

Safe is: a robot that its own controller holds up is never let go of, and ours commands nothing but damping.
"""

import dataclasses
import threading
import time

import numpy as np
import pytest
from go2_wire import EmulatorProcess, Listener

from rfx.drivers.go2.driver.driver import Go2
from rfx.drivers.go2.rules.mailbox import Phase
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.session import Session

pytest.importorskip("cyclonedds", reason="needs the extra go2")
pytestmark = pytest.mark.e2e
LIMITS = SafetyLimits(
    stand_s=0.4, settle_s=0.2, damping_s=0.2, policy_timeout_s=0.5, slow_policy_factor=25.0
)  # on a busy machine a policy is late
IMPATIENT = dataclasses.replace(
    LIMITS, service_timeout_s=2.0, lie_down_timeout_s=2.0, release_timeout_s=3.0
)  # where giving up is tested
STANDING_M = 0.25


@pytest.fixture(scope="module")
def shared():
    with EmulatorProcess() as emulator:
        yield emulator, Listener(emulator.domain)


@pytest.fixture
def emulator(shared):
    """As new, lying, with its own controller at work."""
    shared[0].ask("again")
    time.sleep(0.2)
    shared[1].take()
    return shared[0]


@pytest.fixture
def robot(emulator, tmp_path):
    """A driver that is not connected yet."""
    robot = Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl")
    yield robot
    robot.close()


@pytest.fixture
def impatient(emulator, tmp_path):
    """The same, but it gives up sooner than after 5, 10 and 30 s."""
    assert (LIMITS.service_timeout_s, LIMITS.lie_down_timeout_s, LIMITS.release_timeout_s) == (5.0, 10.0, 30.0)
    robot = Go2(domain=emulator.domain, limits=IMPATIENT, log_path=tmp_path / "log.jsonl")
    yield robot
    robot.close()


def stays_up(emulator, shared):
    """Its own controller has it, it stands, and nobody else has written."""
    pose = emulator.ask("pose")
    assert pose["mode"] == "normal" and pose["position"][2] > STANDING_M
    assert len(set(shared[1].take().writer.tolist())) == 1


def lowest_drop(emulator, done, rows):
    """Note heights until done, from another thread."""
    while not done.wait(0.01):
        pose = emulator.ask("pose")
        rows.append((pose["time_ns"] / 1e9, pose["position"][2]))


def test_a_reader_that_matches_late_is_asked_again(emulator, robot):
    """What a Cyclone DDS 0.10.2 service does not see of the first 0.3 s, or of 1 s, of a new client."""
    for late in (0.3, 1.0):
        emulator.ask("again")
        emulator.ask(f"late {late}")
        robot.connect()
        assert emulator.ask("pose")["mode"] == ""
        robot.close()


def test_late_answers_do_not_abort(emulator, robot):
    """One second for each answer, three times what the driver waits before it asks again: the one about its mode after
    the release too.
    """
    emulator.ask("slow motion_switcher 1")
    robot.connect()
    assert emulator.ask("pose")["mode"] == "" and robot.left_without == "normal"


def test_a_service_that_never_answers_is_given_up(emulator, impatient, shared):
    emulator.ask("slow motion_switcher inf")
    with pytest.raises(ConnectionError, match="motion_switcher service did not answer request 1001 within 2 s"):
        impatient.connect()
    assert emulator.ask("pose")["mode"] == "normal" and len(set(shared[1].take().writer.tolist())) == 1


def test_a_controller_that_clings_is_given_up(emulator, impatient, shared):
    """It says that it let go, and has not: three seconds of asking, by default thirty, then nothing was commanded."""
    emulator.ask("cling")
    with pytest.raises(
        ConnectionError, match="controller 'normal' is still active, .* after 3 s.*start the robot again"
    ):
        impatient.connect()
    assert len(set(shared[1].take().writer.tolist())) == 1


def test_a_standing_robot_lies_down_before_it_is_released(emulator, robot):
    """Its legs fold over 1.5 s; it never drops."""
    emulator.ask("again standing")
    time.sleep(0.5)
    assert emulator.ask("pose")["position"][2] > STANDING_M
    rows = []
    connecting = threading.Thread(target=robot.connect)
    connecting.start()
    while connecting.is_alive():
        pose = emulator.ask("pose")
        rows.append((pose["time_ns"] / 1e9, pose["position"][2]))
        time.sleep(0.01)
    assert emulator.ask("pose")["mode"] == "" and rows[-1][1] < 0.13
    times, heights = np.array(rows).T
    later = np.minimum(np.searchsorted(times, times + 0.05), len(times) - 1)
    kept = later > np.arange(len(times))
    assert ((heights[later] - heights)[kept] / (times[later] - times)[kept]).min() > -0.3


@pytest.mark.parametrize(
    "fault, why",
    [
        ("refuse", r"not folded: FR -1\.[789][0-9] rad, .*sport service refused request 1005 with status 3104"),
        ("slow sport inf", r"not folded: .*sport service did not answer request 1005 within 2 s"),
        ("hide", r"not folded: .*its sport service did not appear"),
    ],
)
def test_a_standing_robot_that_does_not_lie_down_is_not_released(emulator, impatient, shared, fault, why):
    emulator.ask("again standing")
    emulator.ask(fault if fault != "slow sport inf" else "refuse")  # it neither lies down nor answers
    if fault == "slow sport inf":
        emulator.ask(fault)
    time.sleep(0.3)
    shared[1].take()
    with pytest.raises(
        ConnectionError, match=why + ".*Lie it down with its remote, then try again; its own controller still has it"
    ):
        impatient.connect()
    stays_up(emulator, shared)


def test_a_lying_robot_without_sport_service_is_released(emulator, robot):
    emulator.ask("hide")
    robot.connect()
    assert emulator.ask("pose")["mode"] == ""


def test_bad_checksums_are_called_that(emulator, robot):
    emulator.ask("corrupt")
    with pytest.raises(ConnectionError, match="[0-9]+ LowStates came, each with a wrong checksum"):
        robot.connect()


def test_bad_checksums_while_walking_damp(emulator, robot):
    session = Session(robot, lambda observation: np.zeros((1, 12), np.float32), warmup_s=0.0)
    session.start()
    while session.step_count < 10:
        assert session.is_running
        time.sleep(0.01)
    emulator.ask("corrupt")
    while session.is_running:
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match=r"no intact LowState \([0-9]+ came with a wrong checksum\) for 5[0-9] ms"):
        session.stop()


def test_a_quaternion_of_zeros_is_not_level(emulator, robot):
    emulator.ask("disorient")
    with pytest.raises(ConnectionError, match="quaternion has norm 0.00"):
        robot.connect()


def test_a_stuck_leg_is_no_standing(emulator, robot, shared):
    emulator.ask("stick RL")
    with pytest.raises(
        RuntimeError, match="did not stand up: RL_[a-z]+_joint is [01].[0-9]+ rad from the default pose, limit 0.30 rad"
    ):
        robot.reset()
    time.sleep(0.1)
    wire = shared[1].take()
    assert wire.of(wire.writer[-1]).damping[-1]


def test_nobody_who_listens_is_not_stood_up(tmp_path):
    """No reader of rt/lowcmd: there is nothing to command. (No listener of ours either.)"""
    with EmulatorProcess() as emulator:
        emulator.ask("deafen")
        with pytest.raises(
            ConnectionError, match="nobody listens to rt/lowcmd.*lies without its own controller 'normal'"
        ):
            Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl").connect()


def test_a_low_battery_is_refused_and_an_empty_one_lies_down(emulator, robot):
    emulator.ask("charge 19")
    with pytest.raises(ConnectionError, match="battery is at 19%; standing up needs 20%"):
        robot.connect()
    emulator.ask("charge 20")
    robot.reset()
    emulator.ask("charge 10")
    with pytest.raises(RuntimeError, match="battery is at 10%: it lay down"):
        while True:
            robot.observe()
            robot.act(np.zeros((1, 12), np.float32))
            time.sleep(0.02)
    assert emulator.ask("pose")["position"][2] < 0.13


def test_a_gap_in_low_state_while_nothing_is_live_is_waited_for(emulator, robot):
    robot.connect()
    emulator.ask("freeze 0.5")
    time.sleep(0.3)
    assert robot.look().phase == Phase.IDLE
    robot.reset()
    assert emulator.ask("pose")["position"][2] > 0.2


def test_a_slow_policy_lies_down(emulator, tmp_path):
    """80 ms a step: the gait clock runs four times too slow. It ends by itself, on folded legs."""
    limits = dataclasses.replace(LIMITS, slow_policy_factor=SafetyLimits().slow_policy_factor)
    robot = Go2(domain=emulator.domain, limits=limits, log_path=tmp_path / "log.jsonl")
    session = Session(robot, lambda observation: time.sleep(0.075) or np.zeros((1, 12), np.float32), warmup_s=0.0)
    with pytest.raises(
        RuntimeError, match="a policy step took [0-9]+ ms on average, its control period is 20 ms: it lay down"
    ):
        session.run(20.0)
    assert emulator.ask("pose")["position"][2] < 0.13


def test_another_publisher_is_named(emulator, robot):
    emulator.ask("intrude")
    with pytest.raises(ConnectionError, match=r"another publisher .*process [0-9]+ on .*--silent-publishers 1"):
        robot.connect()


def test_stop_does_not_wait_for_standing_up(emulator, tmp_path):
    """In the middle of a slow standing up, and while connecting: the session ends at once, lying."""
    limits = SafetyLimits(stand_s=15.0, damping_s=0.2)
    for fault, wait in (("", Phase.STANDING_UP), ("slow motion_switcher inf", Phase.CONNECTING)):
        emulator.ask("again released")
        if fault:
            emulator.ask(fault)
        robot = Go2(domain=emulator.domain, limits=limits, log_path=tmp_path / "log.jsonl")
        session = Session(robot, lambda observation: np.zeros((1, 12), np.float32), warmup_s=0.0)
        session.start()
        while robot._connection is None or robot._connection.phase != wait:
            time.sleep(0.01)
        time.sleep(0.5)
        begun_s = time.monotonic()
        session.stop()
        assert time.monotonic() - begun_s < 6.0 and session.step_count == 0  # of 15 s and more
        assert emulator.ask("pose")["position"][2] < 0.13
        robot.close()


def test_closing_while_connecting_leaves_no_process(emulator, robot):
    emulator.ask("slow motion_switcher inf")
    connecting = threading.Thread(target=lambda: pytest.raises(ConnectionError, robot.connect))
    connecting.start()
    while robot._connection is None or not robot._connection.state["alive_s"]:
        time.sleep(0.01)
    process = robot._connection.process
    robot.stop()
    connecting.join(timeout=10.0)
    assert not connecting.is_alive() and process.poll() is not None
