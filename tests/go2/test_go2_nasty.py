"""A nasty robot: services that are late, slow, hung or refuse, a body that lies, stands or is stuck.

Each ends safe and says why.

Safe is: a robot that its own controller holds up is never let go of, and ours commands nothing but damping. All in
virtual time.
"""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs the extra go2")

from virtual_go2 import QUICK, VirtualGo2, Wire, still  # noqa: E402

from rfx.drivers.go2.rules.mailbox import Phase  # noqa: E402
from rfx.drivers.go2.rules.safety import SafetyLimits  # noqa: E402

STANDING_M, LYING_M = 0.25, 0.13


@pytest.fixture
def bench(tmp_path):
    """A robot that lies, with its own controller at work."""
    with VirtualGo2(tmp_path, sport=True) as bench:
        yield bench


@pytest.fixture
def robot(bench):
    """A driver that is not connected yet."""
    return bench.go2()


def mode(bench) -> str:
    return bench.ask("pose")["mode"]


def refused(bench, robot) -> str:
    """Why it does not connect; nobody of ours has commanded anything."""
    with pytest.raises(ConnectionError) as raised:
        robot.connect()
    assert not bench.wire.time_s
    return str(raised.value)


@pytest.mark.parametrize("late_s", [0.3, 1.0])
def test_a_reader_that_matches_late_is_asked_again(bench, robot, late_s):
    """What a Cyclone DDS 0.10.2 service does not see of the first 0.3 s, or of 1 s, of a new client."""
    bench.ask(f"late {late_s}")
    robot.connect()
    assert mode(bench) == ""
    robot.close()


def test_discovery_may_take_its_time(bench, robot):
    """Everybody meets everybody 0.5 s late, and hears nothing until then: the robot hears damping first."""
    bench.network.discovery_s = 0.5
    heard = []
    obey = bench.emulator._obey
    bench.emulator._obey = lambda motors: (heard.append(bool(motors["kp"].any())), obey(motors))
    with robot:
        robot.reset()
        assert mode(bench) == "" and True in heard and not heard[heard.index(True) - 1]


def test_a_robot_that_meets_the_sender_late_hears_damping_first(bench):
    """What DDS drops of the first 0.25 s is damping."""
    robot = bench.go2()
    lost = []
    bench.network.is_lost = lambda writer, reader: (
        writer.bus.process.name == "sender"
        and writer.topic == "rt/lowcmd"
        and bool(lost.append(0) or bench.clock.time_s - bench.wire.time_s[0] < 0.25)
    )
    heard, obey = [], bench.emulator._obey
    bench.emulator._obey = lambda motors: (heard.append(bool(motors["kp"].any())), obey(motors))
    robot.reset()
    assert lost and not heard[0] and True in heard
    robot.close()


def test_late_answers_do_not_abort(bench, robot):
    """One second for each answer, three times what the driver waits before it asks again."""
    bench.ask("slow motion_switcher 1")
    robot.connect()
    assert mode(bench) == "" and robot.left_without == "normal"
    robot.close()


@pytest.mark.parametrize(
    "fault, reason, after_s",
    [
        ("slow motion_switcher inf", "motion_switcher service did not answer request 1001 within 5 s", 5.0),
        ("cling", "controller 'normal' is still active, or does not say that it is not, after 3 s", 3.0),
    ],
)
def test_a_service_that_does_not_do_as_asked_is_given_up(bench, fault, reason, after_s):
    """Nothing was commanded, and its own controller goes on. (By default it asks a controller that clings for 30 s.)"""
    robot = bench.go2(limits=dataclasses.replace(QUICK, release_timeout_s=3.0))
    begun_s = bench.clock.now()
    bench.ask(fault)
    said = refused(bench, robot)
    assert reason in said and ("start the robot again" in said) == (fault == "cling")
    assert after_s <= bench.clock.now() - begun_s <= after_s + 1.5  # of which some is for seeing that it lies
    assert mode(bench) == "normal"


def test_a_standing_robot_lies_down_before_it_is_released(bench, robot):
    """Its legs fold over 1.5 s; it never drops."""
    bench.ask("again standing")
    bench.clock.sleep(0.5)
    assert bench.ask("pose")["position"][2] > STANDING_M
    heights = []

    def look():
        while mode(bench):
            heights.append(bench.ask("pose")["position"][2])
            bench.clock.sleep(0.01)

    bench.clock.thread(look, "look").start()
    robot.connect()
    assert mode(bench) == "" and heights[-1] < LYING_M
    assert np.subtract(heights[5:], heights[:-5]).min() / 0.05 > -0.3  # m/s over 50 ms
    robot.close()


@pytest.mark.parametrize(
    "faults, reason",
    [
        (["refuse"], "sport service refused request 1005 with status 3104"),
        (["refuse", "slow sport inf"], "sport service did not answer request 1005 within 5 s"),
        (["hide"], "its sport service did not appear"),
    ],
)
def test_a_standing_robot_that_does_not_lie_down_is_not_released(bench, robot, faults, reason):
    bench.ask("again standing")
    for fault in faults:
        bench.ask(fault)
    said = refused(bench, robot)
    assert "not folded: FR -1.7" in said or "not folded: FR -1.8" in said
    assert reason in said and "its own controller still has it" in said
    pose = bench.ask("pose")
    assert pose["mode"] == "normal" and pose["position"][2] > STANDING_M


def test_a_lying_robot_without_sport_service_is_released(bench, robot):
    bench.ask("hide")
    robot.connect()
    assert mode(bench) == ""
    robot.close()


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("corrupt", "LowStates came, each with a wrong checksum"),
        ("freeze", "no LowState from the robot"),
        ("intrude", "another publisher of rt/lowcmd is there ('robot', process"),
        (
            "deafen",
            "nobody listens to rt/lowcmd: this is no Go2's domain, or its motors are not to be commanded. The robot lies "
            "without its own controller 'normal'",
        ),
    ],
)
def test_what_is_in_the_way_of_connecting_is_told(bench, robot, fault, reason):
    bench.ask(fault)
    said = refused(bench, robot)
    assert reason in said and ("--silent-publishers 1" in said) == (fault == "intrude")


@pytest.mark.parametrize("after_s", [0.1, 0.29])
def test_another_publisher_that_appears_while_it_listens_is_in_the_way(bench, robot, after_s):
    """Discovery takes its time: it listens for 0.3 s before its first command."""
    bench.ask("again released")
    bench.clock.thread(lambda: (bench.clock.sleep(after_s), bench.ask("intrude")), "intruder").start()
    assert "another publisher of rt/lowcmd is there" in refused(bench, robot)


@pytest.mark.parametrize(
    "fault, reason",
    [("disorient", "quaternion has norm 0.00"), ("charge 19", "battery is at 19%; standing up needs 20%")],
)
def test_what_is_wrong_as_it_connects_damps_and_is_told(bench, robot, fault, reason):
    bench.ask(fault)
    with pytest.raises(ConnectionError, match=reason):
        robot.connect()
    assert bench.wire.damping.all() and bench.sender.poll() == 0


def test_silent_publishers_are_tolerated_until_they_send(bench):
    """One is allowed; it is there while it walks, says something, and is another publisher."""
    silent = bench.network.bus(bench.clock.test).writer("rt/lowcmd", None)
    robot, session = bench.walk(silent_publishers=1)
    bench.clock.sleep(0.2)
    assert session.is_running
    fault_s = bench.clock.now()
    from rfx.drivers.go2.wire import messages
    from rfx.drivers.go2.wire.idl import LowCmd_

    silent.write(LowCmd_(messages.damping_cmd(2.0)))
    assert "1 other publisher(s) of rt/lowcmd ('test', process" in bench.finish(robot, session)
    assert bench.wire.damps_ms(fault_s, QUICK.damping_s) <= 2.5


def test_a_stuck_leg_is_no_standing(bench, robot):
    bench.ask("stick RL")
    with pytest.raises(
        RuntimeError, match="did not stand up: RL_[a-z]+_joint is [01].[0-9]+ rad from the default pose, limit 0.30 rad"
    ):
        robot.reset()
    assert bench.wire.damping[-1]
    robot.close()


def test_an_empty_battery_lies_down(bench, robot):
    """20% is enough to stand.

    At 10% for a second it lies down, its command being zero by then, and says so once it lies.
    """
    assert SafetyLimits().low_charge_s > SafetyLimits().brake_s
    bench.ask("charge 20")
    robot.reset()
    robot.command(1.0, 0.0, 0.0)
    seen = []

    def step():
        seen.append(robot.observe()["state"][0, 30])
        robot.act(still(None))
        bench.clock.sleep(0.02)

    for _ in range(25):
        step()
    assert seen[-1] == pytest.approx(1.0)
    bench.ask("charge 10")
    empty_s = bench.clock.now()
    with pytest.raises(RuntimeError, match="battery is at 10%: it lay down"):
        while True:
            step()
    assert seen[-1] == 0.0 and bench.ask("pose")["position"][2] < LYING_M
    # legs together, down, at rest
    assert bench.wire.time_s[bench.wire.stiff[-1]] - empty_s == pytest.approx(1.0 + 0.5 + 1.5, abs=0.15)
    robot.close()


def test_a_gap_in_low_state_while_nothing_is_live_is_waited_for(bench, robot):
    robot.connect()
    bench.ask("freeze 0.5")
    bench.clock.sleep(0.3)
    assert robot.look().phase == Phase.IDLE and robot.look().state_age_s == pytest.approx(0.3, abs=0.005)
    robot.reset()
    assert bench.ask("pose")["position"][2] > 0.2
    robot.close()


@pytest.mark.parametrize(
    "phase, fault", [(Phase.STANDING_UP, "again released"), (Phase.CONNECTING, "slow motion_switcher inf")]
)
def test_stop_does_not_wait_for_standing_up(bench, phase, fault):
    """In the middle of a slow standing up, and while connecting: the session ends at once, lying."""
    bench.ask(fault)
    robot = bench.go2(limits=dataclasses.replace(QUICK, stand_s=15.0))
    session = bench.session(robot, still)
    session.start()
    bench.wait_for_phase(robot, phase)
    bench.clock.sleep(0.5)
    begun_s = bench.clock.now()
    session.stop()
    # of 15 s, of 5 s
    assert bench.clock.now() - begun_s < (1.8 if phase == Phase.STANDING_UP else 0.3) and session.step_count == 0
    assert bench.ask("pose")["position"][2] < LYING_M
    robot.close()
    assert bench.sender.poll() == 0 and bench.guard.poll() == 0


def test_it_releases_the_sport_controller_before_its_first_command(bench, robot):
    """The two never command at once; ours begins and ends with damping, and runs at 400 Hz."""
    own = Wire(bench.network, "robot")
    bench.clock.sleep(0.1)
    with robot:
        robot.reset()
        assert mode(bench) == "" and bench.ask("pose")["position"][2] > 0.2, "it stands"
    ours, motors = np.array(bench.wire.time_s), bench.wire.motors
    assert own.time_s[-1] < ours[0]
    assert (motors["mode"] == 1).all() and (motors["kp"][:, 12:] == 0).all() and (motors["kd"][:, 12:] == 0).all()
    assert bench.wire.damping[0] and bench.wire.damping[-1] and ours[bench.wire.stiff[0]] - ours[0] >= 0.3 - 1e-9
    assert np.diff(ours).max() <= 0.0025 + 1e-9
