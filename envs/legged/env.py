"""The Go2 velocity task as a Gymnasium vector environment on batched MuJoCo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.legged import commands, privileged, pushes, randomization, resets, rewards, terminations
from envs.legged.config import EnvConfig
from envs.legged.curriculum import Curriculum
from envs.legged.sensing import Sensing
from envs.legged.simulation import Simulation
from envs.legged.state import load_arrays
from envs.legged.terrain import Terrain
from rfx.config import RobotConfig
from rfx.robots.go2.config import GO2_CONFIG
from rfx.observe import observe
from rfx.state import Array
from rfx.terms import bind, find


class LeggedEnv(VectorEnv):
    """num_envs Go2s that are asked to follow velocity commands.

    Observation {"state": (num_envs, 64)} float32; action (num_envs, 12) in [-1, 1], clipped. Same-step autoreset: where an episode
    ends, the observation returned is the next episode's first, and info["final_obs"] holds the last. info["episode"] has the ended
    episodes' statistics: return `r`, length `l`, and the mean absolute error of vx, vy (m/s) and yaw rate (rad/s).
    Where the task has terrain, an episode is truncated when its robot leaves it.
    A simulation that MuJoCo gives up or warns about, or whose state, reward or observation is not finite, is truncated, its reward is 0,
    it is flagged in info["failed"] and started anew.
    Without a config the task is that of configs/robot/{task}.yaml, with the keys of overrides replaced.
    critic_terms name what `critic_observation` tells, `envs/legged/privileged.py`; with them info["final_critic_observation"] (num_envs, width)
    holds it, beside "final_obs", as it was where an episode ended.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}

    def __init__(self, num_envs: int | None = None, *, config: EnvConfig | None = None, robot: RobotConfig = GO2_CONFIG,
                 threads: int = 0, critic_terms: Sequence[str] = (), task: str = "go2", **overrides: Any):
        config = config or EnvConfig.load(task, **overrides)
        num_envs = config.num_envs if num_envs is None else num_envs
        self.config, self.robot, self.num_envs = config, robot, num_envs
        terrain = Terrain(config.terrain) if config.terrain else None
        self.simulation = Simulation(robot, num_envs, timestep_s=config.timestep_s, threads=threads, mjcf=config.mjcf,
                                     ground=terrain.ground if terrain else None)
        self.curriculum = Curriculum(terrain, num_envs, config.terrain.curriculum) if terrain else None
        self.step_s = self.simulation.control_step_s
        self.max_steps = round(config.episode_length_s / self.step_s)

        self.single_observation_space = gymnasium.spaces.Dict(
            {"state": gymnasium.spaces.Box(-np.inf, np.inf, (robot.max_state_dim,), np.float32)})
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (robot.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        (command, parameters), = config.commands.items()
        self._draw_command = bind(commands, command, parameters, num_inputs=2)
        self._resets = [bind(resets, name, parameters, num_inputs=2) for name, parameters in config.resets.items()]
        varied, pushed, noise = (config.randomization, config.pushes, config.noise) if config.randomize else ({}, {}, {})
        self._randomization = [bind(randomization, name, parameters, num_inputs=2) for name, parameters in varied.items()]
        self._pushes = [bind(pushes, name, parameters, num_inputs=2) for name, parameters in pushed.items()]
        self._disturbance_rng = np.random.default_rng()  # of these three: a seed draws the same commands and starts with and without them
        self.sensing = Sensing(self.state.robot, self.simulation.encoder_offset, noise, perfect=not (varied or noise))
        self._terminations = [bind(terminations, name, parameters) for name, parameters in config.terminations.items()]
        self._rewards = {name: bind_reward(name, parameters) for name, parameters in config.rewards.items()}
        self._critic_terms = [find(privileged, name) for name in critic_terms]

        self._observation = np.zeros((num_envs, robot.max_state_dim), np.float32)
        self._action = np.zeros((num_envs, robot.action_dim), np.float32)
        self._command_steps = np.zeros(num_envs, np.int64)  # control steps until the command changes
        self._push_steps = np.zeros(num_envs, np.int64)  # control steps until the next push
        self._return = np.zeros(num_envs, np.float32)
        self._length = np.zeros(num_envs, np.int64)  # not state.step: that one counts a random start age too
        self._error = np.zeros((num_envs, 3), np.float32)  # summed absolute velocity error of the episode
        self.clear_reward_sums()  # reward_sums: by term, weighted, summed over steps, mean over environments

    @property
    def state(self):
        """The SimState of all environments: live arrays."""
        return self.simulation.state

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start every environment anew. A seed makes all that follows repeatable."""
        super().reset(seed=seed)
        if seed is not None:
            self._disturbance_rng = self.np_random.spawn(1)[0]
        if self.curriculum:
            self.curriculum.begin(self.np_random)
        self._start(np.arange(self.num_envs))
        if self.config.random_start_age:
            self.state.step[...] = self.np_random.integers(self.max_steps, size=self.num_envs)
        return self._observe(), {}

    def step(self, actions: Array) -> tuple[dict[str, Array], Array, Array, Array, dict[str, Any]]:
        """One control step of every environment. Returns observation, reward (num_envs,) float32, terminated, truncated, info."""
        np.clip(actions, -1.0, 1.0, out=self._action)
        if self._pushes:
            self._push()
        failed = self.simulation.step(self._action)
        state = self.state
        self.sensing.measure(slice(None), self._disturbance_rng)

        state.fallen[...] = False
        for term in self._terminations:
            np.logical_or(state.fallen, term(state), out=state.fallen)
        terminated = state.fallen.copy()
        reward = np.zeros(self.num_envs, np.float32)
        for name, (term, weight) in self._rewards.items():
            values = term(state) * np.float32(weight * self.step_s)
            failed |= ~np.isfinite(values)
            values[failed] = 0.0
            reward += values
            self.reward_sums[name] += float(values.mean())

        self._length += 1
        self._error += np.abs(velocity_error(state))
        left = False
        if self.curriculum:
            self.curriculum.measure(state, self.step_s)
            left = self.curriculum.terrain.left(self.simulation.base_position_w)
        self._command_steps -= 1
        self._change_commands(np.flatnonzero(self._command_steps <= 0))
        observation = self._observe()
        failed |= ~np.isfinite(observation["state"].sum(axis=1))
        if failed.any():
            reward[failed], terminated[failed] = 0.0, False
        truncated = ((state.step >= self.max_steps) | failed | left) & ~terminated
        self._return += reward
        info: dict[str, Any] = {}
        done = terminated | truncated
        if done.any():
            if self.curriculum:
                self.curriculum.move(np.flatnonzero(done), (terminated | failed)[done], self.np_random)
            final_critic = {"final_critic_observation": self.critic_observation()} if self._critic_terms else {}
            info = self._end_episodes(observation["state"], done, failed) | final_critic
            observation = self._observe()
        return observation, reward, terminated, truncated, info

    def critic_observation(self) -> Array:
        """The critic terms of the state as it is, side by side. (num_envs, width), float32, a new array."""
        return np.concatenate([term(self.state) for term in self._critic_terms], axis=1)

    def metrics(self) -> dict[str, float]:
        """What training should log of the task as it is now, by tag."""
        return self.curriculum.metrics() if self.curriculum else {}

    def clear_reward_sums(self) -> None:
        """Start the sums of the weighted reward terms, `reward_sums`, at zero."""
        self.reward_sums = dict.fromkeys(self._rewards, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: arrays (copies), and the random generators' states."""
        return self.simulation.state_dict() | {name: array.copy() for name, array in self._counters().items()} | {
            name: rng.bit_generator.state for name, rng in self._generators().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned, instead of a reset. Raises ValueError for a state of another task or num_envs."""
        counters, generators = self._counters(), self._generators()
        load_arrays(counters, {name: state[name] for name in counters if name in state})
        self.simulation.load_state_dict({name: value for name, value in state.items() if name not in counters.keys() | generators.keys()})
        for name, rng in generators.items():
            rng.bit_generator.state = state[name]

    def _generators(self) -> dict[str, np.random.Generator]:
        return {"np_random": self.np_random, "disturbance_rng": self._disturbance_rng}

    def _counters(self) -> dict[str, Array]:
        return {"command_steps": self._command_steps, "push_steps": self._push_steps, "imu_rotation": self.sensing.imu_rotation,
                "return": self._return, "length": self._length, "error": self._error} | (
                    self.curriculum.arrays() if self.curriculum else {})

    def _observe(self) -> dict[str, Array]:
        return {"state": observe(self.sensing.state, out=self._observation).copy()}

    def _end_episodes(self, last: Array, done: Array, failed: Array) -> dict[str, Any]:
        """Statistics of the episodes that ended with the observation last, and new ones begun in their place."""
        ids = np.flatnonzero(done)
        final = np.full(self.num_envs, None, dtype=object)
        for i in ids:
            final[i] = {"state": last[i].copy()}
        length = np.where(done, self._length, 0)
        error = np.where(done[:, None], self._error, 0.0) / np.maximum(length, 1)[:, None]
        info = {"final_obs": final, "_final_obs": done, "_episode": done, "failed": failed.copy(),
                "episode": {"r": np.where(done, self._return, 0.0), "l": length, "error_vx": error[:, 0],
                            "error_vy": error[:, 1], "error_yaw_rate": error[:, 2]}}
        self._start(ids)
        return info

    def _start(self, ids: Array) -> None:
        """Begin new episodes in environments ids: other robots, noise from the reset terms, a new command, counters at zero."""
        if self._randomization:
            self._vary(ids)
        qpos, qvel = self.simulation.home(len(ids))
        if self.curriculum:
            qpos[:, 0:3] += self.curriculum.origin(ids)
        start = resets.Start(base_position_w=qpos[:, 0:3], base_quaternion=qpos[:, 3:7], base_linear_velocity_w=qvel[:, 0:3],
                             base_angular_velocity_b=qvel[:, 3:6], joint_position=qpos[:, self.simulation.joint_qpos].copy(),
                             joint_velocity=np.zeros((len(ids), len(self.robot.joints))))
        for term in self._resets:
            term(start, self.np_random)
        self.simulation.write_joints(qpos, qvel, start.joint_position, start.joint_velocity)
        self.simulation.reset(ids, qpos, qvel)
        self._return[ids], self._length[ids], self._error[ids] = 0.0, 0, 0.0
        self._change_commands(ids)
        self.sensing.measure(ids, self._disturbance_rng)
        if self._pushes:
            self._schedule_pushes(ids)

    def _vary(self, ids: Array) -> None:
        draw = randomization.Draw(self.simulation.model, len(ids), len(self.robot.joints))
        for term in self._randomization:
            term(draw, self._disturbance_rng)
        self.simulation.vary(ids, draw)
        self.sensing.tilt_imu(ids, draw.imu_tilt)

    def _push(self) -> None:
        self._push_steps -= 1
        ids = np.flatnonzero(self._push_steps <= 0)
        if len(ids):
            self.simulation.push(ids, sum(term(self._disturbance_rng, len(ids)) for term in self._pushes))
            self._schedule_pushes(ids)

    def _schedule_pushes(self, ids: Array) -> None:
        self._push_steps[ids] = np.round(self._disturbance_rng.uniform(*self.config.push_interval_s, len(ids)) / self.step_s)

    def _change_commands(self, ids: Array) -> None:
        if len(ids):
            self.state.robot.velocity_command[ids] = self._draw_command(self.np_random, len(ids))
            low, high = self.config.command_interval_s
            self._command_steps[ids] = np.round(self.np_random.uniform(low, high, len(ids)) / self.step_s)


def bind_reward(name: str, parameters: dict[str, Any]) -> tuple[Any, float]:
    """A reward term with its parameters fixed, and its weight per second. Raises ValueError for a wrong name, parameter or weight."""
    parameters = dict(parameters)
    weight = parameters.pop("weight", None)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise ValueError(f"reward {name!r} needs a number as its weight, got {weight!r}")
    return bind(rewards, name, parameters), float(weight)


def velocity_error(state) -> Array:
    """Velocity minus command. (N, 3): vx, vy in m/s, yaw rate in rad/s."""
    error = np.empty_like(state.robot.velocity_command)
    error[:, :2] = state.base_linear_velocity_b[:, :2]
    error[:, 2] = state.robot.base_angular_velocity_b[:, 2]
    error -= state.robot.velocity_command
    return error
