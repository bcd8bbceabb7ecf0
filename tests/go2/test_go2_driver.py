"""The driver against the emulator, where nothing goes wrong or little does."""

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from go2_wire import EmulatorProcess, Listener

from rfx.drivers.go2.driver.driver import Go2
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.go2.rules.log import Recording
from rfx.drivers.go2.rules.mailbox import Phase, create_memory, mailboxes, state_dtype
from rfx.drivers.go2.rules.safety import SafetyLimits

pytest.importorskip("cyclonedds", reason="needs the extra go2")
LIMITS = SafetyLimits(
    stand_s=0.4, settle_s=0.1, damping_s=0.2, policy_timeout_s=0.5, slow_policy_factor=25.0
)  # on a busy machine a policy is late


@pytest.fixture(scope="module")
def emulator():
    with EmulatorProcess() as process:
        yield process


def go2(emulator, tmp_path, **options) -> Go2:
    return Go2(domain=emulator.domain, limits=LIMITS, log_path=tmp_path / "log.jsonl", **options)


def test_it_releases_the_sport_controller_before_its_first_command(emulator, tmp_path):
    emulator.ask("again")
    wire = Listener(emulator.domain)
    time.sleep(0.2)
    with go2(emulator, tmp_path) as robot:
        robot.connect()
        wire.wait_for_writers(
            2
        )  # DDS drops what comes from a writer before the listener has met it, on a busy machine for 0.3 s
        robot.reset()
        assert emulator.ask("pose")["mode"] == ""
        assert emulator.ask("pose")["position"][2] > 0.2, "it stands"
    seen = wire.take()
    ours = seen.writer == seen.writer[-1]
    assert len(set(seen.writer.tolist())) == 2
    assert seen.time_ns[~ours].max() < seen.time_ns[ours].min(), "the two never commanded at the same time"
    assert (seen.mode[ours] == 1).all() and (seen.kp[ours][:, 12:] == 0).all() and (seen.kd[ours][:, 12:] == 0).all()
    own = seen.of(seen.writer[-1])
    assert own.damping[0] and own.damping[-1]
    log = Recording.load(tmp_path / "log.jsonl").arrays  # also what was sent before the listener had met the sender
    assert log["time_s"][np.argmax(log["kp"] > 0.0)] - log["time_s"][0] >= 0.3, (
        "who meets the sender late begins with damping too"
    )
    gaps = np.diff(own.time_ns)  # the longest is the machine's doing: 95 ms were seen on a busy virtual one
    assert np.percentile(gaps, 99) < 5e6 and np.median(gaps) == pytest.approx(2.5e6, abs=0.2e6)


def test_the_remote_steers(emulator, tmp_path):
    emulator.ask("again released")
    with go2(emulator, tmp_path, velocity_from="remote") as robot:
        robot.reset()
        emulator.ask("sticks ly=1 lx=0.54 rx=-1")
        assert commands(robot, 25)[-1] == pytest.approx([1.0, -0.2, 0.8], rel=1e-4)
        emulator.ask("sticks ly=0.05")
        assert (commands(robot, 25)[-1] == 0.0).all()


def commands(robot: Go2, num: int) -> np.ndarray:
    """The velocity commands that a policy observes in so many control steps, standing meanwhile. (num, 3)."""
    seen = []
    for _ in range(num):
        seen.append(robot.observe()["state"][0, 30:33].copy())
        robot.act(np.zeros((1, 12)))
        time.sleep(0.02)
    return np.array(seen)


def test_a_command_is_limited_and_reached_in_steps_and_braking_ends_it(emulator, tmp_path):
    """From 0 to the greatest command in 0.4 s, 20 control steps: 0.025, 0.015 and 0.03 a step here.

    What is asked while it brakes does not count.
    """
    emulator.ask("again released")
    with Go2(
        domain=emulator.domain,
        limits=dataclasses.replace(LIMITS, max_velocity_command=(0.5, 0.3, 0.6)),
        log_path=tmp_path / "log.jsonl",
    ) as robot:
        robot.command(9.0, -9.0, 0.09)
        robot.reset()
        seen = commands(robot, 23)
        np.testing.assert_allclose(
            seen,
            np.minimum(np.arange(23)[:, None] * [0.025, 0.015, 0.03], [0.5, 0.3, 0.09]) * [1.0, -1.0, 1.0],
            atol=1e-6,
        )
        assert robot.brake() == 0.8
        robot.command(0.5, 0.0, 0.0)
        braked = commands(robot, 22)
        np.testing.assert_allclose(braked[:, 0], np.maximum(0.5 - 0.025 * np.arange(22), 0.0), atol=1e-6)
        assert (braked[-1] == 0.0).all()
        robot.stand()
        while robot.look().phase != Phase.STANDING:
            time.sleep(0.01)
        np.testing.assert_allclose(commands(robot, 3)[:, 0], [0.0, 0.025, 0.05], atol=1e-6)


def test_the_command_is_zero_before_an_empty_battery_lies_it_down(emulator, tmp_path):
    """It has longer than braking takes.

    Here 3 s, in which a busy machine too makes the 20 control steps from the greatest command to none.
    """
    assert SafetyLimits().low_charge_s > SafetyLimits().brake_s
    emulator.ask("again released")
    with Go2(
        domain=emulator.domain, limits=dataclasses.replace(LIMITS, low_charge_s=3.0), log_path=tmp_path / "log.jsonl"
    ) as robot:
        robot.command(1.0, 0.0, 0.0)
        robot.reset()
        assert commands(robot, 25)[-1, 0] == pytest.approx(1.0)
        emulator.ask("charge 10")
        seen = []
        with pytest.raises(RuntimeError, match="the battery is at 10%"):
            while True:
                seen.append(commands(robot, 1)[0])
        assert (seen[-1] == 0.0).all()


def test_observations_are_what_the_robot_reports(emulator, tmp_path):
    emulator.ask("again released")
    with go2(emulator, tmp_path) as robot:
        robot.reset()
        emulator.ask("report q 0 0.25")
        emulator.ask("report dq 11 -3")
        time.sleep(0.05)
        state, pose = robot.observe()["state"][0], emulator.ask("pose")
        assert state[0] == pytest.approx(0.25) and state[23] == pytest.approx(-3.0)
        np.testing.assert_allclose(state[1:12], (pose["joints"] - GO2_CONFIG.default_position)[1:], atol=0.05)
        np.testing.assert_allclose(state[24:27], pose["angular_velocity"], atol=0.1)


def test_after_a_fault_it_can_be_connected_anew(emulator, tmp_path):
    emulator.ask("again released")
    robot = go2(emulator, tmp_path)
    robot.reset()
    with pytest.raises(ValueError, match="not finite"):
        robot.act(np.full((1, 12), np.nan))
    for call in (robot.observe, robot.reset, lambda: robot.act(np.zeros((1, 12)))):
        with pytest.raises(RuntimeError, match="was damped: got an action with values that are not finite"):
            call()
    robot.close()
    with robot:
        robot.reset()
        robot.act(np.zeros((1, 12)))


def test_a_sender_that_is_killed_while_connecting_leaves_the_robots_own_controller_alone(emulator, tmp_path):
    """Its guard must not damp a robot that somebody else controls."""
    emulator.ask("again")
    wire = Listener(emulator.domain)
    emulator.ask("freeze")  # so that it waits for LowState
    robot = go2(emulator, tmp_path)
    with pytest.raises(ConnectionError):
        robot_process = {}

        def kill(*arguments):
            robot_process["killed"] = True
            os.kill(robot._connection.process.pid, signal.SIGKILL)

        previous = signal.signal(signal.SIGALRM, kill)
        signal.setitimer(signal.ITIMER_REAL, 1.5)
        try:
            robot.connect()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, previous)
    assert robot_process == {"killed": True}
    time.sleep(0.3)
    assert len(set(wire.take().writer.tolist())) == 1, "only the sport controller has spoken"


def test_before_connecting(emulator, tmp_path):
    robot = go2(emulator, tmp_path)
    robot.stop()
    robot.close()
    for call in (robot.observe, lambda: robot.act(np.zeros((1, 12)))):
        with pytest.raises(RuntimeError, match="not connected: call reset"):
            call()


def test_without_the_extra(emulator, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[go2\]'"):
        go2(emulator, tmp_path).connect()


def test_a_library_that_does_not_load_is_named(tmp_path):
    """As of a cyclonedds that was built from source, with a CYCLONEDDS_HOME that is wrong: its loader's exceptions are
    of no common class.
    """
    (tmp_path / "cyclonedds").mkdir()
    (tmp_path / "cyclonedds" / "__init__.py").write_text(
        "class LoaderException(Exception): pass\nraise LoaderException('no lib/libddsc.so')\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from rfx import Go2\n"
        f"try: Go2(log_path={str(tmp_path / 'log.jsonl')!r}).connect()\nexcept ConnectionError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        "cyclonedds is installed, but does not load: no lib/libddsc.so. Where CYCLONEDDS_HOME is set" in done.stdout
    ), done.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        ({"velocity_from": "thought"}, "expected 'api' or 'remote'"),
        ({"interface": "eth0", "motion_switcher": False}, "must be released first"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Go2(**options)


def test_a_policys_own_gains_are_taken_within_bounds():
    """kp 0.5 to 1.5 times 35, kd 0.5 to 3 times 0.5, an action of up to 1 rad; limits are the robot's, whatever a
    folder says.
    """
    joints = tuple(
        dataclasses.replace(
            joint, kp=20.0, kd=1.2, max_torque_nm=99.0, max_rad=joint.max_rad + 0.5, default_rad=joint.default_rad + 0.1
        )
        for joint in GO2_CONFIG.joints
    )
    config = Go2(dataclasses.replace(GO2_CONFIG, joints=joints)).config
    assert (config.joint_array("kp") == 20.0).all() and config.joint_array("kd") == pytest.approx(1.2)
    np.testing.assert_array_equal(config.joint_array("max_torque_nm"), GO2_CONFIG.joint_array("max_torque_nm"))
    np.testing.assert_array_equal(config.joint_range, GO2_CONFIG.joint_range)
    np.testing.assert_allclose(config.default_position, GO2_CONFIG.default_position + 0.1, atol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kp": 17.4}, "FL_thigh_joint kp is 17.4, allowed are 17.5 to 52.5"),
        ({"kp": 52.6}, "kp is 52.6"),
        ({"kd": 0.24}, "kd is 0.24, allowed are 0.25 to 1.5"),
        ({"kd": 1.6}, "kd is 1.6"),
        ({"default_rad": 1.3}, "default_rad is 1.3, allowed are 0.6 to 1.2"),
    ],
)
def test_gains_out_of_bounds_are_refused(changes, message):
    joints = tuple(
        dataclasses.replace(joint, **(changes if joint.name == "FL_thigh_joint" else {})) for joint in GO2_CONFIG.joints
    )
    with pytest.raises(ValueError, match=message):
        Go2(dataclasses.replace(GO2_CONFIG, joints=joints))


def test_other_robots_and_rates_are_refused():
    joints = tuple(
        dataclasses.replace(joint, name=f"A1_{joint.name}", mirror=f"A1_{joint.mirror}") for joint in GO2_CONFIG.joints
    )
    with pytest.raises(ValueError, match="got a policy for joints A1_FR_hip_joint, .*expected FR_hip_joint"):
        Go2(dataclasses.replace(GO2_CONFIG, joints=joints))
    with pytest.raises(ValueError, match="control_freq_hz is 10, allowed are 25 to 100"):
        Go2(dataclasses.replace(GO2_CONFIG, control_freq_hz=10.0))


def test_logs_are_never_overwritten_and_runs_rotate(tmp_path, monkeypatch):
    from rfx.drivers.go2.rules import log

    first = tmp_path / "log.jsonl"
    assert log.unused_path(first) == first
    first.touch()
    log.run_path(tmp_path / "log-2.jsonl").touch()
    assert log.unused_path(first).name == "log-3.jsonl"
    monkeypatch.setattr(log, "RUN_BYTES", 20_000)
    monkeypatch.setattr(log, "RUN_FILES", 3)
    monkeypatch.setattr(log, "RUN_RATE_HZ", 1000.0)
    descriptor, memory = create_memory(GO2_CONFIG)
    os.close(descriptor)
    states, _ = mailboxes(memory, GO2_CONFIG)
    state = np.zeros((), state_dtype(GO2_CONFIG))
    state["time_s"], state["battery"] = 1.0, 55
    states.write(state)
    recorder = log.Recorder(tmp_path / "new.jsonl", memory, GO2_CONFIG, LIMITS)
    deadline_s = time.monotonic() + 20.0
    while not (tmp_path / "new-run.2.jsonl").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    time.sleep(0.3)
    recorder.close()
    assert sorted(path.name for path in tmp_path.glob("new*")) == [
        "new-run.1.jsonl",
        "new-run.2.jsonl",
        "new-run.jsonl",
    ]
    assert all(path.stat().st_size < 25_000 for path in tmp_path.glob("new*"))
    assert (Recording.load(tmp_path / "new-run.1.jsonl").arrays["battery"] == 55).all()


def test_domains():
    assert (Go2().domain, Go2(interface="eth0").domain, Go2(interface="eth0", domain=3).domain) == (1, 0, 3)
