"""The best policy of a run so far: judged while training goes on, kept on disk, and judged again at the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfx
from tinygrad import Tensor
from tinygrad.nn.state import get_state_dict
from train.runs.disk import Writes
from train.errors import InputError, one_line
from train.judge.evaluation import Act, Evaluation, PolicyAct, evaluate, evaluation_env, evaluation_seed
from train.runs.progress import Progress, millions
from train.trainer import Trainer

TRAINING_SEED, FINAL_SEED = 1, 2  # of evaluations that choose a policy; `python -m train.evaluate` judges it on others, seed 0 by default


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A policy as it was after some steps, with weights and statistics of its own."""

    policy: rfx.LoadedPolicy
    steps: int

    @classmethod
    def of(cls, trainer: Trainer) -> Snapshot:
        """The trainer's policy as it is now."""
        normalizer = rfx.ObservationNormalizer.from_dict(trainer.normalizer.to_dict())
        return cls(policy=rfx.LoadedPolicy(trainer.policy.actor(), robot_config=trainer.robot, normalizer=normalizer), steps=trainer.steps)

    @classmethod
    def restored(cls, trainer: Trainer, state: Mapping[str, Any]) -> Snapshot:
        """The one that state_dict told, of a policy like the trainer's."""
        actor, normalizer = trainer.policy.actor(), rfx.ObservationNormalizer.from_dict(state["best.normalizer"])
        for name, tensor in get_state_dict(actor).items():
            tensor.assign(Tensor(state[f"best.policy.{name}"])).realize()
        return cls(policy=rfx.LoadedPolicy(actor, robot_config=trainer.robot, normalizer=normalizer), steps=state["best.steps"])

    def state_dict(self) -> dict[str, Any]:
        """Weights (arrays), statistics and steps, by name."""
        weights = {f"best.policy.{name}": tensor.numpy().copy() for name, tensor in get_state_dict(self.policy.policy).items()}
        return weights | {"best.normalizer": self.policy.normalizer.to_dict(), "best.steps": self.steps}

    @property
    def act(self) -> Act:
        """Deterministic actions (N, num_joints) for observations (N, max_state_dim)."""
        return PolicyAct(self.policy)


class BestPolicy:
    """The best policy so far, as judged by short evaluations: in memory, and in folder/policy."""

    def __init__(self, trainer: Trainer, folder: Path, display: Progress, writes: Writes):
        self.trainer, self.folder, self.path = trainer, folder, folder / "policy"
        self.evaluation: Evaluation | None = None  # of saved
        self.saved: Snapshot | None = None
        self._last: Snapshot | None = None
        self._display, self._writes = display, writes
        self._env = self._new_env(trainer.config.trainer.evaluation_envs)

    def consider(self, after_step: Callable[[], None] | None = None) -> dict[str, float]:
        """Evaluate the policy as it is now, and save it if it is the best so far. Returns metrics by tag."""
        self._display.status("evaluating")
        self._last = Snapshot.of(self.trainer)
        evaluation = evaluate(self._last.act, self._env, seed=TRAINING_SEED, duration_s=self.trainer.config.trainer.evaluation_s,
                              after_step=after_step)
        better = self.evaluation is None or evaluation.score <= self.evaluation.score
        if better:
            self.saved, self.evaluation = self._last, evaluation
            with self._writes.attempt("the policy"):
                self._write()
        errors = (f"falls {evaluation.falls_per_episode:.2f}  error vx {evaluation.error_vx:.3f} vy {evaluation.error_vy:.3f} "
                  f"yaw {evaluation.error_yaw_rate:.3f}")
        self._display.message(f"[dim]evaluated[/] {millions(self._last.steps):>7}  {errors}  [dim]{'saved' if better else ''}[/]")
        return {f"evaluation/{name}": value for name, value in evaluation.to_dict().items() if isinstance(value, (int, float))}

    def choose(self, after_step: Callable[[], None]) -> None:
        """Judge the best and the last policy by a longer evaluation with more robots, and save the better one with its figures.

        Raises InputError where the disk does not take it.
        """
        settings = self.trainer.config.trainer
        env = self._new_env(settings.final_evaluation_envs)
        candidates = [self.saved] if self.saved is self._last else [self.saved, self._last]
        evaluations = []
        for candidate in candidates:
            self._display.status(f"final evaluation of the policy from {millions(candidate.steps)} steps")
            evaluations.append(evaluate(candidate.act, env, seed=FINAL_SEED, duration_s=settings.final_evaluation_s, after_step=after_step))
        self.evaluation, self.saved = min(zip(evaluations, candidates), key=lambda pair: pair[0].score)
        try:
            self._write()
            (self.folder / "evaluation.json").write_text(json.dumps(self.evaluation.to_dict(), indent=2) + "\n")
        except OSError as error:
            raise InputError(f"training is done, but its policy could not be written: {one_line(error)}; make room, then "
                             f"resume={self.folder}") from error

    def save_unless_saved(self) -> None:
        """Save the policy as it is now if none was saved yet: better than nothing."""
        if self.saved is None:
            self.saved = Snapshot.of(self.trainer)
            with self._writes.attempt("the policy"):
                self._write()

    def state_dict(self) -> dict[str, Any]:
        """The best policy and its evaluation, by name; nothing before the first evaluation."""
        return self.saved.state_dict() | {"best.evaluation": dataclasses.asdict(self.evaluation)} if self.evaluation else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict returned, among other entries."""
        if "best.evaluation" in state:
            self.saved, self.evaluation = Snapshot.restored(self.trainer, state), Evaluation(**state["best.evaluation"])

    def _write(self) -> None:
        config, policy = self.trainer.config, self.saved.policy
        info = {"robot": config.robot, "seed": config.seed, "steps": self.saved.steps, "wall_s": round(self._display.elapsed_s, 1),
                "evaluation": self.evaluation.to_dict() if self.evaluation else None, "task": dataclasses.asdict(config.env)}
        policy.policy.save(self.path, robot_config=policy.robot_config, normalizer=policy.normalizer, training_info=info)

    def _new_env(self, num_envs: int):
        config = self.trainer.config
        terrain = config.env.terrain and config.env.terrain.for_evaluation(evaluation_seed(TRAINING_SEED))
        return evaluation_env(config.env, self.trainer.robot, num_envs=num_envs, threads=config.threads, terrain=terrain)
