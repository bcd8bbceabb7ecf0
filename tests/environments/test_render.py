"""Pictures show the robot and its velocities; videos play with the right number, size and kind of frames."""

import ctypes
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.legged.env import LeggedEnv
from envs.pictures import render
from envs.pictures.render import render_frames, write_picture, write_video
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.drivers.mjcf import load_model

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="extra viz is not installed")
try:
    ctypes.CDLL("libEGL.so.1")
except OSError:
    pytest.skip("libEGL is not installed (Debian package libegl1)", allow_module_level=True)

SIZE = {"width": 320, "height": 180}


@pytest.fixture(scope="module")
def model():
    return load_model(GO2_CONFIG, visual=True)


@pytest.fixture(scope="module")
def walk(model):
    """Twelve rows of a robot that slides forward by 5 cm each."""
    qpos = np.tile(model.key("home").qpos, (12, 1))
    qpos[:, 0] += 0.05 * np.arange(12)
    return qpos


def picture(model, qpos, **options):
    return next(render_frames(model, qpos, **SIZE, **options)).astype(int)


def share_of(frame, kind):
    """Share of the picture that is clearly blue, orange or red: the scene's other colours are greys and a pale sky."""
    red, green, blue = np.moveaxis(frame, -1, 0)
    masks = {
        "blue": (blue > red + 120) & (blue > green + 40),
        "orange": (red > blue + 120) & (red > green + 40),
        "red": (red > blue + 40) & (red > green + 40),
    }
    return masks[kind].mean()


def test_a_picture_shows_the_robot(model, walk):
    frame = picture(model, walk)
    assert frame.shape == (180, 320, 3)
    away = walk.copy()
    away[:, 2] = 50.0  # the tracking camera follows it; a fixed floor does not
    robot = np.abs(frame - picture(model, away)).max(axis=-1) > 30
    assert robot.mean() > 0.05
    center = frame[60:120, 110:210]
    assert center.min() < 40 and center.max() > 180  # black visor and rubber, light shell


def test_the_camera_follows(model, walk):
    """The robot stays where it is in the picture, while the floor passes."""
    first, *_, last = [frame.astype(int) for frame in render_frames(model, walk * [5, *np.ones(model.nq - 1)], **SIZE)]
    dark = [frame.max(axis=-1) < 50 for frame in (first, last)]  # visor, shins, rubber
    assert (dark[0] & dark[1]).sum() > 0.8 * (dark[0] | dark[1]).sum() > 0
    assert (np.abs(first - last).max(axis=-1) > 5).mean() > 0.05


def test_a_model_without_looks_is_drawn_too(walk):
    bare = load_model(GO2_CONFIG)
    frame = picture(bare, walk)
    assert share_of(frame, "red") > 0.01  # the collision geoms' colour


def test_velocities_are_arrows(model, walk):
    forward = np.tile([1.0, 0.0, 0.0], (12, 1))
    for options, blue, orange in (
        ({}, False, False),
        ({"commanded_velocity": forward}, True, False),
        ({"actual_velocity": forward}, False, True),
        ({"commanded_velocity": 0 * forward}, False, False),
    ):
        frame = picture(model, walk, **options)
        assert (share_of(frame, "blue") > 0.002, share_of(frame, "orange") > 0.002) == (blue, orange)


@pytest.mark.parametrize(
    "velocity, end",
    [
        ((0.0, 0.0, 0.0), (2.0, 3.36)),
        ((1.0, 0.0, 0.0), (2.0, 3.86)),
        ((0.0, 0.4, 0.0), (1.8, 3.36)),
        (
            (0.0, 0.0, np.pi),
            (1.64, 3.0),
        ),  # half a second of a half turn a second: the nose, 0.36 m out, goes from north to west
        ((np.pi, 0.0, np.pi), (2.0 - 1.0 - 0.36, 3.0 + 1.0)),
    ],
)  # a quarter of a circle of radius v / w = 1 m
def test_the_arrow_is_the_way_of_the_nose(velocity, end):
    """Base at (2, 3), heading along +y."""
    north = np.array([0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    way = render._way_of_the_nose(np.array([2.0, 3.0, 0.3]), north, np.array(velocity), 0.36)
    np.testing.assert_allclose(way[0], (2.0, 3.36))
    np.testing.assert_allclose(way[-1], end, atol=0.002)


def test_a_video_decodes_to_its_frames(model, walk, tmp_path):
    path = tmp_path / "deeper" / "walk.mp4"
    frames = list(render_frames(model, walk, **SIZE))
    write_video(path, iter(frames), fps_hz=25)
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (12, pytest.approx(12 / 25, abs=0.01))
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    assert about["source_size"] == (320, 180) and about["fps"] == 25 and about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p")  # what browsers decode
    decoded = np.stack([np.frombuffer(data, np.uint8).reshape(180, 320, 3) for data in reader])
    assert decoded.shape == (12, 180, 320, 3)
    assert np.abs(decoded.astype(int) - np.stack(frames)).mean() < 5


def test_a_picture_is_written_as_it_is(tmp_path):
    from matplotlib.image import imread

    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    write_picture(tmp_path / "deeper" / "noise.png", frame)
    np.testing.assert_array_equal(np.rint(255 * imread(tmp_path / "deeper" / "noise.png")[..., :3]), frame)


def test_what_does_not_fit_is_refused(model, walk, tmp_path):
    with pytest.raises(ValueError, match=r"qpos has shape \(12, 18\), expected \(T, 19\)"):
        render_frames(model, walk[:, 1:])
    with pytest.raises(ValueError, match=r"velocity has shape \(3,\), expected \(12, 3\)"):
        render_frames(model, walk, commanded_velocity=np.zeros(3))
    with pytest.raises(ValueError, match="no camera 'front' .*tracking"):
        render_frames(model, walk, camera="front")
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "empty.mp4", [], fps_hz=25)
    with pytest.raises(ValueError, match="31 x 20 .*even"):
        write_video(tmp_path / "odd.mp4", [np.zeros((20, 31, 3), np.uint8)], fps_hz=25)


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    frame = np.zeros((20, 30, 3), np.uint8)
    for module, write in (
        ("imageio_ffmpeg", lambda: write_video(tmp_path / "a.mp4", [frame], 25)),
        ("matplotlib.image", lambda: write_picture(tmp_path / "a.png", frame)),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=r"pip install -e '.\[viz\]'"):
            write()


def test_missing_opengl_says_what_to_install(model, walk, monkeypatch):
    def fail(*_):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")  # PyOpenGL without libEGL

    monkeypatch.setattr("mujoco.egl.GLContext", fail)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(RuntimeError, match="MUJOCO_GL=egl.*libegl1 and libgl1"):
        render_frames(model, walk)


def test_headless_without_any_setting():
    """No screen, MUJOCO_GL unset, mujoco imported first: it still draws, through EGL."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")
    }
    code = (
        "import mujoco; from envs.pictures.render import render_frames\n"
        "from rfx import GO2_CONFIG; from rfx.drivers.mjcf import load_model\n"
        "model = load_model(GO2_CONFIG); print(next(render_frames(model, model.key_qpos, width=64, height=48)).std() > 5)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[-1] == "True", done.stderr


# The walking task, drawn as Gymnasium asks for it.


@pytest.fixture
def drawn():
    """Environments that draw, closed at the end."""
    made = []

    def make(maker, *arguments, **options):
        made.append(maker("rfx/Go2-v0", *arguments, render_mode="rgb_array", **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


def test_the_walking_task_draws_each_robot_as_it_is(drawn):
    env = drawn(gymnasium.make_vec, 2, randomize=False)
    env.reset(seed=0)
    env.state.robot.velocity_command[...] = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    env.simulation.batch.qpos[0, :2] = 1.5
    before = env.simulation.batch.qpos.copy()
    first, second = env.render()
    model = load_model(env.robot, visual=True)
    for frame, i in ((first, 0), (second, 1)):
        velocity = np.append(env.state.base_linear_velocity_b[i, :2], env.state.robot.base_angular_velocity_b[i, 2])
        expected = next(
            render_frames(
                model,
                before[i : i + 1],
                width=640,
                height=360,
                actual_velocity=velocity[None],
                commanded_velocity=env.state.robot.velocity_command[i : i + 1],
            )
        )
        assert (
            frame.dtype == np.uint8 and np.abs(frame.astype(int) - expected).max() <= 3
        )  # of shades, where another robot was drawn before
    assert share_of(first.astype(int), "blue") > 0.0005 > share_of(second.astype(int), "blue") == 0.0
    np.testing.assert_array_equal(env.simulation.batch.qpos, before)  # to draw changes nothing
    assert all(np.abs(one.astype(int) - other).max() <= 3 for one, other in zip(env.render(), (first, second)))
    assert env.metadata["render_fps"] == round(env.robot.control_freq_hz)


def test_one_robot_draws_and_passes_gymnasiums_checker_and_its_wrappers(drawn):
    single = drawn(gymnasium.make)
    check_env(single.unwrapped)
    kept = gymnasium.wrappers.RenderCollection(single)
    kept.reset(seed=0)
    for _ in range(3):
        kept.step(kept.action_space.sample())
    frames = kept.render()
    assert [frame.shape for frame in frames] == [(360, 640, 3)] * 4 and (frames[0] != frames[3]).any()


def test_ground_is_drawn_too():
    env = gymnasium.make("rfx/Go2Rough-v0", render_mode="rgb_array")
    env.reset(seed=0)
    simulation = env.unwrapped._env.simulation
    expected = next(
        render_frames(
            load_model(env.unwrapped._env.robot, visual=True), simulation.batch.qpos[:1], width=640, height=360
        )
    )
    assert (env.render() != expected).mean() > 0.1
    env.close()


def test_a_render_mode_is_rgb_array_or_none():
    assert LeggedEnv(1, task="go2").render() is None and gymnasium.make("rfx/Go2-v0").render_mode is None
    with pytest.raises(ValueError, match="rgb_array"):
        LeggedEnv(1, task="go2", render_mode="human")


@pytest.mark.parametrize("vector", [False, True])
def test_gymnasium_records_videos(tmp_path, drawn, vector):
    pytest.importorskip("moviepy")  # what Gymnasium writes them with
    recorder = gymnasium.wrappers.vector.RecordVideo if vector else gymnasium.wrappers.RecordVideo
    env = recorder(
        drawn(gymnasium.make_vec, 2) if vector else drawn(gymnasium.make),
        str(tmp_path),
        video_length=4,
        step_trigger=lambda step: step == 0,
    )
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    env.close()
    (path,) = tmp_path.glob("*.mp4")
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] in (
        4,
        5,
    )  # video_length, and the frame that it begins with


def test_an_environment_that_nobody_closed_leaves_in_silence():
    code = (
        "import gymnasium\nenv = gymnasium.make('envs:rfx/Go2-v0', render_mode='rgb_array')\nenv.reset(seed=0)\nenv.render()\n"
        "print(env.render().shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "(360, 640, 3)\n" and "Error" not in done.stderr, done.stderr
