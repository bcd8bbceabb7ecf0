"""A short video of one robot that follows every kind of command once.

It walks forwards, sideways, turns, walks forwards with a push, and stands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from envs.legged.config import EnvConfig
from envs.pictures.render import render_frames, write_video
from rfx.drivers.mjcf import load_model
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array
from train.judge.play import Act, evaluation_env, play

FPS_HZ = 25.0
# Duration in seconds, and the command as shares of the largest vx, vy and yaw rate.
SCRIPT = ((3.0, (1, 0, 0)), (2.0, (0, 1, 0)), (2.0, (0, 0, 1)), (3.0, (0.6, 0, 0)), (2.0, (0, 0, 0)))
PUSH_AT_S, PUSH_M_S = 8.0, 0.6  # along the y axis of the world


def write_showcase(path: Path, act: Act, task: EnvConfig, robot: RobotConfig) -> None:
    """Play the script and write it as a video.

    Raises ImportError or RuntimeError with a message that says what is missing to draw it.
    """
    (parameters,) = task.commands.values()
    largest = np.array([parameters.get(axis, (-1.0, 1.0))[1] for axis in ("vx", "vy", "yaw_rate")], np.float32)
    rate_hz = robot.control_freq_hz
    commands = np.concatenate(
        [np.tile(largest * np.float32(share), (round(seconds * rate_hz), 1)) for seconds, share in SCRIPT]
    )
    every = max(1, round(rate_hz / FPS_HZ))
    qpos, velocity = _walk(act, task, robot, commands)
    frames = render_frames(
        load_model(robot, task.mjcf, visual=True),
        qpos[::every],
        width=640,
        height=360,
        commanded_velocity=commands[::every],
        actual_velocity=velocity[::every],
    )
    write_video(path, frames, rate_hz / every)


def _walk(act: Act, task: EnvConfig, robot: RobotConfig, commands: Array) -> tuple[Array, Array]:
    """Poses (T, nq) and velocities (T, 3) of a robot that follows the commands (T, 3)."""
    env = evaluation_env(task, robot, num_envs=1, threads=1, command_interval_s=(1e6, 1e6), resets={})
    state, frames = env.state, []
    steps = play(act, env, seed=0, duration_s=len(commands) * env.step_s)
    next(steps)
    for count, command in enumerate(commands):
        state.robot.velocity_command[0] = command
        if count == round(PUSH_AT_S * robot.control_freq_hz):
            env.simulation.push(np.array([0]), np.array([[0, PUSH_M_S, 0, 0, 0, 0]]))
        next(steps)
        velocity = np.append(state.base_linear_velocity_b[0, :2], state.robot.base_angular_velocity_b[0, 2])
        frames.append((env.simulation.batch.qpos[0].copy(), velocity))
    qpos, velocity = zip(*frames)
    return np.array(qpos), np.array(velocity)
