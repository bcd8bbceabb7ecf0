"""What the batched MuJoCo tasks share: simulations, episodes, autoreset, info.

A task's own numbers are in the modules beside this one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from mujoco.batch import Batch, SimulationError

from envs.legged.state import load_arrays
from rfx.drivers.mjcf import quiet_mujoco
from rfx.robot.state import FAILED, Array
from rfx.settings.terms import nearest

Rows = slice | Array
ALL = slice(None)
ASSETS = (
    Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
)  # found without importing that package, which needs an extra


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What Gymnasium's constructor takes too, by the same names; a task adds its own, and says its defaults."""

    xml_file: str  # of Gymnasium's assets, or a path
    frame_skip: int  # physics steps of one environment step


class BatchedMujocoEnv(VectorEnv):
    """num_envs simulations of one of Gymnasium's MuJoCo tasks on a thread pool, equal to 1e-6 to a SyncVectorEnv of
    Gymnasium's own.

    Spaces, options, observation, reward, termination, reset noise and info are those of the task in Gymnasium. With
    reset(seed=s) environment i draws as Gymnasium's does after reset(seed=s + i). Same-step autoreset. A simulation
    that MuJoCo gives up, or whose observation is not finite, is truncated with a reward of 0, flagged in info[FAILED]
    and started anew. A subclass gives the class of its options and the methods below that raise NotImplementedError.
    Raises TypeError for an option that the task does not have.
    """

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
    options_type: ClassVar[type[Options]]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int = 1000,
        threads: int = 0,
        render_mode: str | None = None,
        **options: Any,
    ):
        if render_mode is not None:
            raise ValueError(
                f"got render_mode {render_mode!r}; expected None: gymnasium.make draws a single environment of the same task"
            )
        fields = [field.name for field in dataclasses.fields(self.options_type)]
        for name in options:
            if name not in fields:
                raise TypeError(f"{type(self).__name__} has no option {name!r}: {nearest(name, fields)}")
        self.options, self.num_envs, self.max_episode_steps = self.options_type(**options), num_envs, max_episode_steps
        with quiet_mujoco():  # of an attribute that half_cheetah.xml still has
            self.model = mujoco.MjModel.from_xml_path(str(model_path(self.options.xml_file)))
        self.step_s = self.model.opt.timestep * self.options.frame_skip
        self.batch = self._make_batch(threads)
        self.qpos, self.qvel, self.ctrl = (self.batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self.batch.reset()
        self.init_qpos, self.init_qvel = self.qpos[0].copy(), self.qvel[0].copy()
        self.bind()
        self._steps = np.zeros(num_envs, np.int64)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._everywhere = np.ones(num_envs, bool)
        bounds = self.model.actuator_ctrlrange.astype(np.float32)
        self.single_action_space = gymnasium.spaces.Box(bounds[:, 0], bounds[:, 1], dtype=np.float32)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, self.observe(ALL).shape[1:], np.float64)
        self.action_space, self.observation_space = (
            batch_space(space, num_envs) for space in (self.single_action_space, self.single_observation_space)
        )

    @property
    def num_threads(self) -> int:
        """How many threads step the physics; no result depends on it."""
        return self.batch.nthread

    def bind(self) -> None:
        """Bind what the task reads beside qpos, qvel and ctrl. Called once."""

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """qpos (nq,) and qvel (nv,) that an episode begins with, drawn from rng in Gymnasium's order."""
        raise NotImplementedError

    def noisy_start(self, rng: np.random.Generator, scale: float, *, normal: bool = False) -> tuple[Array, Array]:
        """The model's own qpos and qvel with uniform noise within scale, of the velocities normal noise where they have
        that.
        """
        qpos = self.init_qpos + rng.uniform(-scale, scale, self.model.nq)
        noise = scale * rng.standard_normal(self.model.nv) if normal else rng.uniform(-scale, scale, self.model.nv)
        return qpos, self.init_qvel + noise

    def observe(self, rows: Rows) -> Array:
        """Observations (n, D), float64, of environments rows."""
        raise NotImplementedError

    def remember(self) -> Any:
        """What `outcome` must know of the state before the step."""
        return None

    def outcome(self, action: Array, before: Any) -> tuple[Array, Array, dict[str, Array]]:
        """Reward (N,), terminated (N,) and info of a step. action (N, nu); before is what `remember` returned."""
        raise NotImplementedError

    def start_info(self, rows: Rows) -> dict[str, Array]:
        """Info of environments rows that have just begun an episode, an array of n rows each."""
        return {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every environment. seed is that of the first, the others' are the numbers after it."""
        super().reset(seed=seed)
        if seed is not None:
            self._rngs = [
                np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed + i))) for i in range(self.num_envs)
            ]
        self._begin(np.arange(self.num_envs))
        return self.observe(ALL), self._told(self.start_info(ALL), self._everywhere)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One step of every environment. actions (N, nu) within the action space; MuJoCo clips them. Rewards are
        float64.
        """
        action = np.asarray(actions)  # of the type that it came in, as Gymnasium computes control costs
        if action.shape != self.ctrl.shape:
            raise ValueError(f"got actions of shape {action.shape}; expected {self.ctrl.shape}")
        before = self.remember()
        self.ctrl[...] = action
        failed = np.zeros(self.num_envs, bool)
        try:
            with quiet_mujoco():
                self._advance()
        except SimulationError as error:
            failed[error.ids] = True
        observation = self.observe(ALL)
        reward, terminated, info = self.outcome(action, before)
        failed |= ~np.isfinite(observation.sum(axis=1))
        self._steps += 1
        truncated = self._steps >= self.max_episode_steps
        if failed.any():
            observation, reward = np.nan_to_num(observation, posinf=0.0, neginf=0.0), np.where(failed, 0.0, reward)
            terminated, truncated = terminated & ~failed, truncated | failed
        done = terminated | truncated
        if not done.any():
            return observation, reward, terminated, truncated, self._told(info, self._everywhere)
        ids = np.flatnonzero(done)
        final = np.full(self.num_envs, None, dtype=object)
        for i in ids:
            final[i] = observation[i].copy()
        told = ({} if done.all() else self._told(info, ~done)) | {
            "final_obs": final,
            "_final_obs": done,
            "final_info": self._told(info, done),
            "_final_info": done,
        }
        if failed.any():
            told |= {FAILED: failed, f"_{FAILED}": done}
        self._begin(ids)
        observation[ids] = self.observe(ids)
        for name, values in self.start_info(ids).items():
            own = told.setdefault(name, np.zeros((self.num_envs, *values.shape[1:])))
            own = told[name] = own.copy()
            own[ids], told[f"_{name}"] = values, told.get(f"_{name}", np.zeros(self.num_envs, bool)) | done
        return observation, reward, terminated, truncated, told

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: arrays (copies), and the random generators' states."""
        return {name: array.copy() for name, array in self.arrays().items()} | {
            "rngs": [rng.bit_generator.state for rng in self._rngs]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned, instead of a reset.

        Raises ValueError for a state of another task or num_envs.
        """
        load_arrays(self.arrays(), {name: value for name, value in state.items() if name != "rngs"})
        for rng, value in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = value

    def arrays(self) -> dict[str, Array]:
        """Live arrays of the state, by name."""
        return {"mujoco": self.batch.state, "steps": self._steps}

    def _make_batch(self, threads: int) -> Batch:
        return Batch(self.model, self.num_envs, threads)

    def _advance(self) -> None:
        """Let one environment step pass."""
        self.batch.step(nstep=self.options.frame_skip)

    def _begin(self, ids: Array) -> None:
        """Start environments ids (n,), sorted, anew, each with its own generator's noise."""
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        for i in ids:
            self.qpos[i], self.qvel[i] = self.start(self._rngs[i])
        self.batch.forward(ids)
        self._steps[ids] = 0

    def _told(self, info: Mapping[str, Array], rows: Array) -> dict[str, Any]:
        """info in Gymnasium's layout: every array beside the mask of the rows that it holds for."""
        return {**info, **{f"_{name}": rows for name in info}}


def model_path(xml_file: str) -> Path:
    """Where a model is: one of Gymnasium's assets by name, or a path that begins with a dot, a slash or ~.

    Raises OSError if it is not there.
    """
    path = Path(xml_file).expanduser() if xml_file.startswith((".", "/", "~")) else ASSETS / xml_file
    if not path.is_file():
        raise FileNotFoundError(
            f"got xml_file {xml_file!r}, and there is no {path}; expected an asset of Gymnasium's, or a path"
        )
    return path
