"""What every robot does, the mock, the simulated and the real driver alike; and what only the simulated one does."""

import itertools
import types

import mujoco
import numpy as np
import pytest
from virtual_clock import VirtualClock

import rfx
from envs.legged.single import LeggedSingleEnv
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.robot import make_robot, register_driver
from rfx.robot.config import joint_targets
from rfx.robot.files import find_mjcf
from rfx.robot.observe import observe
from rfx.robot.state import RobotState, advance

PERIOD_S = 1.0 / GO2_CONFIG.control_freq_hz


@pytest.fixture(params=["mock", "sim", "go2"])
def robot_and_sleep(request, tmp_path):
    """Each robot of the Go2's shape, standing, and how its time passes."""
    if request.param == "go2":
        pytest.importorskip("cyclonedds", reason="needs the extra go2")
        from virtual_go2 import VirtualGo2

        with VirtualGo2(tmp_path) as bench, bench.go2() as robot:
            robot.reset()
            yield robot, bench.clock.sleep
    else:
        with rfx.SimRobot() if request.param == "sim" else rfx.MockRobot(config=GO2_CONFIG, tensors="numpy") as robot:
            robot.reset()
            yield robot, lambda seconds: None


def test_the_life_of_a_robot(robot_and_sleep):
    """One pass through everything a robot promises."""
    robot, sleep = robot_and_sleep
    assert isinstance(robot, rfx.Robot)
    assert (robot.num_envs, robot.state_dim, robot.action_dim, robot.max_state_dim, robot.max_action_dim) == (
        1,
        48,
        12,
        64,
        64,
    )

    # Observations: shape, padding, own memory.
    first = robot.observe()["state"]
    assert first.shape == (1, 64) and first.dtype == np.float32 and np.isfinite(first).all()
    assert (first[:, 48:] == 0.0).all()
    copy = first.copy()
    robot.observe()
    np.testing.assert_array_equal(first, copy)

    # Level and near the default pose after reset; no last action, no clock while it is told to stand.
    np.testing.assert_allclose(first[0, 0:12], 0.0, atol=0.25)
    np.testing.assert_allclose(first[0, 27:30], [0.0, 0.0, -1.0], atol=0.1)
    np.testing.assert_array_equal(first[0, 33:48], [0.0] * 15)

    # Actions, plain and padded: clipped, noted, and the clock moves on by one control step each.
    action = np.tile(np.array([0.0, 0.4, -0.8], np.float32), 4)[None]  # crouch: thighs 0.2 rad, calves -0.4 rad
    padded = np.zeros((1, 64), np.float32)
    padded[:, :12] = action
    expected = RobotState.zeros(GO2_CONFIG, 1)
    for given in itertools.chain([action, padded, action.tolist()], itertools.repeat(action, 22)):
        robot.act(given)
        advance(expected, action)
        sleep(PERIOD_S)
    after = robot.observe()["state"]
    np.testing.assert_allclose(after[0, 33:48], observe(expected)[0, 33:48], atol=1e-6)

    # In half a second the joints went where the one action rule says, give or take what the weight bends them.
    wanted = joint_targets(GO2_CONFIG, action)[0] - GO2_CONFIG.default_position
    moved = after[0, 0:12] - first[0, 0:12]
    np.testing.assert_allclose(moved.reshape(4, 3).mean(axis=0), wanted.reshape(4, 3).mean(axis=0), atol=0.15)

    # Clipping.
    robot.act(5.0 * action)
    np.testing.assert_array_equal(robot.observe()["state"][0, 33:45], np.clip(5.0 * action, -1.0, 1.0)[0])

    # The command is observed: at once, or by what a real robot can follow, within 0.4 s.
    robot.command(0.3, -0.1, 0.2)
    for _ in range(20):
        robot.act(action)
        sleep(PERIOD_S)
    np.testing.assert_allclose(robot.observe()["state"][0, 30:33], [0.3, -0.1, 0.2], rtol=1e-5)
    with pytest.raises(ValueError, match="finite"):
        robot.command(float("nan"), 0.0, 0.0)
    robot.command(0.0, 0.0, 0.0)

    # Stopping: nothing moves it until a reset, which starts anew.
    robot.stop()
    robot.stop()
    with pytest.raises(RuntimeError, match="reset"):
        robot.act(action)
    robot.reset()
    again = robot.observe()["state"]
    np.testing.assert_array_equal(again[0, 33:48], [0.0] * 15)
    robot.act(action)

    # Wrong actions are refused and end the motion.
    for wrong, message in (
        (np.zeros((1, 11)), "shape"),
        (np.zeros((2, 12)), "shape"),
        (np.zeros(12), "shape"),
        (np.full((1, 12), np.nan), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            robot.act(wrong)
        with pytest.raises(RuntimeError):
            robot.act(action)
        if isinstance(robot, rfx.Go2):
            break  # it was damped, for good
        robot.reset()


@pytest.mark.parametrize("tensors", ["torch", "tinygrad"])
def test_actions_of_other_libraries(tensors):
    if tensors == "torch":
        action = pytest.importorskip("torch").full((1, 12), 0.5)
    else:
        from rfx.observation.arrays import tinygrad_tensor

        action = tinygrad_tensor().full((1, 12), 0.5).contiguous().realize()
    robot = rfx.SimRobot()
    robot.act(action)
    assert (robot.observe()["state"][0, 33:45] == 0.5).all()


def test_wrong_actions_stop_the_simulated_robot():
    for wrong in (np.zeros((1, 11)), np.zeros((2, 12)), np.zeros(12), np.full((1, 12), np.inf)):
        robot = rfx.SimRobot()
        with pytest.raises(ValueError, match="shape|finite"):
            robot.act(wrong)
        with pytest.raises(RuntimeError, match="reset"):
            robot.act(np.zeros((1, 12)))


def test_the_simulated_robot_is_the_training_environment():
    """The same actions from the same start: the same observations, to the bit."""
    robot, env = rfx.SimRobot(timestep_s=0.01), LeggedSingleEnv(task="go2", randomize=False)
    env.reset(seed=0)
    simulation = env._env.simulation
    simulation.reset(np.array([0]), *simulation.home(1))
    rng = np.random.default_rng(0)
    for _ in range(50):
        action = rng.uniform(-1.2, 1.2, (1, 12)).astype(np.float32)
        env._env.state.robot.velocity_command[:] = 0.0
        robot.act(action)
        state = env.step(action[0])[0]["state"]
        ours = robot.observe()["state"][0]
        np.testing.assert_array_equal(np.delete(ours, slice(30, 33)), np.delete(state, slice(30, 33)))


def test_the_viewer_shows_what_is_there_for_looks_and_changes_no_motion(monkeypatch):
    """Only with a viewer, because looks cost time."""
    shown = []
    window = types.SimpleNamespace(sync=lambda: None, close=lambda: None)
    viewer = types.SimpleNamespace(launch_passive=lambda model, data: shown.append(model) or window)
    monkeypatch.setattr(mujoco, "viewer", viewer, raising=False)
    plain, seen = rfx.SimRobot(), rfx.SimRobot(viewer=True)
    assert shown == [seen.physics.model]
    spec = mujoco.MjSpec.from_file(str(find_mjcf(GO2_CONFIG)))  # as the file has it, nothing discarded
    looks = sum(geom.contype == 0 and geom.conaffinity == 0 for geom in spec.geoms)
    assert looks > 0 and seen.physics.model.ngeom - plain.physics.model.ngeom == looks
    for action in np.random.default_rng(0).uniform(-1.0, 1.0, (25, 1, 12)):
        plain.act(action), seen.act(action)
    np.testing.assert_array_equal(seen.physics.data.qpos, plain.physics.data.qpos)


def test_stopped_motors_only_damp():
    """Without position gain the robot sinks to the floor."""
    robot = rfx.SimRobot()
    height = robot.physics.base_position_w[2]
    robot.stop()
    robot.physics.step(200)
    assert robot.physics.base_position_w[2] < height - 0.1


def test_no_velocity_command_is_ever_beyond_its_limit():
    """Not even for another thread that looks on while it is set."""
    robot = rfx.SimRobot()
    robot.command(9.0, -9.0, 0.5)
    np.testing.assert_allclose(robot.observe()["state"][0, 30:33], [1.0, -0.4, 0.5], rtol=1e-6)

    class Noting(np.ndarray):
        seen = []

        def __setitem__(self, key, value):
            self.seen.append(np.array(value))
            super().__setitem__(key, value)

    object.__setattr__(robot.state, "velocity_command", robot.state.velocity_command.view(Noting))
    robot.command(9.0, -9.0, 9.0)
    assert len(Noting.seen) == 1 and np.abs(Noting.seen[0]).max() <= 1.0


def test_realtime_pacing():
    """25 steps of 20 ms take half a second, of which it sleeps what computing leaves; a step that came 0.1 s late is
    not caught up with.
    """
    with VirtualClock() as clock:
        robot, begun_s = rfx.SimRobot(realtime=True, clock=clock), clock.now()
        for _ in range(25):
            clock.sleep(0.005)
            robot.act(np.zeros((1, 12)))
        assert clock.now() - begun_s == pytest.approx(0.5)
        clock.sleep(0.1)
        late_s = clock.now()
        robot.act(np.zeros((1, 12)))
        robot.act(np.zeros((1, 12)))
        assert clock.now() - late_s == pytest.approx(0.0, abs=1e-4)
        robot.act(np.zeros((1, 12)))
        assert clock.now() - late_s == pytest.approx(0.02, abs=1e-4)


def test_a_timestep_that_does_not_divide_the_control_step():
    with pytest.raises(ValueError, match="whole fraction"):
        rfx.SimRobot(timestep_s=0.003)


def test_drivers_by_name():
    assert isinstance(make_robot("sim"), rfx.SimRobot)
    assert make_robot("mock", state_dim=7, action_dim=3).state_dim == 7
    with pytest.raises(ValueError, match="did you mean 'go2'"):
        make_robot("go1")

    @register_driver("test-spot")
    class Spot(rfx.SimRobot):
        pass

    assert isinstance(make_robot("test-spot"), Spot)
    with pytest.raises(ValueError, match="registered already"):
        register_driver("test-spot", rfx.SimRobot)


def test_drivers_of_installed_packages(tmp_path, monkeypatch):
    """An entry point of the group rfx.drivers is found."""
    (tmp_path / "spot_driver.py").write_text(
        "from rfx.drivers.sim import SimRobot\n\nclass Spot(SimRobot):\n    pass\n"
    )
    info = tmp_path / "spot_driver-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spot-driver\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rfx.drivers]\nspot = spot_driver:Spot\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(make_robot("spot")).__name__ == "Spot"
