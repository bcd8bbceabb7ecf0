"""Tests a policy outside its training: commands, floors, loads, delays, pushes, physics steps, models, terrain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.legged.config import EnvConfig
from envs.legged.env import LeggedEnv, velocity_error
from rfx.drivers.mjcf import motor_addresses
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array
from train.judge.bounds import percentile_upper
from train.judge.conditions import as_trained, fewer
from train.judge.crossings import CROSS_S, Crossings, crossing_task, measure_crossings
from train.judge.evaluation import SETTLE_S, Evaluation, evaluate
from train.judge.play import EPISODE_S, Act, Step, evaluation_env, play
from train.judge.pushes import LONG_S, MAX_SPEED_M_S, SPEED_STEP_M_S, Pushes, measure_pushes, play_s, push_task
from train.judge.targets import Target, evaluation_targets, fall_target

GRID_SIZE = 9  # number of commands along each axis
GRID_S = 8.0
STAND_S = 10.0  # duration of the zero command, after SETTLE_S
DEPLOYED = (0.005, 0.035, 0.035, 0.05)  # limits of falls and errors of vx, vy, yaw rate to run on a robot
DAMPING, DAMPED_ERROR_VX = (
    2.0,
    0.06,
)  # joint damping, N m s/rad, the largest in published models; limit of the error of vx with it, m/s
TARGET_PUSH_M_S, TARGET_PUSH_SHARE = 1.0, 0.97  # all robots get pushes of this size, fewer robots get the other sizes


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One condition with several values; each value is played like the nominal evaluation."""

    label: str
    unit: str
    values: tuple[float, ...]
    nominal: float | None  # the value of the nominal robot; None: the value in its model
    task: Callable[[float], dict[str, Any]]  # maps a value to the keys of EnvConfig that it changes


def _robots(term: str, parameter: str, scale: float = 1.0) -> Callable[[float], dict[str, Any]]:
    """Keys that give every robot the same value of a randomization term."""
    return lambda value: {"randomize": True, "randomization": {term: {parameter: (scale * value, scale * value)}}}


SWEEPS = {
    "friction": Sweep(
        label="floor friction",
        unit="",
        values=(0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
        nominal=0.8,
        task=_robots("floor_friction", "coefficient"),
    ),
    "payload": Sweep(
        label="payload",
        unit="kg",
        values=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
        nominal=0.0,
        task=_robots("payload", "range_kg"),
    ),
    "latency": Sweep(
        label="action latency",
        unit="ms",
        values=(0.0, 5.0, 10.0, 15.0, 20.0),
        nominal=0.0,
        task=lambda value: {"timestep_s": 0.005, **_robots("action_latency", "range_s", 1e-3)(value)},
    ),
    "damping": Sweep(
        label="joint damping",
        unit="N m s/rad",
        values=(0.1, 0.5, 1.0, DAMPING),
        nominal=0.1,
        task=_robots("joint_damping", "coefficient"),
    ),
    "timestep": Sweep(
        label="physics step",
        unit="ms",
        values=(1.0, 2.0, 4.0, 5.0, 10.0),
        nominal=None,
        task=lambda value: {"timestep_s": 1e-3 * value},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Errors over pairs of vx and yaw rate, where all robots of a pair get the same command; vy is 0."""

    vx: Array  # (V,), m/s
    yaw_rate: Array  # (Y,), rad/s
    error_vx: Array  # (V, Y), m/s, mean absolute error; NaN if no robot stood for a second
    error_vy: Array  # (V, Y), m/s
    error_yaw_rate: Array  # (V, Y), rad/s
    falls_per_episode: Array  # (V, Y), per 20 s


@dataclass(frozen=True, kw_only=True)
class Suite:
    """All results of the suite for one policy."""

    nominal: Evaluation
    sweeps: Mapping[str, tuple[Evaluation, ...]]  # by name in SWEEPS, one evaluation per value
    grid: Grid
    pushes: Pushes
    # 95th percentile of the distance that the base drifts in 10 s of a zero command; infinite for a robot that falls.
    drift_m: float
    drift_upper_95_m: float  # upper bound of drift_m, with 95% confidence
    models: Mapping[str, Evaluation]  # evaluations on other MJCFs, by path
    crossings: Crossings  # results on terrain

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; a figure that could not be measured is None.

        In each sweep the nominal value has the figures of the nominal evaluation.
        """
        sweeps = {
            name: {
                "unit": SWEEPS[name].unit,
                "values": list(SWEEPS[name].values),
                "evaluations": [e.to_dict() for e in results],
            }
            for name, results in self.sweeps.items()
        }
        return {
            "sweeps": sweeps,
            "grid": {name: _plain(values) for name, values in dataclasses.asdict(self.grid).items()},
            "pushes": self.pushes.to_dict(TARGET_PUSH_M_S),
            "drift_m": _plain(self.drift_m),
            "drift_upper_95_m": _plain(self.drift_upper_95_m),
            "models": {path: e.to_dict() for path, e in self.models.items()},
            "terrain": self.crossings.to_dict(),
            "targets": [target.to_dict() for target in targets(self)],
        }


def targets(suite: Suite) -> list[Target]:
    """The project's targets for a policy that may run on a robot, with this policy's figures."""

    def falls(name: str, sweep: str, value: float) -> Target:
        return fall_target(f"falls {name}", suite.sweeps[sweep][SWEEPS[sweep].values.index(value)], 0.05)

    pushes, size = suite.pushes, TARGET_PUSH_M_S
    damped = suite.sweeps["damping"][SWEEPS["damping"].values.index(DAMPING)]
    return [
        *evaluation_targets(suite.nominal, DEPLOYED),
        falls("at friction 0.4", "friction", 0.4),
        falls("at friction 1.2", "friction", 1.2),
        falls("with 3 kg", "payload", 3.0),
        falls("at 20 ms latency", "latency", 20.0),
        Target(
            name=f"error vx with a joint damping of {DAMPING:g} N m s/rad",
            unit="m/s",
            value=damped.error_vx,
            bound_95=damped.error_vx_upper_95,
            limit=DAMPED_ERROR_VX,
        ),
        Target(
            name=f"survives pushes of {size:g} m/s",
            unit="of robots, as trained",
            value=pushes.share(size),
            bound_95=pushes.share_lower_95(size),
            limit=TARGET_PUSH_SHARE,
            at_least=True,
        ),
        Target(
            name="drift on a zero command",
            unit="m in 10 s",
            value=suite.drift_m,
            bound_95=suite.drift_upper_95_m,
            limit=0.05,
        ),
    ]


class Runner:
    """Plays one policy in all conditions of the suite.

    num_envs robots play pushes of the target's size; every other condition has fewer robots.
    """

    def __init__(
        self,
        act: Act,
        task: EnvConfig,
        robot: RobotConfig,
        *,
        num_envs: int,
        duration_s: float,
        seed: int,
        threads: int = 0,
        tell: Callable[[str], None] = lambda line: None,
    ):
        self._act, self._task, self._robot, self._tell = act, task, robot, tell
        self._num_envs, self._duration_s, self._seed, self._threads = num_envs, duration_s, seed, threads

    def run(self, nominal: Evaluation, models: tuple[str, ...] = ()) -> Suite:
        """Play the whole suite. nominal: the plain evaluation, already played; models: paths of other MJCFs."""
        drift, drift_upper = self.drift()
        return Suite(
            nominal=nominal,
            sweeps=self.sweeps(nominal),
            grid=self.grid(),
            pushes=self.pushes(),
            drift_m=drift,
            drift_upper_95_m=drift_upper,
            models={path: self._evaluate(f"model {path}", mjcf=path) for path in models},
            crossings=self.crossings(),
        )

    def sweeps(self, nominal: Evaluation) -> dict[str, tuple[Evaluation, ...]]:
        """Every sweep, by name.

        A condition that two sweeps share, such as the nominal robot, is played once. nominal is not played again.
        """
        played = {self._task.timestep_s: nominal}  # evaluations of the nominal robot, by physics step
        plain = self._env(num_envs=1)
        damping = plain.simulation.model.dof_damping[motor_addresses(plain.simulation.model, self._robot).qvel]
        of_model = {
            "friction": float(plain.state.floor_friction[0]),  # may differ from the sweep's nominal value
            "damping": float(damping[0]) if np.ptp(damping) == 0.0 else math.nan,
        }

        def play_value(name: str, value: float) -> Evaluation:
            sweep = SWEEPS[name]
            changes, condition = sweep.task(value), f"{sweep.label} {value:g} {sweep.unit}"
            if sweep.nominal not in (None, value) or not math.isclose(value, of_model.get(name, value), rel_tol=1e-6):
                return self._evaluate(condition, **changes)
            timestep_s = changes.get("timestep_s", self._task.timestep_s)
            known = next((step_s for step_s in played if math.isclose(step_s, timestep_s)), None)
            if known is None:
                known, played[timestep_s] = timestep_s, self._evaluate(condition, timestep_s=timestep_s)
            return played[known]

        return {name: tuple(play_value(name, value) for value in sweep.values) for name, sweep in SWEEPS.items()}

    def grid(self) -> Grid:
        """Errors and falls over vx and yaw rate, within the ranges of the task's commands."""
        (parameters,) = self._task.commands.values()
        vx, yaw_rate = (
            np.round(np.linspace(*parameters.get(axis, (-1.0, 1.0)), GRID_SIZE), 9) for axis in ("vx", "yaw_rate")
        )
        command = np.stack(np.meshgrid(vx, [0.0], yaw_rate, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)
        command = np.repeat(command, max(1, fewer(self._num_envs) // len(command)), axis=0)
        env = self._env(num_envs=len(command), command_interval_s=(LONG_S, LONG_S))
        errors, samples, falls = np.zeros((len(command), 3)), np.zeros(len(command)), np.zeros(len(command))
        for step in self._play(env, GRID_S, "commands"):
            settled = env.state.step > SETTLE_S / env.step_s
            errors += np.abs(velocity_error(env.state)) * settled[:, None]
            samples += settled
            falls += step.fell
            env.state.robot.velocity_command[...] = command  # also for robots that restarted, one control step later

        def cells(values: Array) -> Array:
            return values.reshape(len(vx), len(yaw_rate), -1).sum(axis=2)

        counted = np.where(cells(samples) > 0, cells(samples), np.nan)
        error = [cells(errors[:, axis]) / counted for axis in range(3)]
        return Grid(
            vx=vx,
            yaw_rate=yaw_rate,
            error_vx=error[0],
            error_vy=error[1],
            error_yaw_rate=error[2],
            falls_per_episode=cells(falls) / (len(command) / len(vx) / len(yaw_rate) * GRID_S / EPISODE_S),
        )

    def pushes(self) -> Pushes:
        """Survival of pushes, which grow until hardly any robot survives.

        The robots have the differences and sensor errors of training.
        """
        speeds, counts = [], []
        while (not speeds or counts[-1][1].sum() > 0.05 * counts[-1][0].sum()) and len(speeds) < round(
            MAX_SPEED_M_S / SPEED_STEP_M_S
        ):
            speeds.append(round(SPEED_STEP_M_S * (len(speeds) + 1), 3))
            counts.append(self._pushed(speeds[-1]))
        pushed, survived = zip(*counts)
        return Pushes(speed_m_s=np.array(speeds), pushed=np.array(pushed), survived=np.array(survived))

    def _pushed(self, speed_m_s: float) -> tuple[Array, Array]:
        """Number of robots that were pushed and number that survived, by phase and direction."""
        num_envs = self._num_envs if speed_m_s == TARGET_PUSH_M_S else fewer(self._num_envs)
        env = self._env(**as_trained(self._task) | {"pushes": {}} | push_task(self._task, num_envs))
        return measure_pushes(env, self._play(env, play_s(env), f"pushes of {speed_m_s:.1f} m/s"), speed_m_s)

    def drift(self) -> tuple[float, float]:
        """95th percentile of the base's drift in 10 s of a zero command, m, and its upper bound.

        The drift of a robot that falls is infinite.
        """
        env = self._env(commands={"uniform_velocity": {"vx": (0, 0), "vy": (0, 0), "yaw_rate": (0, 0)}})
        begin, fell = None, np.zeros(env.num_envs, bool)
        for count, step in enumerate(self._play(env, SETTLE_S + STAND_S, "standing"), 1):
            fell |= step.fell
            if count == round(SETTLE_S / env.step_s):
                begin = env.simulation.base_position_w[:, :2].copy()
        distance = np.where(fell, np.inf, np.linalg.norm(env.simulation.base_position_w[:, :2] - begin, axis=1))
        return float(np.percentile(distance, 95, method="inverted_cdf")), percentile_upper(distance, 0.95)

    def crossings(self) -> Crossings:
        """Falls and crossings over kinds and levels of terrain; one robot per tile for every 128 of an evaluation."""
        env = self._env(**crossing_task(self._task, self._seed, max(1, fewer(self._num_envs) // 32)))
        return measure_crossings(env, self._play(env, CROSS_S, "terrain"))

    def _evaluate(self, condition: str, **changes: Any) -> Evaluation:
        self._tell(condition)
        return evaluate(self._act, self._env(**changes), seed=self._seed, duration_s=self._duration_s)

    def _play(self, env: LeggedEnv, duration_s: float, condition: str) -> Iterator[Step]:
        """Play one condition; yields after every control step."""
        self._tell(condition)
        steps = play(self._act, env, seed=self._seed, duration_s=duration_s)
        next(steps)
        return steps

    def _env(self, **changes: Any) -> LeggedEnv:
        return evaluation_env(
            self._task, self._robot, **{"num_envs": fewer(self._num_envs), "threads": self._threads, **changes}
        )


def _plain(values: Any) -> Any:
    """The value with arrays as lists, and None for numbers that are not finite."""
    if isinstance(values, np.ndarray) and values.ndim or isinstance(values, list):
        return [_plain(value) for value in values]
    return float(values) if math.isfinite(values) else None
