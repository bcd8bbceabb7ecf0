"""The driver before the emulated robot in virtual time, where nothing goes wrong or little does."""

import dataclasses
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs the extra go2")

from virtual_go2 import QUICK, VirtualGo2, still  # noqa: E402

from rfx.drivers.go2.driver.driver import Go2  # noqa: E402
from rfx.drivers.go2.rules.config import GO2_CONFIG  # noqa: E402
from rfx.drivers.go2.rules.log import Recording, run_path, unused_path  # noqa: E402
from rfx.drivers.go2.rules.mailbox import Phase  # noqa: E402


@pytest.fixture
def bench(tmp_path):
    with VirtualGo2(tmp_path) as bench:
        yield bench


def commands(bench, robot: Go2, num: int) -> np.ndarray:
    """The velocity commands that a policy observes in so many control steps, standing meanwhile. (num, 3)."""
    seen = []
    for _ in range(num):
        seen.append(robot.observe()["state"][0, 30:33].copy())
        robot.act(still(None))
        bench.clock.sleep(0.02)
    return np.array(seen)


def test_the_remote_steers(bench):
    with bench.go2(velocity_from="remote") as robot:
        robot.reset()
        bench.ask("sticks ly=1 lx=0.54 rx=-1")
        assert commands(bench, robot, 25)[-1] == pytest.approx([1.0, -0.2, 0.8], rel=1e-4)
        bench.ask("sticks ly=0.05")
        assert (commands(bench, robot, 25)[-1] == 0.0).all()


def test_a_command_is_limited_and_reached_in_steps_and_braking_ends_it(bench):
    """From 0 to the greatest command in 0.4 s, 20 control steps:

    0.025, 0.015 and 0.03 a step here. What is asked while it brakes does not count.
    """
    with bench.go2(limits=dataclasses.replace(QUICK, max_velocity_command=(0.5, 0.3, 0.6))) as robot:
        robot.command(9.0, -9.0, 0.09)
        robot.reset()
        seen = commands(bench, robot, 23)
        np.testing.assert_allclose(
            seen,
            np.minimum(np.arange(23)[:, None] * [0.025, 0.015, 0.03], [0.5, 0.3, 0.09]) * [1.0, -1.0, 1.0],
            atol=1e-6,
        )
        assert robot.brake() == 0.8
        robot.command(0.5, 0.0, 0.0)
        np.testing.assert_allclose(
            commands(bench, robot, 22)[:, 0], np.maximum(0.5 - 0.025 * np.arange(22), 0.0), atol=1e-6
        )
        robot.stand()
        bench.wait_for_phase(robot, Phase.STANDING)
        np.testing.assert_allclose(commands(bench, robot, 3)[:, 0], [0.0, 0.025, 0.05], atol=1e-6)


def test_observations_are_what_the_robot_reports(bench):
    """The newest LowState, at most 2 ms old, is in the observation; the target is sent at once."""
    with bench.go2() as robot:
        robot.reset()
        bench.ask("report q 0 0.25")
        bench.ask("report dq 11 -3")
        bench.clock.sleep(0.0021)
        state, pose = robot.observe()["state"][0], bench.ask("pose")
        assert state[0] == pytest.approx(0.25) and state[23] == pytest.approx(-3.0)
        np.testing.assert_allclose(state[1:12], (pose["joints"] - GO2_CONFIG.default_position)[1:], atol=0.05)
        np.testing.assert_allclose(state[24:27], pose["angular_velocity"], atol=0.1)
        robot.act(np.full((1, 12), 0.5))
        acted_s = bench.clock.now()
        bench.clock.sleep(0.02)
        sent = bench.wire.motors["q"][np.searchsorted(bench.wire.time_s, acted_s)]
        wanted = GO2_CONFIG.default_position + 0.5 * GO2_CONFIG.joint_array("action_scale_rad")
        assert (np.sign(sent[:12] - GO2_CONFIG.default_position) == np.sign(wanted - GO2_CONFIG.default_position)).all()
        for _ in range(3):
            commands(bench, robot, 1)
        assert 0.0 < robot.latency_s()[0] <= 0.002 + 1e-4


def test_after_a_fault_it_can_be_connected_anew(bench):
    robot = bench.go2()
    robot.reset()
    with pytest.raises(ValueError, match="not finite"):
        robot.act(np.full((1, 12), np.nan))
    for call in (robot.observe, robot.reset, lambda: robot.act(still(None))):
        with pytest.raises(RuntimeError, match="was damped: got an action with values that are not finite"):
            call()
    robot.close()
    with robot:
        robot.reset()
        robot.act(still(None))
    assert [
        Recording.load(path).reason.partition(":")[0]
        for path in (bench.folder / "log.jsonl", bench.folder / "log-2.jsonl")
    ] == ["got an action with values that are not finite", "closed"], "the first fault's log stays"


def test_a_sender_that_is_killed_while_connecting_leaves_the_robots_own_controller_alone(bench):
    """Its guard must not damp a robot that somebody else controls."""
    bench.ask("again")
    bench.ask("freeze")  # so that it waits for LowState
    killer = bench.clock.thread(lambda: (bench.clock.sleep(1.5), bench.sender.kill()), "killer")
    killer.start()
    with pytest.raises(ConnectionError):
        bench.go2().connect()
    bench.clock.sleep(0.3)
    assert not bench.wire.time_s and bench.guard.poll() is not None


def test_stopped_while_connecting_it_gives_up(bench):
    bench.ask("again")
    bench.ask("slow motion_switcher inf")
    robot = bench.go2()
    bench.clock.thread(lambda: (bench.clock.sleep(0.2), robot.stop()), "stopper").start()
    begun_s = bench.clock.now()
    with pytest.raises(ConnectionError, match="closed while connecting"):
        robot.connect()
    assert bench.clock.now() - begun_s < 0.5 and bench.sender.poll() == 0 and bench.guard.poll() == 0


def test_its_own_controller_takes_the_motors_again(bench):
    """With restore, when it is closed without a fault; else one is told whom it lies without."""
    bench.ask("again")
    robot = bench.go2()
    with robot:
        robot.reset()
    assert robot.left_without == "normal" and bench.ask("pose")["mode"] == ""
    bench.ask("again")
    with bench.go2(restore="") as robot:
        robot.reset()
    assert robot.left_without == "" and bench.ask("pose")["mode"] == "normal"
    with bench.go2(restore="") as robot:
        robot.connect()
        bench.ask("slow motion_switcher inf")
        with pytest.raises(RuntimeError, match="left without its own controller, which did not take the motors again"):
            robot.close()


def test_before_connecting(bench):
    robot = bench.go2()
    robot.stop()
    robot.close()
    for call in (robot.observe, lambda: robot.act(still(None))):
        with pytest.raises(RuntimeError, match="not connected: call reset"):
            call()


def test_without_the_extra(bench, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[go2\]'"):
        bench.go2().connect()


@pytest.mark.e2e
def test_a_library_that_does_not_load_is_named(tmp_path):
    """As of one built from source, with a wrong CYCLONEDDS_HOME: its loader's exceptions are of no common class."""
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
    """kp 0.5 to 1.5 times 35, kd 0.5 to 3 times 0.5; limits are the robot's, whatever a folder says."""
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


def test_logs_are_never_overwritten_and_runs_rotate(bench, monkeypatch):
    """Fifty lines a second of the whole run; the oldest file goes."""
    from rfx.drivers.go2.rules import log

    first = bench.folder / "log.jsonl"
    assert unused_path(first) == first
    first.touch()
    run_path(bench.folder / "log-2.jsonl").touch()
    monkeypatch.setattr(log, "RUN_BYTES", 20_000)
    monkeypatch.setattr(log, "RUN_FILES", 3)
    with bench.go2() as robot:
        robot.reset()
        assert robot.log_path.name == "log-3.jsonl"
        commands(bench, robot, 50)
    runs = sorted(path.name for path in bench.folder.glob("log-3-run*"))
    assert runs == ["log-3-run.1.jsonl", "log-3-run.2.jsonl", "log-3-run.jsonl"]
    assert all(path.stat().st_size < 25_000 for path in bench.folder.glob("log-3-run*"))
    recording = Recording.load(bench.folder / "log-3-run.1.jsonl")
    assert (recording.arrays["battery"] == 80).all() and np.diff(recording.arrays["time_s"]) == pytest.approx(
        0.02, abs=1e-6
    )


def test_domains():
    assert (Go2().domain, Go2(interface="eth0").domain, Go2(interface="eth0", domain=3).domain) == (1, 0, 3)
