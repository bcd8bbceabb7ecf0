"""Continues a run: finds the run, compares its configuration, loads its state and updates its run.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rfx.nn import kernels
from rfx.system.folders import replace_file
from train.runs.checkpoint import checkpoints, newest_checkpoint, set_aside_after, write_checkpoint
from train.runs.disk import Writes
from train.runs.fingerprint import fingerprint, provenance
from train.runs.metrics import MetricsTable
from train.runs.progress import Progress
from train.runs.trainer import Trainer
from train.task.config import TrainConfig
from train.task.errors import InputError, bad_input
from train.task.flat import as_json, flattened, values_of
from train.task.modules import MODULES, foreign_names_of, keep_modules, use_modules

CHECKPOINTS = "checkpoints"
MOST_TOLD = 4  # most differences that a message lists
# Holds seed, provenance, threads, digests of a user's modules and the configuration at the beginning, every
# continuation, and the weights' fingerprints after the first iterations (`beginning`, by iteration) and at the end.
RECORD = "run.json"
OVERRIDES = "overrides"  # key in the record for the command line's overrides
SWEEP = "multirun.yaml"  # file in the folder of a sweep; the folder of a single run has none
BEGINNING = 3  # number of first iterations whose fingerprints are recorded
# FREE keys may differ, because they change no result or are read only when a run begins. FIXED keys may not.
FREE = (
    "name",
    "logger",
    "start_from",
    "resume",
    "resume_overrides",
    "threads",
    "export.onnx",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "scale",
    "scale.workers",
    "scale.threads",
    "scale.address",
)
FIXED = (
    "seed",
    "task",
    "robot",
    "env.num_envs",
    "env.random_start_age",
    "policy.hidden",
    "policy.initial_std",
    "policy.history",
    "policy.critic",
    "policy.activation",
    "policy.network",
)
# Keys that checkpoints of an older rfx do not have, with the values that such checkpoints imply.
ADDED = {"policy.activation": "tanh", "policy.network_kwargs": {}}


class RunCheckpoints:
    """The checkpoints of one run: adds the run's state to the trainer's, saves on time, and loads the newest one.

    table has the metrics so far, best the best policy so far, display the time and the figures shown.
    """

    def __init__(
        self, folder: Path, trainer: Trainer, best: Any, table: MetricsTable, display: Progress, writes: Writes
    ):
        self._folder, self._trainer, self._best = folder, trainer, best
        self._table, self._display, self._writes = table, display, writes
        self._here = provenance()
        self._saved: int | None = None  # steps of the last checkpoint

    def begin(
        self, state: Mapping[str, Any], changed: Mapping[str, Any], overrides: Sequence[str] | None = None
    ) -> None:
        """Begin a run, or go on with it if state is not empty, and record that in run.json.

        state is from load_run. overrides are those of the command line, if the run began on one. Afterwards a
        checkpoint exists.
        """
        config, steps = self._trainer.config, 0
        if state:
            with bad_input("this checkpoint does not fit: "):
                check_meaning(state, self._trainer)
                self._trainer.load_state_dict(state)
                self._best.load_state_dict(state)
            if "ppo.learning_rate" in changed:
                self._trainer.learner.set_learning_rate(config.ppo.learning_rate)
            self._display.go_on(self._trainer.steps, state["run.elapsed_s"], state["run.shown"])
            steps = self._saved = self._trainer.steps
        with self._writes.attempt(RECORD):
            threads = {
                "learner": kernels.num_threads(),
                "environment": getattr(self._trainer.env.unwrapped, "num_threads", None),
            }
            values = {"finished": False, "config": values_of(config), "threads": threads}
            if overrides is not None:
                values[OVERRIDES] = [*overrides]
            if names := foreign_names_of(config, self._trainer.task):
                values[MODULES] = keep_modules(self._folder, names)
            if state:
                moved = {
                    key: [state["run.provenance"].get(key), value]
                    for key, value in self._here.items()
                    if state["run.provenance"].get(key) != value
                }
                if moved:
                    self._writes.tell(
                        "not all is as it was when the checkpoint was written, so going on may not be to the bit: "
                        + _told(moved)
                    )
                values["resumed"] = read_record(self._folder).get("resumed", []) + [
                    {"time": _now(), "steps": steps, "changed": dict(changed), "moved": moved}
                ]
            else:
                values |= {"seed": config.seed, "began": _now(), **self._here}
            update_record(self._folder, values)
        self.save()

    def note_beginning(self) -> None:
        """Write the weights' fingerprint into run.json after each of the first iterations.

        `python -m train.verify` compares these fingerprints.
        """
        if self._trainer.iteration <= BEGINNING:
            with self._writes.attempt(RECORD):
                before = read_record(self._folder).get("beginning", {})
                update_record(
                    self._folder,
                    {"beginning": before | {str(self._trainer.iteration): weights_fingerprint(self._trainer)}},
                )

    def save_if_due(self) -> None:
        """Save a checkpoint every checkpoint_every steps."""
        if self._trainer.due(self._trainer.config.trainer.checkpoint_every):
            self.save()

    def save(self) -> None:
        """Save the current state, unless it is already saved.

        A state after updates that had to skip minibatches is not saved, because it may not be sound.
        """
        trainer, steps = self._trainer, self._trainer.steps
        if steps == self._saved or trainer.skipping:
            return
        with self._writes.attempt("the checkpoint"):
            state = (
                trainer.state_dict()
                | self._best.state_dict()
                | {
                    "run.config": values_of(trainer.config),
                    "run.meaning": meaning_of(trainer),
                    "run.provenance": self._here,
                    "run.metric_rows": self._table.num_rows,
                    "run.elapsed_s": self._display.elapsed_s,
                    "run.shown": self._display.shown,
                }
            )
            write_checkpoint(self._folder / CHECKPOINTS, steps, state, trainer.config.trainer.keep_checkpoints)
            self._saved = steps

    def end(self, finished: bool) -> str:
        """Write the weights' fingerprint into run.json and return it. finished: the run has done all its steps."""
        digest = weights_fingerprint(self._trainer)
        with self._writes.attempt(RECORD):
            update_record(
                self._folder,
                {"finished": finished, "ended": _now(), "steps": self._trainer.steps, "fingerprint": digest},
            )
        return digest


def weights_fingerprint(trainer: Trainer) -> str:
    """The fingerprint of the policy's current weights."""
    return fingerprint(
        {name: values for name, values in trainer.learner.state_dict().items() if name.startswith("policy.")}
    )


def load_run(
    config: TrainConfig, folder: Path, total_steps: int, tell: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The state to go on from, and the changes of the configuration; both are empty for a new run.

    Damaged checkpoints are reported and set aside. Raises InputError if the configuration differs without permission,
    if the run has done all its steps, or if a new run would begin in a folder with another run's checkpoints.
    """
    if not config.resume:
        if checkpoints(folder / CHECKPOINTS):
            raise InputError(
                f"{folder} holds the checkpoints of an earlier run: go on with it, resume={folder}, or choose another folder"
            )
        return {}, {}
    if not checkpoints(folder / CHECKPOINTS):
        tell(f"{folder} was interrupted before it began: it begins now")
        return {}, {}
    with bad_input():
        path, state = newest_checkpoint(folder / CHECKPOINTS, tell)
    if changed := changes(state["run.config"], config):
        tell(f"from here on {_told(changed)}")
    if state["steps"] >= total_steps and read_record(folder).get("finished"):
        raise InputError(
            f"{folder} has finished, after {state['steps']:,} steps; to train it further give a larger "
            "trainer.total_steps"
        )
    set_aside_after(path)
    return state, changed


def start_from(trainer: Trainer, run: Path, tell: Callable[[str], None]) -> int:
    """Start a new trainer with the network and normalizers of another run's newest checkpoint; returns its steps.

    Raises InputError if there is no checkpoint, if its network does not fit, or if its observations or actions have
    another meaning than this run's.
    """
    with bad_input(f"start_from={run}: "):
        _, state = newest_checkpoint(run / CHECKPOINTS, tell)
        check_meaning(state, trainer)
        was, now = ADDED | state["run.config"], values_of(trainer.config)
        keys = "policy.activation", "policy.network"
        if differing := {key: [was.get(key), now[key]] for key in keys if was.get(key) != now[key]}:
            raise ValueError(
                f"its network computes something else with the same weights: {_told(differing)}. Give what "
                "it was trained with"
            )
        trainer.start_from(state)
    return state["steps"]


def check_meaning(state: Mapping[str, Any], trainer: Trainer) -> None:
    """Raises ValueError if a checkpoint's observations or actions have another meaning than the trainer's.

    The message lists the differences.
    """
    if "run.meaning" not in state:
        raise ValueError(
            "its checkpoint is of an earlier rfx, which did not note what its numbers mean: train anew, or go on with that rfx"
        )
    was, now = flattened(state["run.meaning"]), flattened(meaning_of(trainer))
    if differing := _differing(was, now):
        first = dict(list(differing.items())[:MOST_TOLD])
        more = f"; and {len(differing) - MOST_TOLD} more" if len(differing) > MOST_TOLD else ""
        raise ValueError(
            f"its network was trained for something else: {_told(first)}{more}. Give what it was trained for, or train anew"
        )


def meaning_of(trainer: Trainer) -> dict[str, Any]:
    """The task's description of its observations and actions, as JSON types: tuples become lists."""
    return as_json(trainer.task.meaning())


def find_run(given: str, runs: Path, key: str = "resume") -> Path:
    """The folder of the run that resume=given, or another key, names.

    given is a path, or `latest`: the run under runs that wrote the newest checkpoint. The runs of a sweep are never the
    latest. Raises InputError if there is no such run.
    """
    if given == "latest":
        sweeps = {path.parent for path in runs.glob(f"**/{SWEEP}")}
        folders = [folder for folder in runs.glob(f"**/{CHECKPOINTS}") if not sweeps & {*folder.parents}]
        found = [path for folder in folders for path in checkpoints(folder)]
        if not found:
            raise InputError(f"{key}=latest: no run under {runs} has a checkpoint; give the run's folder, {key}=PATH")
        return max(found, key=lambda path: path.stat().st_mtime).parent.parent
    folder = Path(given)
    if folder.parent.name == CHECKPOINTS:
        raise InputError(
            f"{key}={given} is one checkpoint: give its run's folder, {folder.parent.parent}, for its newest; "
            "to go back further, move newer ones elsewhere"
        )
    if not any((folder / name).exists() for name in (CHECKPOINTS, RECORD, ".hydra")):
        what = "holds no run" if folder.is_dir() else "is no folder"
        raise InputError(f"{key}={given}: it {what}; expected the folder of a run, such as runs/DATE_TIME, or latest")
    return folder


def changes(was: Mapping[str, Any], config: TrainConfig) -> dict[str, list[Any]]:
    """[was, is] of the keys whose values differ between a checkpoint and config, except keys that change no result.

    was is values_of the checkpoint's configuration. Raises InputError if config does not allow differences
    (resume_overrides), or if a key that can no longer change differs.
    """
    now = values_of(config)
    was = {key: meaning for key, meaning in ADDED.items() if key in now} | dict(was)
    differing = {key: pair for key, pair in _differing(was, now).items() if key not in FREE}
    if differing and not config.resume_overrides:
        raise InputError(
            f"the configuration differs from the checkpoint's: {_told(differing)}. Give it as it was "
            f"({' '.join(f'{key}={_as_override(old)}' for key, (old, _) in differing.items())}), or add resume_overrides=true"
        )
    if fixed := {key: pair for key, pair in differing.items() if key.startswith(FIXED)}:
        raise InputError(
            f"{_told(fixed)}: this cannot change any more, even with resume_overrides=true, as what is "
            "begun with it is in the checkpoint; leave it out, or train anew"
        )
    return differing


def read_record(folder: Path) -> dict[str, Any]:
    """The content of run.json in folder; empty if the file is missing or incomplete.

    A run can do without it, because the checkpoints have all that a run needs.
    """
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}


def use_modules_of(run: Path, tell: Callable[[str], None], *, own: bool = True) -> None:
    """Call use_modules with the modules in the run's record."""
    use_modules(run, read_record(run).get(MODULES, {}), tell, own=own)


def update_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Add values to run.json in folder. Raises OSError."""
    replace_file(folder / RECORD, (json.dumps(read_record(folder) | values, indent=2) + "\n").encode())


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """[was, is] of the keys whose JSON values differ. Two NaN values count as equal."""
    pairs = {key: [was.get(key), now.get(key)] for key in sorted(was.keys() | now.keys())}
    return {key: [old, new] for key, (old, new) in pairs.items() if old != new and json.dumps(old) != json.dumps(new)}


def _told(differing: Mapping[str, list[Any]]) -> str:
    return "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in differing.items())


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _as_override(value: Any) -> str:
    """The value as written on the command line."""
    return "null" if value is None else json.dumps(value, separators=(",", ":")).strip('"')
