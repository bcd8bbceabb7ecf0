"""`python -m train.play policy=PATH`: lets you drive a simulated robot with the keyboard.

It opens MuJoCo's window, or a live page in the browser if there is no display.
"""

from __future__ import annotations

if __name__ == "__main__":
    from rfx.system.extras import exit_without
    from rfx.system.interrupt import leave_on_interrupt

    leave_on_interrupt()
    exit_without("train", "python -m train.play")

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import mujoco
import numpy as np
from omegaconf import DictConfig, OmegaConf

import rfx
from envs.legged.config import EnvConfig
from envs.legged.terrain import Terrain
from envs.pictures.live import LivePage, has_window
from envs.pictures.render import render_live
from envs.settings.configs import CONFIGS
from rfx.drivers.mjcf import load_model
from rfx.drivers.sim import SimRobot
from rfx.robot.height_field import HeightField
from rfx.settings.reader import read
from rfx.settings.terms import search_working_directory
from train.judge.gym import gym_policy, play_gym
from train.judge.play import load, task_of
from train.runs.resume import use_modules_of
from train.task.errors import bad_input, exit_on_bad_command_line, exit_on_error

KEYS = {
    "w": "forwards",
    "s": "backwards",
    "a": "left",
    "d": "right",
    "q": "turn left",
    "e": "turn right",
    " ": "stand",
    "p": "push",
    "r": "reset",
}
MOVES = {"w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "q": (2, 1), "e": (2, -1)}
# MuJoCo's window uses letters for its own commands, so we use the arrows, comma and period, Enter, slash and End.
# The numbers are GLFW's key codes.
WINDOW_KEYS = {265: "w", 264: "s", 263: "q", 262: "e", 44: "a", 46: "d", 257: " ", 47: "p", 269: "r"}
WINDOW_HELP = "arrows: forwards, backwards, turn; comma, period: left, right; Enter: stand; slash: push; End: reset"
STEP, PUSH_M_S = 0.1, 0.6  # command change per key press, m/s or rad/s; speed of a push, from a random side
GROUND_M = 12.0  # distance from the start to the edge of the terrain, where a robot falls off
FPS_HZ, DOWN_S = 25.0, 2.0  # rate of pictures; how long a fallen robot may lie before it is put back on its feet


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """The settings in `configs/play.yaml`."""

    policy: str | None = None
    mjcf: str | None = None
    task: str | None = None
    window: bool | None = None
    host: str = "127.0.0.1"
    port: int = 8000

    def __post_init__(self) -> None:
        if self.policy is None:
            raise ValueError("no policy given: policy=PATH, of a policy folder such as runs/DATE_TIME/policy")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}: it must be 0, for a free one, to 65535")


class Pilot:
    """Turns key presses into a velocity command within limits (3, 2), in m/s and rad/s, and into wishes.

    A wish is a key that does not move the robot, such as a push. Any thread may call press.
    """

    def __init__(self, limits: np.ndarray):
        self.velocity, self.wishes = np.zeros(3), deque()
        self._limits = np.asarray(limits, float)

    def press(self, key: str) -> None:
        """Handle a key of KEYS; other keys do nothing."""
        if key in MOVES:
            axis, sign = MOVES[key]
            velocity = self.velocity.copy()
            velocity[axis] = np.clip(round(velocity[axis] + sign * STEP, 3), *self._limits[axis])
            self.velocity = velocity
        elif key == " ":
            self.velocity = np.zeros(3)
        elif key in KEYS:
            self.wishes.append(key)


class Play:
    """One simulated robot that a policy drives in real time, as the pilot commands."""

    def __init__(self, policy: rfx.LoadedPolicy, robot: SimRobot, pilot: Pilot):
        self.policy, self.robot, self.pilot = policy, robot, pilot
        self.falls, self._down_steps, self._rng = 0, 0, np.random.default_rng()

    def step(self) -> None:
        """Simulate one control step."""
        robot = self.robot
        while self.pilot.wishes:
            self._grant(self.pilot.wishes.popleft())
        robot.command(*self.pilot.velocity)
        robot.act(self.policy(robot.observe()))
        down = (
            robot.state.projected_gravity_b[0, 2] > -0.5 or robot.physics.base_position_w[2] < -3.0
        )  # the robot walked off the terrain
        self._down_steps = self._down_steps + 1 if down else 0
        if self._down_steps > DOWN_S * robot.config.control_freq_hz:
            self.falls += 1
            self._grant("r")

    def pose(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Copies of qpos (nq,), the commanded velocity (3,) and the actual velocity (3,)."""
        physics = self.robot.physics
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, physics.base_quaternion)
        actual = np.append(
            (rotation.reshape(3, 3).T @ physics.base_linear_velocity_w)[:2], physics.base_angular_velocity_b[2]
        )
        return physics.data.qpos.copy(), self.pilot.velocity, actual

    def run(self, show: Callable[[], None], going_on: Callable[[], bool]) -> None:
        """Step in real time and call show after every step, for as long as going_on() is True."""
        due = time.monotonic()
        while going_on():
            self.step()
            show()
            due = max(due, time.monotonic() - 0.1) + 1.0 / self.robot.config.control_freq_hz
            time.sleep(max(0.0, due - time.monotonic()))

    def _grant(self, wish: str) -> None:
        if wish == "r":
            self.robot.reset()
            if reset := getattr(self.policy, "reset", None):
                reset()
            self._down_steps = 0
        elif wish == "p":
            side = self._rng.uniform(0.0, 2.0 * np.pi)
            self.robot.physics.push(PUSH_M_S * np.array((np.cos(side), np.sin(side), 0.0)))


def in_browser(play: Play, mjcf: str | None, host: str, port: int, stop: threading.Event) -> None:
    """Show the robot on a live page until stop is set.

    Raises OSError if the address cannot be used, and any error of the drawing.
    """
    latest: list[Any] = [play.pose()]
    failure: list[Exception] = []

    def poses() -> Iterator[tuple]:
        while not stop.is_set():
            begin = time.monotonic()
            yield latest[0]
            stop.wait(max(0.0, begin + 1.0 / FPS_HZ - time.monotonic()))

    def draw(page: LivePage) -> None:
        try:
            model = load_model(play.robot.config, mjcf, visual=True, ground=play.robot.physics.ground)
            model.vis.quality.offsamples, model.vis.quality.shadowsize = (
                0,
                1024,
            )  # three times as fast without a graphics card
            for count, frame in enumerate(render_live(model, poses(), width=640, height=360)):
                _, command, velocity = latest[0]
                if not count:  # the first picture is ready
                    print(f"open {page.url} in a browser; Ctrl-C ends", flush=True)
                page.publish(
                    frame,
                    {
                        "command": command.tolist(),
                        "velocity": velocity.tolist(),
                        "note": f"{play.falls} falls" if play.falls else "",
                    },
                )
        except Exception as error:
            failure.append(error)
            stop.set()

    def show() -> None:
        latest[0] = play.pose()

    with LivePage("rfx", list(KEYS.items()), play.pilot.press, host=host, port=port) as page:
        drawing = threading.Thread(
            target=draw, args=(page,), daemon=True
        )  # in a thread of its own, so that a slow picture does not slow the robot down
        try:
            drawing.start()
            play.run(show, lambda: not stop.is_set())
        finally:  # also after an early Ctrl-C: a process that ends while OpenGL works crashes
            stop.set()
            drawing.join()
    if failure:
        raise failure[0]


def in_window(play: Play, mjcf: str | None) -> None:
    """Show the robot in MuJoCo's window until the user closes it."""
    from mujoco import viewer  # imported here because it loads a display library

    model = load_model(play.robot.config, mjcf, visual=True, ground=play.robot.physics.ground)
    data = mujoco.MjData(model)
    print(WINDOW_HELP, flush=True)
    with viewer.launch_passive(
        model,
        data,
        key_callback=lambda code: play.pilot.press(WINDOW_KEYS.get(code, "")),
        show_left_ui=False,
        show_right_ui=False,
    ) as window:
        window.cam.type, window.cam.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1
        window.cam.distance, window.cam.elevation, window.cam.azimuth = 2.0, -20.0, 130.0

        def show() -> None:
            data.qpos[:] = play.pose()[0]
            for compute in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight):  # drawing needs these
                compute(model, data)
            window.sync()

        play.run(show, window.is_running)


def run(config: PlayConfig, stop: threading.Event | None = None) -> None:
    """Play as config says. Raises InputError for a policy, model or address that cannot be used."""
    with bad_input():
        window = has_window(config.window)
        policy = load(config.policy)
        robot = SimRobot(
            policy.robot_config, mjcf=config.mjcf, ground=ground_of(config.task), max_velocity_command=(np.inf,) * 3
        )  # the pilot keeps to the ranges of the task's commands
        (parameters,) = task_of(policy.training_info, robot.config.name).commands.values()
        pilot = Pilot(np.array([parameters.get(axis, (-1.0, 1.0)) for axis in ("vx", "vy", "yaw_rate")]))
        play = Play(policy, robot, pilot)
        if not window:
            return in_browser(play, config.mjcf, config.host, config.port, stop or threading.Event())
    return in_window(play, config.mjcf)


def ground_of(task: str | None) -> HeightField | None:
    """The middle of a task's terrain, where four tiles meet at their level edges; None if the ground is flat."""
    terrain = EnvConfig.load(task).terrain if task else None
    return Terrain(terrain).ground.crop((-GROUND_M, -GROUND_M), (GROUND_M, GROUND_M)) if terrain else None


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="play")
def _run(values: DictConfig) -> None:
    with exit_on_error():
        with bad_input():
            config = read(PlayConfig, OmegaConf.to_container(values, resolve=True))
            use_modules_of(Path(config.policy).resolve().parent, print)
            gym = gym_policy(config.policy)
        play_gym(gym, window=config.window, host=config.host, port=config.port) if gym else run(config)


def main() -> None:
    """Entry point of the command."""
    search_working_directory()
    with exit_on_bad_command_line("play"):
        _run()


if __name__ == "__main__":
    main()
