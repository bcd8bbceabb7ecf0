"""Evaluates and shows the policy of a Gymnasium environment, for `python -m train.evaluate` and `train.play`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from rich.console import Console

import rfx
from envs.gym.env import GymEnv
from envs.gym.make import batched_id, make_in_turn, make_single, make_vector
from envs.pictures.live import LivePage, has_window
from envs.pictures.render import write_video
from rfx.loading.loaded_policy import LoadedPolicy
from rfx.policy.folder import inspect_policy
from rfx.policy.onnx_policy import is_onnx
from rfx.system.extras import install_command
from rfx.system.folders import replace_file
from train.judge.episodes import episode_seed, longest_episode, play_episodes
from train.judge.learning_env import LearningEnv
from train.judge.output import beside, check_writable
from train.task.errors import bad_input, one_line
from train.task.task import Judgement, figures_table

ROBOTS_ALONE = ("timestep_s", "mjcf", "task", "suite", "compare")  # keys of EvaluateConfig that apply only to robots
FPS_HZ = 30.0  # frame rate for an environment that gives none


def gym_policy(path: str) -> LoadedPolicy | None:
    """The policy in a folder or in an .onnx file of rfx, or None if it is not for a Gymnasium environment.

    Raises as `rfx.load_policy`.
    """
    if (
        not path.startswith("hf://")
        and not Path(path).is_dir()
        and not is_onnx(path)
        or inspect_policy(path).training_info.get("task") != "gym"
    ):
        return None
    policy = rfx.load_policy(path)
    if policy.spaces is None or not policy.training_info.get("env", {}).get("id"):
        raise ValueError(
            f"{path} does not say its environment's id and spaces: train it anew, python -m train +robot=gym env.id=ID"
        )
    return policy


def evaluate_gym(policy: LoadedPolicy, config: Any, console: Console) -> Judgement:
    """Play config.episodes full episodes in Gymnasium's own environment, print the table and write the figures.

    Writes a video too if config asks for one. config is an EvaluateConfig. Raises InputError for a key that applies
    only to robots, or an environment that cannot be made.
    """
    with bad_input():
        if given := [key for key in ROBOTS_ALONE if getattr(config, key) is not None]:
            raise ValueError(f"{given[0]} is {getattr(config, given[0])!r}: leave it out, it is for policies of robots")
        if config.episodes < 1:
            raise ValueError(f"episodes is {config.episodes}: it must be at least 1")
        id, kwargs = environment_of(policy)
        env, own = evaluation_env(id, kwargs, config.episodes)
        output = Path(config.output) if config.output else beside(config, f"{config.episodes}_episodes")
        check_writable(output, config.video)
        if config.video:
            with closing(drawing_env(id, kwargs)) as drawing:
                check_drawing(drawing, id)
    with console.status(f"{id}: {config.episodes} episodes"):
        judgement = play_episodes(
            policy,
            env,
            seed=config.seed,
            conditions={"id": id, "kwargs": kwargs, "gymnasiums_own": own, "policy": config.policy},
        )
    env.close()
    console.print(figures_table({"": judgement.figures}), highlight=False)
    console.print(f"[dim]{id}, {judgement.note}, seed {config.seed}{'' if own else ', batched'}[/]", highlight=False)
    with bad_input():
        replace_file(output, (json.dumps(judgement.to_dict(), indent=2) + "\n").encode())
    console.print(f"[dim]{output}[/]", highlight=False, soft_wrap=True)
    if config.video:
        with bad_input(), console.status(f"writing {config.video}"):
            film(policy, id, kwargs, config.seed, Path(config.video))
        console.print(f"[dim]{config.video}[/]", highlight=False, soft_wrap=True)
    return judgement


def environment_of(policy: LoadedPolicy) -> tuple[str, dict[str, Any]]:
    """The id of the environment that a policy was trained in, and the arguments of its constructor."""
    env = policy.training_info["env"]
    return env["id"], dict(env.get("kwargs") or {})


def evaluation_env(id: str, kwargs: Mapping[str, Any], num_envs: int) -> tuple[GymEnv, bool]:
    """num_envs environments, and whether they are Gymnasium's own.

    The batched environments are used if a package that Gymnasium's own need is missing.
    """
    try:
        return LearningEnv(make_in_turn(id, num_envs, kwargs), id), True
    except ValueError as error:
        if not (batched_id(id) and isinstance(error.__cause__, (ImportError, gymnasium.error.DependencyNotInstalled))):
            raise
        return LearningEnv(make_vector(id, num_envs, kwargs), id), False


def drawing_env(id: str, kwargs: Mapping[str, Any], mode: str = "rgb_array") -> gymnasium.Env:
    """One of Gymnasium's own environments, in a render mode."""
    if mode == "rgb_array" and sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    return make_single(id, kwargs, render_mode=mode)


def check_drawing(env: gymnasium.Env, id: str) -> None:
    """Draw one picture; if that fails, close the environment and raise ValueError."""
    mode = env.render_mode
    try:
        env.reset()
        if env.render() is None and mode != "human":
            raise ValueError(f"it draws no pictures in the mode {mode}")
    except Exception as error:  # any error that an environment raises when it lacks a package for drawing
        env.close()
        lacks = isinstance(error, (ImportError, gymnasium.error.DependencyNotInstalled))
        mend = f": {install_command('gym')}, or what the environment's own package asks for" if lacks else ""
        raise ValueError(f"env.id={id} cannot be drawn: {one_line(error)}{mend}") from error


def frames_per_second(env: gymnasium.Env) -> float:
    """Number of steps per second of the environment's simulated time."""
    return float(env.metadata.get("render_fps") or FPS_HZ)


def film(policy: LoadedPolicy, id: str, kwargs: Mapping[str, Any], seed: int, path: Path) -> None:
    """Write one episode as a video. Raises ImportError or ValueError with a message that says what is missing."""
    env = drawing_env(id, kwargs)
    check_drawing(env, id)

    def frames() -> Iterator[np.ndarray]:
        observation, over = env.reset(seed=episode_seed(seed))[0], False
        policy.reset()
        steps = 0
        while not over and steps < longest_episode(env.spec):
            steps += 1
            frame = env.render()
            yield frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
            observation, _, terminated, truncated, _ = env.step(policy(observation))
            over = terminated or truncated

    try:
        write_video(path, frames(), frames_per_second(env))
    finally:
        env.close()


def play_gym(
    policy: LoadedPolicy, *, window: bool | None, host: str, port: int, stop: threading.Event | None = None
) -> None:
    """Show a policy in real time, episode after episode, until stop is set.

    It is shown in Gymnasium's window, or on a page in the browser. Raises InputError for an environment that cannot be
    made or drawn, or an address that cannot be used.
    """
    id, kwargs = environment_of(policy)
    stop = stop or threading.Event()
    with bad_input():
        window = has_window(window)
        env = drawing_env(id, kwargs, "human" if window else "rgb_array")
        check_drawing(env, id)
        if window:
            return show_episodes(policy, env, stop, lambda note: None, [])
        wishes: list[str] = []
        with LivePage(id, [("r", "new episode")], wishes.append, host=host, port=port) as page:
            print(f"open {page.url} in a browser; Ctrl-C ends", flush=True)
            show_episodes(
                policy,
                env,
                stop,
                lambda note: page.publish(env.render(), {"command": [], "velocity": [], "note": note}),
                wishes,
            )


def show_episodes(
    policy: LoadedPolicy, env: gymnasium.Env, stop: threading.Event, show: Any, wishes: list[str]
) -> None:
    """Play until stop is set; calls show with the return so far after every step. A wish restarts the episode."""
    due, last = time.monotonic(), ""
    while not stop.is_set():
        observation, total, over = env.reset()[0], 0.0, False
        policy.reset()
        wishes.clear()
        while not (over or wishes or stop.is_set()):
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            total, over = total + float(reward), terminated or truncated
            show(f"return {total:.1f}{last}")
            due = max(due, time.monotonic() - 0.1) + 1.0 / frames_per_second(env)
            stop.wait(max(0.0, due - time.monotonic()))
        last = f", of the last episode {total:.1f}"
    env.close()
