"""A policy where its training did not look: commands, floors, loads, delays, pushes, physics steps, models, terrain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv, velocity_error
from rfx.config import RobotConfig
from rfx.state import Array, heading
from train.judge.crossings import CROSS_S, Crossings, crossing_task, measure_crossings
from train.judge.evaluation import SETTLE_S, Evaluation, evaluate
from train.judge.play import EPISODE_S, Act, Step, evaluation_env, play

GRID_SIZE = 9  # commands along each axis
GRID_S = 8.0
DIRECTIONS = 8  # of pushes, around the robot; the first is forwards, then counterclockwise
PUSH_STEP_M_S, MAX_PUSH_M_S = 0.2, 3.0
WALK_S, RECOVER_S = 3.0, 4.0  # before a push, and after it to see whether the robot falls
STAND_S = 10.0  # of a zero command, after SETTLE_S
LONG_S = 1e6  # an interval that never ends


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One condition in several sizes; each is played as the nominal evaluation is."""

    label: str
    unit: str
    values: tuple[float, ...]
    nominal: float | None  # the value that the nominal robot has; None: as its model says
    task: Callable[[float], dict[str, Any]]  # from a value to the keys of EnvConfig that it changes


def _robots(term: str, parameter: str, scale: float = 1.0) -> Callable[[float], dict[str, Any]]:
    """Every robot with one value of a randomization term."""
    return lambda value: {"randomize": True, "randomization": {term: {parameter: (scale * value, scale * value)}}}


SWEEPS = {
    "friction": Sweep(label="floor friction", unit="", values=(0.2, 0.4, 0.6, 0.8, 1.0, 1.2), nominal=0.8,
                      task=_robots("floor_friction", "coefficient")),
    "payload": Sweep(label="payload", unit="kg", values=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0), nominal=0.0, task=_robots("payload", "range_kg")),
    "latency": Sweep(label="action latency", unit="ms", values=(0.0, 5.0, 10.0, 15.0, 20.0), nominal=0.0,
                     task=lambda value: {"timestep_s": 0.005, **_robots("action_latency", "range_s", 1e-3)(value)}),
    "timestep": Sweep(label="physics step", unit="ms", values=(1.0, 2.0, 4.0, 5.0, 10.0), nominal=None,
                      task=lambda value: {"timestep_s": 1e-3 * value}),
}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Robots that are all asked for one vx and yaw rate, over many of them; vy is 0."""

    vx: Array  # (V,), m/s
    yaw_rate: Array  # (Y,), rad/s
    error_vx: Array  # (V, Y), m/s, mean absolute; NaN where no robot stood for a second
    error_vy: Array  # (V, Y), m/s
    error_yaw_rate: Array  # (V, Y), rad/s
    falls_per_episode: Array  # (V, Y), per 20 s


@dataclass(frozen=True, kw_only=True)
class Pushes:
    """Walking robots whose base is given another velocity at once."""

    speed_m_s: Array  # (S,), growing, until nearly all fall
    survived: Array  # (S, DIRECTIONS), share of the robots that did not fall within 4 s

    def share(self, speed_m_s: float) -> float:
        """Share that survived pushes of this size, from all sides; 0 above the largest that was tried."""
        index = int(round(speed_m_s / PUSH_STEP_M_S)) - 1
        return float(self.survived[index].mean()) if index < len(self.speed_m_s) else 0.0


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What one policy does everywhere."""

    nominal: Evaluation
    sweeps: Mapping[str, tuple[Evaluation, ...]]  # by name in SWEEPS: one for each of its values
    grid: Grid
    pushes: Pushes
    drift_m: float  # 95th percentile of how far the base is from where it was, after 10 s of a zero command
    models: Mapping[str, Evaluation]  # other MJCFs, by path
    crossings: Crossings  # of terrain

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; what could not be measured is None."""
        sweeps = {name: {"unit": SWEEPS[name].unit, "values": list(SWEEPS[name].values), "evaluations": [e.to_dict() for e in results]}
                  for name, results in self.sweeps.items()}
        return {"sweeps": sweeps,
                "grid": {name: _plain(values) for name, values in dataclasses.asdict(self.grid).items()},
                "pushes": {name: _plain(values) for name, values in dataclasses.asdict(self.pushes).items()},
                "drift_m": _plain(self.drift_m), "models": {path: e.to_dict() for path, e in self.models.items()},
                "terrain": self.crossings.to_dict(),
                "targets": [dataclasses.asdict(target) | {"met": target.met} for target in targets(self)]}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that a policy must reach before a robot should run it."""

    name: str
    unit: str
    value: float
    limit: float
    at_least: bool = False  # else at most

    @property
    def met(self) -> bool:
        return bool(self.value >= self.limit if self.at_least else self.value <= self.limit)


def targets(suite: Suite) -> list[Target]:
    """The project's targets for a policy to be deployed, and where this one stands."""
    def falls(sweep: str, value: float) -> float:
        return suite.sweeps[sweep][SWEEPS[sweep].values.index(value)].falls_per_episode

    nominal, per_episode = suite.nominal, "per 20 s episode"
    return [Target(name="falls", unit=per_episode, value=nominal.falls_per_episode, limit=0.005),
            Target(name="error vx", unit="m/s", value=nominal.error_vx, limit=0.05),
            Target(name="error vy", unit="m/s", value=nominal.error_vy, limit=0.05),
            Target(name="error yaw rate", unit="rad/s", value=nominal.error_yaw_rate, limit=0.08),
            Target(name="falls at friction 0.4", unit=per_episode, value=falls("friction", 0.4), limit=0.05),
            Target(name="falls at friction 1.2", unit=per_episode, value=falls("friction", 1.2), limit=0.05),
            Target(name="falls with 3 kg", unit=per_episode, value=falls("payload", 3.0), limit=0.05),
            Target(name="falls at 20 ms latency", unit=per_episode, value=falls("latency", 20.0), limit=0.05),
            Target(name="survives pushes of 0.8 m/s", unit="of robots", value=suite.pushes.share(0.8), limit=0.95, at_least=True),
            Target(name="drift on a zero command", unit="m in 10 s", value=suite.drift_m, limit=0.05)]


class Runner:
    """Plays one policy in all conditions of the suite."""

    def __init__(self, act: Act, task: EnvConfig, robot: RobotConfig, *, num_envs: int, duration_s: float, seed: int, threads: int = 0,
                 tell: Callable[[str], None] = lambda line: None):
        self._act, self._task, self._robot, self._tell = act, task, robot, tell
        self._num_envs, self._duration_s, self._seed, self._threads = num_envs, duration_s, seed, threads

    def run(self, nominal: Evaluation, models: tuple[str, ...] = ()) -> Suite:
        """All of it. nominal: the plain evaluation, played before; models: paths of other MJCFs."""
        sweeps = {name: tuple(self._evaluate(f"{sweep.label} {value:g} {sweep.unit}", **sweep.task(value)) for value in sweep.values)
                  for name, sweep in SWEEPS.items()}
        return Suite(nominal=nominal, sweeps=sweeps, grid=self.grid(), pushes=self.pushes(), drift_m=self.drift(),
                     models={path: self._evaluate(f"model {path}", mjcf=path) for path in models}, crossings=self.crossings())

    def grid(self) -> Grid:
        """Errors and falls over vx and yaw rate, within the ranges of the task's commands."""
        parameters, = self._task.commands.values()
        vx, yaw_rate = (np.linspace(*parameters.get(axis, (-1.0, 1.0)), GRID_SIZE) for axis in ("vx", "yaw_rate"))
        command = np.stack(np.meshgrid(vx, [0.0], yaw_rate, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)
        command = np.repeat(command, max(1, self._num_envs // len(command)), axis=0)
        env = self._env(num_envs=len(command), command_interval_s=(LONG_S, LONG_S))
        errors, samples, falls = np.zeros((len(command), 3)), np.zeros(len(command)), np.zeros(len(command))
        for step in self._play(env, GRID_S, "commands"):
            settled = env.state.step > SETTLE_S / env.step_s
            errors += np.abs(velocity_error(env.state)) * settled[:, None]
            samples += settled
            falls += step.terminated
            env.state.robot.velocity_command[...] = command  # also of robots that have just begun anew, a control step after

        def cells(values: Array) -> Array:
            return values.reshape(len(vx), len(yaw_rate), -1).sum(axis=2)

        counted = np.where(cells(samples) > 0, cells(samples), np.nan)
        error = [cells(errors[:, axis]) / counted for axis in range(3)]
        return Grid(vx=vx, yaw_rate=yaw_rate, error_vx=error[0], error_vy=error[1], error_yaw_rate=error[2],
                    falls_per_episode=cells(falls) / (len(command) / len(vx) / len(yaw_rate) * GRID_S / EPISODE_S))

    def pushes(self) -> Pushes:
        """Survival of pushes that grow until hardly a robot survives."""
        speeds, survived = [], []
        while (not survived or survived[-1].mean() > 0.05) and len(speeds) < round(MAX_PUSH_M_S / PUSH_STEP_M_S):
            speeds.append(round(PUSH_STEP_M_S * (len(speeds) + 1), 3))
            survived.append(self._survived(speeds[-1]))
        return Pushes(speed_m_s=np.array(speeds), survived=np.array(survived))

    def _survived(self, speed_m_s: float) -> Array:
        """Share of robots that do not fall within 4 s of a push while they walk, by direction in the base's frame. (DIRECTIONS,)."""
        (name, parameters), = self._task.commands.items()
        walking = {name: {**parameters, "zero_share": 0.0}}
        env = self._env(num_envs=max(DIRECTIONS, self._num_envs), commands=walking, command_interval_s=(LONG_S, LONG_S))
        direction, pushed, fell = np.arange(env.num_envs) % DIRECTIONS, None, np.zeros(env.num_envs, bool)
        for count, step in enumerate(self._play(env, WALK_S + RECOVER_S, f"pushes of {speed_m_s:.1f} m/s"), 1):
            if count == round(WALK_S / env.step_s):
                pushed = env.state.step > SETTLE_S / env.step_s  # not those that have just fallen and begun anew
                angle = heading(env.simulation.batch.qpos[:, 3:7]) + 2 * np.pi * direction / DIRECTIONS
                change = np.zeros((env.num_envs, 6))
                change[:, 0], change[:, 1] = speed_m_s * np.cos(angle), speed_m_s * np.sin(angle)
                env.simulation.push(np.arange(env.num_envs), change)
            elif pushed is not None:
                fell |= step.terminated
        counted = np.bincount(direction, weights=pushed)
        return np.bincount(direction, weights=pushed & ~fell) / np.where(counted > 0, counted, np.inf)

    def drift(self) -> float:
        """95th percentile of how far the base drifts in 10 s of a zero command, m; infinite for a robot that falls."""
        env = self._env(commands={"uniform_velocity": {"vx": (0, 0), "vy": (0, 0), "yaw_rate": (0, 0)}})
        begin, fell = None, np.zeros(env.num_envs, bool)
        for count, step in enumerate(self._play(env, SETTLE_S + STAND_S, "standing"), 1):
            fell |= step.terminated
            if count == round(SETTLE_S / env.step_s):
                begin = env.simulation.batch.qpos[:, :2].copy()
        distance = np.linalg.norm(env.simulation.batch.qpos[:, :2] - begin, axis=1)
        return float(np.percentile(np.where(fell, np.inf, distance), 95, method="inverted_cdf"))

    def crossings(self) -> Crossings:
        """Falls and crossings over kinds and levels of terrain; one robot a tile for every 32 of an evaluation."""
        env = self._env(**crossing_task(self._task, self._seed, max(1, self._num_envs // 32)))
        return measure_crossings(env, self._play(env, CROSS_S, "terrain"))

    def _evaluate(self, condition: str, **changes: Any) -> Evaluation:
        self._tell(condition)
        return evaluate(self._act, self._env(**changes), seed=self._seed, duration_s=self._duration_s)

    def _play(self, env: LeggedEnv, duration_s: float, condition: str) -> Iterator[Step]:
        """Play, yielding after every control step."""
        self._tell(condition)
        steps = play(self._act, env, seed=self._seed, duration_s=duration_s)
        next(steps)
        return steps

    def _env(self, **changes: Any) -> LeggedEnv:
        return evaluation_env(self._task, self._robot, **{"num_envs": self._num_envs, "threads": self._threads, **changes})


def _plain(values: Any) -> Any:
    """Arrays as lists, with None for what is not finite."""
    if isinstance(values, np.ndarray) and values.ndim or isinstance(values, list):
        return [_plain(value) for value in values]
    return float(values) if math.isfinite(values) else None
