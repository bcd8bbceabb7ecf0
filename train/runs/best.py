"""Keeps the best policy of a run: evaluates during training, saves the best on disk, and evaluates again at the end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygrad import Tensor
from tinygrad.nn.state import get_state_dict

import rfx
from rfx.export.to_onnx import export_onnx
from rfx.robot.modules import digests
from train.runs.disk import Writes
from train.runs.progress import Progress, millions
from train.runs.trainer import Trainer
from train.task.errors import InputError, one_line
from train.task.modules import foreign_names_of
from train.task.task import Judgement


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A copy of the policy after some steps, with its own weights and statistics."""

    policy: rfx.LoadedPolicy
    steps: int

    @classmethod
    def of(cls, trainer: Trainer) -> Snapshot:
        """A snapshot of the trainer's current policy."""
        normalizer = rfx.ObservationNormalizer.from_dict(trainer.normalizer.to_dict())
        return cls(policy=rfx.LoadedPolicy(trainer.policy.actor(), normalizer=normalizer), steps=trainer.steps)

    @classmethod
    def restored(cls, trainer: Trainer, state: Mapping[str, Any]) -> Snapshot:
        """The snapshot in a state_dict, for a policy like the trainer's."""
        actor, normalizer = trainer.policy.actor(), rfx.ObservationNormalizer.from_dict(state["best.normalizer"])
        for name, tensor in get_state_dict(actor).items():
            tensor.assign(Tensor(state[f"best.policy.{name}"])).realize()
        return cls(policy=rfx.LoadedPolicy(actor, normalizer=normalizer), steps=state["best.steps"])

    def state_dict(self) -> dict[str, Any]:
        """Weights (arrays), statistics and steps, by name."""
        weights = {
            f"best.policy.{name}": tensor.numpy().copy() for name, tensor in get_state_dict(self.policy.policy).items()
        }
        return weights | {"best.normalizer": self.policy.normalizer.to_dict(), "best.steps": self.steps}


class BestPolicy:
    """The best policy so far by the task's short evaluations, in memory and in folder/policy."""

    def __init__(self, trainer: Trainer, folder: Path, display: Progress, writes: Writes):
        self.trainer, self.folder, self.path = trainer, folder, folder / "policy"
        self.onnx = folder / "policy.onnx" if trainer.config.export.onnx else None  # path of the export at the end
        self.judgement: Judgement | None = None  # judgement of the saved policy
        self.saved: Snapshot | None = None
        self._last: Snapshot | None = None
        self._display, self._writes = display, writes

    def consider(self, after_step: Callable[[], None] | None = None) -> Judgement:
        """Evaluate the current policy, and save it if it is the best so far."""
        self._display.status("evaluating")
        self._last = Snapshot.of(self.trainer)
        judgement = self.trainer.task.judge(self._last.policy, after_step=after_step)
        better = self.judgement is None or judgement.score <= self.judgement.score
        if better:
            self.saved, self.judgement = self._last, judgement
            with self._writes.attempt("the policy"):
                self._write()
        figures = "  ".join(f"{figure.label} {figure.text}" for figure in judgement.figures if figure.main)
        self._display.message(
            f"[dim]evaluated[/] {millions(self._last.steps):>7}  {figures}  [dim]{'saved' if better else ''}[/]",
            fold=True,
        )
        return judgement

    def choose(self, after_step: Callable[[], None]) -> None:
        """Evaluate the best and the last policy at length, and save the better one with its figures.

        Exports it too if the config asks for that. Raises InputError if the disk does not accept a file.
        """
        candidates = [self.saved] if self.saved is self._last else [self.saved, self._last]
        judgements = []
        for candidate in candidates:
            self._display.status(f"final evaluation of the policy from {millions(candidate.steps)} steps")
            judgements.append(self.trainer.task.judge(candidate.policy, final=True, after_step=after_step))
        self.judgement, self.saved = min(zip(judgements, candidates), key=lambda pair: pair[0].score)
        try:
            self._write()
            (self.folder / "evaluation.json").write_text(json.dumps(self.judgement.to_dict(), indent=2) + "\n")
        except OSError as error:
            raise InputError(
                f"training is done, but its policy could not be written: {one_line(error)}; make room, then "
                f"resume={self.folder}"
            ) from error
        if self.onnx is not None:
            try:
                export_onnx(self.path, self.onnx)
            except (OSError, ValueError) as error:
                self._writes.tell(f"the policy is saved, but could not be written as ONNX: {one_line(error)}")

    def save_unless_saved(self) -> None:
        """Save the current policy if none was saved yet: it is better than no policy."""
        if self.saved is None:
            self.saved = Snapshot.of(self.trainer)
            with self._writes.attempt("the policy"):
                self._write()

    def state_dict(self) -> dict[str, Any]:
        """The best policy and its judgement, by name; empty before the first evaluation."""
        return (
            self.saved.state_dict() | {"best.judgement": dataclasses.asdict(self.judgement)} if self.judgement else {}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the entries that state_dict returned; state may have other entries too."""
        if "best.judgement" in state:
            self.saved, self.judgement = (
                Snapshot.restored(self.trainer, state),
                Judgement.restored(state["best.judgement"]),
            )

    def _write(self) -> None:
        config = self.trainer.config
        info = {
            "task": config.task,
            "robot": config.robot,
            "name": config.title,
            "seed": config.seed,
            "steps": self.saved.steps,
            "wall_s": round(self._display.elapsed_s, 1),
            "evaluation": self.judgement.to_dict() if self.judgement else None,
            "env": dataclasses.asdict(config.env),
        }
        if modules := digests(foreign_names_of(config, self.trainer.task)):
            info["modules"] = modules
        self.trainer.task.export(self.saved.policy, self.path, info)
