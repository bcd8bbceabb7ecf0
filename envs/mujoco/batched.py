"""The base of the batched MuJoCo tasks: simulations, episodes, autoreset and info.

The tasks themselves are in the modules beside this one.
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
# Found by path, because importing that package needs an extra.
ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments with the names of Gymnasium's constructors; a task adds its own arguments, and sets the defaults."""

    xml_file: str  # one of Gymnasium's assets, or a path
    frame_skip: int  # physics steps in one environment step


class BatchedMujocoEnv(VectorEnv):
    """num_envs simulations of one of Gymnasium's MuJoCo tasks on a thread pool.

    Results equal a SyncVectorEnv of Gymnasium's own task to 1e-6: the same spaces, options, observations, rewards,
    termination, reset noise and info. After reset(seed=s), environment i draws the same numbers as Gymnasium's
    environment after reset(seed=s + i). Autoreset happens in the same step. A simulation that MuJoCo gives up, or whose
    observation is not finite, is truncated with a reward of 0, flagged in info[FAILED] and started anew.

    A subclass sets options_type, and defines the methods below that raise NotImplementedError. Raises ValueError for a
    render_mode, and TypeError for an option that the task does not have.
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
        with quiet_mujoco():  # half_cheetah.xml has an obsolete attribute
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
        """How many threads step the physics; results do not depend on this number."""
        return self.batch.nthread

    def bind(self) -> None:
        """Bind the MuJoCo fields that the task reads, besides qpos, qvel and ctrl. Called once."""

    def start(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw the first qpos (nq,) and qvel (nv,) of an episode from rng, in Gymnasium's order."""
        raise NotImplementedError

    def noisy_start(self, rng: np.random.Generator, scale: float, *, normal: bool = False) -> tuple[Array, Array]:
        """Add uniform noise within +- scale to the model's qpos and qvel; with normal, qvel gets normal noise."""
        qpos = self.init_qpos + rng.uniform(-scale, scale, self.model.nq)
        noise = scale * rng.standard_normal(self.model.nv) if normal else rng.uniform(-scale, scale, self.model.nv)
        return qpos, self.init_qvel + noise

    def observe(self, rows: Rows) -> Array:
        """The observations (n, D), float64, of the environments in rows."""
        raise NotImplementedError

    def remember(self) -> Any:
        """Return what `outcome` needs from the state before the step."""
        return None

    def outcome(self, action: Array, before: Any) -> tuple[Array, Array, dict[str, Array]]:
        """The reward (N,), terminated (N,) and info of a step. action (N, nu); before is the result of `remember`."""
        raise NotImplementedError

    def start_info(self, rows: Rows) -> dict[str, Array]:
        """The info of the environments in rows, which have just begun an episode: arrays of n rows."""
        return {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every environment. The first one uses seed, the others seed + 1, seed + 2, ..."""
        super().reset(seed=seed)
        if seed is not None:
            self._rngs = [
                np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed + i))) for i in range(self.num_envs)
            ]
        self._begin(np.arange(self.num_envs))
        return self.observe(ALL), self._told(self.start_info(ALL), self._everywhere)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take one step in every environment. actions (N, nu); MuJoCo clips them to the action space.

        Rewards are float64.
        """
        action = np.asarray(actions)  # keeps the dtype, because Gymnasium computes control costs in it
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
        """Everything that the next step depends on: copies of arrays, and the random generators' states."""
        return {name: array.copy() for name, array in self.arrays().items()} | {
            "rngs": [rng.bit_generator.state for rng in self._rngs]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state that state_dict returned; no reset is needed.

        Raises ValueError for a state of another task or num_envs.
        """
        load_arrays(self.arrays(), {name: value for name, value in state.items() if name != "rngs"})
        for rng, value in zip(self._rngs, state["rngs"], strict=True):
            rng.bit_generator.state = value

    def arrays(self) -> dict[str, Array]:
        """The live arrays of the state, by name."""
        return {"mujoco": self.batch.state, "steps": self._steps}

    def _make_batch(self, threads: int) -> Batch:
        return Batch(self.model, self.num_envs, threads)

    def _advance(self) -> None:
        """Step the physics through one environment step."""
        self.batch.step(nstep=self.options.frame_skip)

    def _begin(self, ids: Array) -> None:
        """Start environments ids (n,), sorted, anew, each with noise from its own generator."""
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        for i in ids:
            self.qpos[i], self.qvel[i] = self.start(self._rngs[i])
        self.batch.forward(ids)
        self._steps[ids] = 0

    def _told(self, info: Mapping[str, Array], rows: Array) -> dict[str, Any]:
        """Put info into Gymnasium's layout, where each array has a mask of the rows for which it is valid."""
        return {**info, **{f"_{name}": rows for name in info}}


def model_path(xml_file: str) -> Path:
    """The path of a model: one of Gymnasium's assets by name, or a path that begins with a dot, a slash or ~.

    Raises FileNotFoundError, an OSError, if there is no such file.
    """
    path = Path(xml_file).expanduser() if xml_file.startswith((".", "/", "~")) else ASSETS / xml_file
    if not path.is_file():
        raise FileNotFoundError(
            f"got xml_file {xml_file!r}, and there is no {path}; expected an asset of Gymnasium's, or a path"
        )
    return path
