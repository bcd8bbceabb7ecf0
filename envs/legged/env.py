"""The walking task as a Gymnasium vector environment on batched MuJoCo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.legged import commands, privileged, pushes, randomization, resets, terminations
from envs.legged.config import EnvConfig
from envs.legged.curriculum import Curriculum
from envs.legged.metrics import ERRORS, Metrics
from envs.legged.pictures import MODES, Pictures
from envs.legged.ramp import ramped
from envs.legged.sensing import Sensing
from envs.legged.shapes import check_shapes
from envs.legged.simulation import Simulation
from envs.legged.state import load_arrays, masked_rows
from envs.legged.terrain import Terrain
from envs.legged.weighted import WeightedReward
from envs.settings.configs import compose
from rfx.random.streams import Streams
from rfx.robot.config import RobotConfig
from rfx.robot.files import load_robot
from rfx.robot.observe import observe
from rfx.robot.state import FAILED, Array
from rfx.settings.terms import bind


class LeggedEnv(VectorEnv):
    """num_envs robots that learn to follow velocity commands.

    Observations are float32. "state" (num_envs, max_state_dim) is what the robot observes, zero beyond its state_dim.
    With critic_terms there is also "critic" (num_envs, width): these terms of envs/legged/privileged.py side by side,
    which only a simulator knows. Actions are (num_envs, action_dim) in [-1, 1], and are clipped to it.

    Autoreset happens in the same step, in Gymnasium's layout. Where an episode ends, the returned observation is the
    first of the next episode. info["final_obs"] holds the last observation of the ended one, and info["final_info"] its
    mean absolute errors of vx, vy (m/s) and yaw rate (rad/s).
    On terrain an episode is truncated when its robot leaves the terrain, or with a curriculum its own tile.

    A simulation fails if MuJoCo gives it up or warns about it, or if its state, reward or observation is not finite. It
    is truncated, flagged in info[FAILED] and started anew. Its reward is 0, and 0 replaces all numbers in its final
    observation that are not finite.

    Environment i of seed s is identical, bit for bit, to environment 0 of seed s + i. With rows, the object holds only
    these rows of the num_envs environments, and must be reset with seed s + rows.start.

    render_mode="rgb_array" draws each robot, with a blue arrow for its command and an orange one for its velocity.
    configs/robot/{task}.yaml, with the keys in overrides replaced, supplies a config or robot that is not given.
    Raises TypeError without a task if config or robot is missing.
    """

    # render_fps is a default: every environment sets its robot's control rate.
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": [*MODES], "render_fps": 50}

    def __init__(
        self,
        num_envs: int | None = None,
        *,
        config: EnvConfig | None = None,
        robot: RobotConfig | None = None,
        rows: range | None = None,
        threads: int = 0,
        critic_terms: Sequence[str] = (),
        task: str | None = None,
        render_mode: str | None = None,
        **overrides: Any,
    ):
        if (config is None or robot is None) and task is None:
            raise TypeError("got neither a task nor both config and robot; expected task=NAME, of configs/robot/")
        config, robot = (
            config or EnvConfig.load(task, **overrides),
            robot or load_robot(compose("robot", task)["robot"]),
        )
        num_envs = config.num_envs if num_envs is None else num_envs
        rows = range(num_envs) if rows is None else rows
        num_envs, num_all = len(rows), num_envs
        self.config, self.robot, self.num_envs, self._num_all = config, robot, num_envs, num_all
        terrain = Terrain(config.terrain) if config.terrain else None
        self.simulation = Simulation(
            robot,
            num_envs,
            timestep_s=config.timestep_s,
            threads=threads,
            mjcf=config.mjcf,
            ground=terrain.ground if terrain else None,
        )
        self.curriculum = Curriculum(terrain, num_all, config.terrain.curriculum, rows) if terrain else None
        self.step_s = self.simulation.control_step_s
        self.max_steps = round(config.episode_length_s / self.step_s)
        self.render_mode, self._pictures = render_mode, Pictures(self, render_mode)
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self.step_s)}

        ((command, parameters),) = config.commands.items()
        self._draw_command = bind(commands, command, parameters, num_inputs=2)
        self._resets = [bind(resets, name, parameters, num_inputs=2) for name, parameters in config.resets.items()]
        varied, pushed, noise = (
            (config.randomization, config.pushes, config.noise) if config.randomize else ({}, {}, {})
        )
        self._randomization = [
            bind(randomization, name, parameters, num_inputs=2) for name, parameters in varied.items()
        ]
        self._pushes = [bind(pushes, name, parameters, num_inputs=2) for name, parameters in pushed.items()]
        self._streams = Streams(num_envs, purpose=0)
        # A stream of their own for randomization, pushes and noise: without them, a seed still draws the same commands
        # and starts.
        self._disturbances = Streams(num_envs, purpose=1)
        self.sensing = Sensing(self.state.robot, self.simulation.encoder_offset, noise, perfect=not (varied or noise))
        self._terminations = [bind(terminations, name, parameters) for name, parameters in config.terminations.items()]
        self._rewards = {name: WeightedReward.read(name, parameters) for name, parameters in config.rewards.items()}
        self._critic_terms = [bind(privileged, name, {}) for name in critic_terms]
        check_shapes(robot, [*self._terminations, *(own.term for own in self._rewards.values())], self._critic_terms)

        self._observation = np.zeros((num_envs, robot.max_state_dim), np.float32)
        self._action = np.zeros((num_envs, robot.action_dim), np.float32)
        self._command_steps = np.zeros(num_envs, np.int64)  # control steps until the command changes
        self._push_steps = np.zeros(num_envs, np.int64)  # control steps until the next push
        self._length = np.zeros(num_envs, np.int64)  # control steps; state.step also counts a random start age
        self._age = np.zeros(num_envs, np.int64)  # control steps since the environment was made, over all episodes
        self._error = np.zeros((num_envs, 3), np.float32)  # summed absolute velocity error of the episode
        self._metrics = Metrics(self._rewards, num_envs, self.step_s)

        self.single_observation_space = gymnasium.spaces.Dict(
            {
                name: gymnasium.spaces.Box(-np.inf, np.inf, values.shape[1:], np.float32)
                for name, values in self._observe().items()
            }
        )
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (robot.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def state(self):
        """The SimState of all environments, as live arrays."""
        return self.simulation.state

    @property
    def num_threads(self) -> int:
        """How many threads step the physics; results do not depend on this number."""
        return self.simulation.batch.nthread

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start every environment anew, or only those in the mask options["reset_mask"] (num_envs,), bool.

        A seed makes everything after the reset repeatable.

        Raises TypeError for a mask of another type, and ValueError for one of another shape or without an environment.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._streams.seed(seed)
            self._disturbances.seed(seed)
        if options and "reset_mask" in options:
            self._start(masked_rows(options["reset_mask"], self.num_envs))
            return self._observe(), {}
        if self.curriculum:
            self.curriculum.begin(self._streams)
        self._start(np.arange(self.num_envs))
        if self.config.random_start_age:
            self.state.step[...] = self._streams.integers(self.max_steps, size=self.num_envs)
            if self.curriculum:
                self.curriculum.cut_short[...] = True
        return self._observe(), {}

    def step(self, actions: Array) -> tuple[dict[str, Array], Array, Array, Array, dict[str, Any]]:
        """Take one control step in every environment.

        Returns observation, reward (num_envs,) float32, terminated, truncated, info.
        """
        np.clip(actions, -1.0, 1.0, out=self._action)
        if self._pushes:
            self._push()
        failed = self.simulation.step(self._action)
        state = self.state
        self.sensing.measure(slice(None), self._disturbances)

        state.fallen[...] = False
        for term in self._terminations:
            np.logical_or(state.fallen, term(state), out=state.fallen)
        terminated = state.fallen.copy()
        reward = np.zeros(self.num_envs, np.float32)
        for name, weighted in self._rewards.items():
            values = weighted.term(state) * np.float32(weighted.weight_after(self._run_steps) * self.step_s)
            failed |= ~np.isfinite(values)
            values[failed] = 0.0
            reward += values
            self._metrics.reward[name] += values

        self._length += 1
        self._age += 1
        error = np.abs(velocity_error(state))
        left = False
        if self.curriculum:
            self.curriculum.measure(state, self.step_s)
            left = self.curriculum.left(self.simulation.base_position_w)
        self._command_steps -= 1
        self._change_commands(np.flatnonzero(self._command_steps <= 0))
        observation = self._observe()
        for values in observation.values():
            failed |= ~np.isfinite(values.sum(axis=1))
        if failed.any():
            reward[failed], terminated[failed], error[failed] = 0.0, False, 0.0
        truncated = ((state.step >= self.max_steps) | failed | left) & ~terminated
        self._error += error
        self._metrics.add_step(error)
        done = terminated | truncated
        if not done.any():
            return observation, reward, terminated, truncated, {}
        self._metrics.add_episodes(done & ~failed, self._length, terminated)
        if self.curriculum:
            self.curriculum.move(np.flatnonzero(done), (terminated | failed)[done], self._streams)
        info = self._final(observation, done, failed)
        self._start(np.flatnonzero(done))
        return self._observe(), reward, terminated, truncated, info

    def render(self) -> tuple[Array, ...] | None:
        """Draw each robot as it is now, a picture (H, W, 3), uint8, each; None without a render_mode.

        Raises RuntimeError without OpenGL.
        """
        return self._pictures.take()

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderer."""
        self._pictures.close()

    @property
    def _run_steps(self) -> int:
        """Environment steps of the run so far, summed over all its environments."""
        return int(self._age[0]) * self._num_all

    def spread_pushes(self) -> None:
        """Spread the next pushes evenly over time, as if the robots had walked for long; call this after a reset.

        Short evaluations need it: otherwise their first push comes late.
        """
        if self._pushes:
            self._push_steps[...] = np.ceil(self._push_steps * self._disturbances.random(self.num_envs))

    def metrics(self) -> dict[str, float]:
        """Mean rewards, errors and falls since the last call, and the robots' terrain levels now, by tag."""
        return self.summarize(self.measured())

    def measured(self) -> dict[str, Array]:
        """Sums since the last call, and terrain levels now: arrays with a row for each environment, (num_envs, ...)."""
        levels = {"level": self.curriculum.level.copy(), "kind": self.curriculum.kind} if self.curriculum else {}
        return self._metrics.take() | levels

    def summarize(self, measured: Mapping[str, Array]) -> dict[str, float]:
        """Make metrics from the arrays of measured(), of any number of environments, in order."""
        return self._metrics.means(measured) | (
            self.curriculum.metrics(measured["level"], measured["kind"]) if self.curriculum else {}
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, copied: arrays with a row for each environment, (num_envs, ...)."""
        return self.simulation.state_dict() | {name: array.copy() for name, array in self._counters().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state that state_dict returned; no reset is needed.

        Raises ValueError for a state of another task or num_envs.
        """
        counters = self._counters()
        load_arrays(counters, {name: state[name] for name in counters if name in state})
        self.simulation.load_state_dict({name: value for name, value in state.items() if name not in counters})

    def _counters(self) -> dict[str, Array]:
        return (
            {
                "command_steps": self._command_steps,
                "push_steps": self._push_steps,
                "imu_rotation": self.sensing.imu_rotation,
                "length": self._length,
                "age": self._age,
                "error": self._error,
            }
            | {
                f"{streams}.{name}": array
                for streams, rng in (("streams", self._streams), ("disturbances", self._disturbances))
                for name, array in rng.arrays().items()
            }
            | (self.curriculum.arrays() if self.curriculum else {})
        )

    def _observe(self) -> dict[str, Array]:
        """The observations for the policy and, with critic_terms, for its critic, as new arrays."""
        observation = {"state": observe(self.sensing.state, out=self._observation).copy()}
        if self._critic_terms:
            observation["critic"] = np.concatenate([term(self.state) for term in self._critic_terms], axis=1)
        return observation

    def _final(self, observation: dict[str, Array], done: Array, failed: Array) -> dict[str, Any]:
        """The info of a step in which episodes ended with these observations; it may change the observations."""
        for values in observation.values():
            values[failed] = np.nan_to_num(values[failed], nan=0.0, posinf=0.0, neginf=0.0)
        final = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(done):
            final[i] = {name: values[i] for name, values in observation.items()}
        sound = done & ~failed
        error = np.where(sound[:, None], self._error / np.maximum(self._length, 1)[:, None], 0.0)
        figures = {name: error[:, axis] for axis, name in enumerate(ERRORS)} | {f"_{name}": sound for name in ERRORS}
        return {
            "final_obs": final,
            "_final_obs": done,
            "final_info": figures,
            "_final_info": done,
            FAILED: failed.copy(),
            f"_{FAILED}": done,
        }

    def _start(self, ids: Array) -> None:
        """Begin new episodes in environments ids.

        Each gets a newly randomized robot, a start from the reset terms, a new command, and counters at zero.
        """
        if self._randomization:
            self._vary(ids)
        (qpos, qvel), base = self.simulation.home(len(ids)), self.simulation.base
        if self.curriculum:
            qpos[:, base.position] += self.curriculum.origin(ids)
        start = resets.Start(
            base_position_w=qpos[:, base.position],
            base_quaternion=qpos[:, base.quaternion],
            base_linear_velocity_w=qvel[:, base.linear_velocity],
            base_angular_velocity_b=qvel[:, base.angular_velocity],
            joint_position=qpos[:, self.simulation.joint_qpos].copy(),
            joint_velocity=np.zeros((len(ids), len(self.robot.joints))),
        )
        rng = self._streams.of(ids)
        for term in self._resets:
            term(start, rng)
        self.simulation.write_joints(qpos, qvel, start.joint_position, start.joint_velocity)
        self.simulation.reset(ids, qpos, qvel)
        self._length[ids], self._error[ids] = 0, 0.0
        self._change_commands(ids)
        self.sensing.measure(ids, self._disturbances)
        if self._pushes:
            self._schedule_pushes(ids)

    def _vary(self, ids: Array) -> None:
        draw = randomization.Draw(self.simulation.model, len(ids), len(self.robot.joints))
        rng = self._disturbances.of(ids)
        for term in self._randomization:
            term(draw, rng)
        if (share := ramped(self.config.disturbance_ramp, self._run_steps)) < 1.0:
            draw.keep(share)
        self.simulation.vary(ids, draw)
        self.sensing.tilt_imu(ids, draw.imu_tilt)

    def _push(self) -> None:
        self._push_steps -= 1
        ids = np.flatnonzero(self._push_steps <= 0)
        if len(ids):
            rng = self._disturbances.of(ids)
            change = sum(term(rng, len(ids)) for term in self._pushes)
            self.simulation.push(ids, ramped(self.config.disturbance_ramp, self._run_steps) * change)
            self._schedule_pushes(ids)

    def _schedule_pushes(self, ids: Array) -> None:
        self._push_steps[ids] = np.round(
            self._disturbances.of(ids).uniform(*self.config.push_interval_s, len(ids)) / self.step_s
        )

    def _change_commands(self, ids: Array) -> None:
        if len(ids):
            rng = self._streams.of(ids)
            self.state.robot.velocity_command[ids] = self._draw_command(rng, len(ids))
            self._command_steps[ids] = np.round(rng.uniform(*self.config.command_interval_s, len(ids)) / self.step_s)


def velocity_error(state) -> Array:
    """Velocity minus command. (N, 3): vx, vy in m/s, yaw rate in rad/s."""
    error = np.empty_like(state.robot.velocity_command)
    error[:, :2] = state.base_linear_velocity_b[:, :2]
    error[:, 2] = state.robot.base_angular_velocity_b[:, 2]
    error -= state.robot.velocity_command
    return error
