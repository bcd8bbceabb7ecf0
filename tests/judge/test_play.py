"""Driving by hand: keys become commands, pushes and resets; the live page shows the robot and takes keys, in a real
browser too.
"""

import io
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import browser
import numpy as np
import pytest

from envs.pictures.live import LivePage
from rfx import GO2_CONFIG, ObservationNormalizer
from rfx.drivers.sim import SimRobot
from rfx.nn import ActorCritic
from train.commands.play import KEYS, MOVES, WINDOW_KEYS, Pilot, Play, PlayConfig, run
from train.task.errors import InputError

LIMITS = np.array([[-0.6, 1.0], [-0.4, 0.4], [-0.8, 0.8]])
Image = pytest.importorskip("PIL.Image", reason="extra viz is not installed")


def pressed(keys: str) -> Pilot:
    pilot = Pilot(LIMITS)
    for key in keys:
        pilot.press(key)
    return pilot


@pytest.mark.parametrize(
    ("keys", "velocity"),
    [
        ("www", [0.3, 0, 0]),
        ("s", [-0.1, 0, 0]),
        ("aad", [0, 0.1, 0]),
        ("qqe", [0, 0, 0.1]),
        ("wwwaq ", [0, 0, 0]),
        ("w" * 20, [1.0, 0, 0]),
        ("s" * 20, [-0.6, 0, 0]),
        ("d" * 9, [0, -0.4, 0]),
        ("x?w", [0.1, 0, 0]),
    ],
)
def test_keys_are_commands_within_what_was_trained(keys, velocity):
    np.testing.assert_allclose(pressed(keys).velocity, velocity, atol=1e-9)


def test_every_key_of_the_page_and_the_window_does_something():
    assert set(WINDOW_KEYS.values()) == set(KEYS) and MOVES.keys() < KEYS.keys()
    assert list(pressed("pwrp").wishes) == ["p", "r", "p"]


def play_of(keys: str = "", act=lambda observation: np.zeros((1, 12), np.float32)) -> Play:
    return Play(act, SimRobot(), pressed(keys))


def test_the_policy_is_told_the_command_and_drives():
    seen = []
    play = play_of(
        "wwq",
        lambda observation: seen.append(observation["state"][0, 30:33].copy()) or np.full((1, 12), 0.1, np.float32),
    )
    play.step()
    np.testing.assert_allclose(seen, [[0.2, 0.0, 0.1]], atol=1e-6)
    np.testing.assert_allclose(play.robot.state.last_action, 0.1, atol=1e-6)
    qpos, command, velocity = play.pose()
    np.testing.assert_allclose(command, [0.2, 0.0, 0.1])
    assert qpos.shape == (19,) and velocity.shape == (3,)


def test_a_push_is_a_change_of_velocity_and_a_reset_a_new_start():
    play = play_of()
    for _ in range(50):
        play.step()
    velocity = play.robot.physics.data.qvel
    before = velocity[:2].copy()
    play._grant("p")
    assert np.linalg.norm(velocity[:2] - before) == pytest.approx(0.6)
    play.pilot.press("r")
    play.step()
    fresh = play_of()
    fresh.step()
    np.testing.assert_allclose(play.pose()[0], fresh.pose()[0], atol=1e-9)


def test_the_velocity_shown_is_in_the_robots_own_frame():
    play = play_of()
    play.robot.physics.data.qpos[3:7] = [np.sqrt(0.5), 0, 0, np.sqrt(0.5)]  # it faces the world's y
    play.robot.physics.data.qvel[:6] = [0.0, 0.7, 0.0, 0.0, 0.0, 0.3]
    np.testing.assert_allclose(play.pose()[2], [0.7, 0.0, 0.3], atol=1e-9)


def test_a_robot_that_lies_is_put_on_its_feet_and_counted():
    play = play_of()
    play.robot.physics.place(GO2_CONFIG.default_position, height=0.1, quaternion=(0.0, 1.0, 0.0, 0.0))
    for _ in range(110):
        play.step()
    assert play.falls == 1 and play.robot.state.projected_gravity_b[0, 2] < -0.9


def answer(url: str, method: str = "GET") -> tuple[int, bytes, dict]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as response:
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_the_page_serves_pictures_as_they_come_and_takes_keys():
    keys, frame = [], np.zeros((36, 64, 3), np.uint8)
    frame[:, :32] = [255, 0, 0]
    with LivePage("a <robot>", [("w", "forwards"), (" ", "stand")], keys.append) as page:
        status, html, _ = answer(page.url)
        assert status == 200 and b"a &lt;robot>" in html and b'["w", "forwards"]' in html
        late = threading.Timer(
            0.05, lambda: page.publish(frame, {"command": [1, 0, 0], "velocity": [0.9, 0, 0], "note": ""})
        )
        late.start()
        status, picture, headers = answer(f"{page.url}picture?after=0")  # waits for it
        assert status == 200 and json.loads(headers["X-State"]) == {
            "command": [1, 0, 0],
            "velocity": [0.9, 0, 0],
            "note": "",
            "picture": 1,
        }
        pixels = np.asarray(Image.open(io.BytesIO(picture)))
        assert (
            pixels.shape == (36, 64, 3)
            and abs(pixels[18, 8].astype(int) - [254, 0, 0]).max() < 8
            and pixels[18, 56].max() < 8
        )
        for key in ("w", " "):
            assert answer(f"{page.url}key?{urllib.parse.urlencode({'key': key})}", "POST")[0] == 200
        for path, method in (("key?key=z", "POST"), ("etc/passwd", "GET"), ("picture?after=x", "GET")):
            assert answer(page.url + path, method)[0] == 404
    assert keys == ["w", " "]


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory) -> Path:
    normalizer = ObservationNormalizer(48)
    normalizer.update(np.random.default_rng(0).normal(size=(100, 48)).astype(np.float32))
    actor = ActorCritic(48, 12, [16], rng=np.random.default_rng(1)).actor()
    return actor.save(
        tmp_path_factory.mktemp("run") / "policy", robot_config=GO2_CONFIG, normalizer=normalizer, training_info={}
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"policy": None}, "no policy given"),
        ({"policy": "absent"}, "absent"),
        ({"mjcf": "absent.xml"}, "absent.xml"),
        ({"port": 99999}, "port is 99999"),
        ({"host": "300.1.1.1"}, None),
    ],
)
def test_what_cannot_be_played_is_refused(policy_folder, changed, words):
    with pytest.raises((ValueError, InputError), match=words):
        run(PlayConfig(**{"policy": str(policy_folder), "window": False, "port": 0, **changed}))


def test_a_port_that_is_taken_is_named_with_what_to_do(policy_folder):
    with LivePage("first", [], lambda key: None) as page:
        port = int(page.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: address already in use; choose another with port="):
            run(PlayConfig(policy=str(policy_folder), window=False, port=port))


def test_a_window_without_a_screen_is_refused(policy_folder, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("rfx.system.screen.sys.platform", "linux")
    with pytest.raises(InputError, match="window=true, and there is no screen"):
        run(PlayConfig(policy=str(policy_folder), window=True))


def test_the_page_is_not_announced_where_nothing_can_be_drawn(policy_folder, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no OpenGL")

    monkeypatch.setattr("train.commands.play.render_live", broken)
    with pytest.raises(RuntimeError, match="no OpenGL"):
        run(PlayConfig(policy=str(policy_folder), window=False, port=0))
    assert "open" not in capsys.readouterr().out
    monkeypatch.setattr("envs.pictures.live.importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs PIL, which is not installed: pip install -e '.\[viz\]'"):
        run(PlayConfig(policy=str(policy_folder), window=False, port=0))


@pytest.mark.skipif(not browser.find(), reason=browser.why_not())
def test_a_browser_shows_the_running_robot(policy_folder, capsys):
    """The real page in headless Chromium: pictures come, a key and a button steer, and what is commanded is shown."""
    stop = threading.Event()
    playing = threading.Thread(target=run, args=(PlayConfig(policy=str(policy_folder), window=False, port=0), stop))
    playing.start()
    url, deadline = "", time.monotonic() + 60
    while not url and time.monotonic() < deadline:
        url = capsys.readouterr().out.partition("open ")[2].partition(" in a browser")[0]
        time.sleep(0.05)
    try:
        with browser.Browser(url) as page:
            page.wait_for(f"document.getElementById('picture').src.startsWith('blob:{url.rstrip('/')}')")
            first = page.value("document.getElementById('picture').src")
            page.wait_for(
                "document.getElementById('picture').naturalWidth > 100"
            )  # the browser can decode it, which takes it a moment
            page.wait_for(f"document.getElementById('picture').src !== '{first}'")
            for _ in range(2):
                page.press("w")
            buttons = "[...document.querySelectorAll('button')]"
            page.value(f"{buttons}.find(button => button.textContent.startsWith('forwards')).click()")
            page.wait_for("document.querySelector('td').textContent === '0.30'")
            assert "forwardsw" in page.value(f"{buttons}.map(button => button.textContent)")
    finally:
        stop.set()
        playing.join(30)
    assert not playing.is_alive()
