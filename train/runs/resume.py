"""Going on with a run: which one, under which configuration, from which state, and what its run.json says about it."""

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
MOST_TOLD = 4  # differences that a message names
# Seed, provenance, threads, digests of a user's modules and configuration of the beginning, every resumption, the
# weights' fingerprint after the first iterations (`beginning`, by iteration) and at the end.
RECORD = "run.json"
OVERRIDES = "overrides"  # of the command line, in the record
SWEEP = "multirun.yaml"  # in the folder of a sweep, and in no run's
BEGINNING = 3  # iterations
# Differences that change no result, and those that nothing after a run's beginning reads.
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
# Keys that checkpoints of an earlier rfx lack, and what they mean there.
ADDED = {"policy.activation": "tanh", "policy.network_kwargs": {}}


class RunCheckpoints:
    """The checkpoints of one run: what they hold beside the trainer's state, when one is due, and going on from the
    newest.

    table has the metrics so far, best the best policy so far, display the time and the figures shown.
    """

    def __init__(
        self, folder: Path, trainer: Trainer, best: Any, table: MetricsTable, display: Progress, writes: Writes
    ):
        self._folder, self._trainer, self._best = folder, trainer, best
        self._table, self._display, self._writes = table, display, writes
        self._here = provenance()
        self._saved: int | None = None  # steps

    def begin(
        self, state: Mapping[str, Any], changed: Mapping[str, Any], overrides: Sequence[str] | None = None
    ) -> None:
        """Begin a run, or with a state of load_run go on with it, and write that down.

        overrides are what the command line said of the run, if one began it. From here on there is a checkpoint.
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
        """Write the weights' fingerprint into run.json after each of the first iterations, for `python -m
        train.verify`.
        """
        if self._trainer.iteration <= BEGINNING:
            with self._writes.attempt(RECORD):
                before = read_record(self._folder).get("beginning", {})
                update_record(
                    self._folder,
                    {"beginning": before | {str(self._trainer.iteration): weights_fingerprint(self._trainer)}},
                )

    def save_if_due(self) -> None:
        """Save every checkpoint_every steps."""
        if self._trainer.due(self._trainer.config.trainer.checkpoint_every):
            self.save()

    def save(self) -> None:
        """Save the state as it is, unless it is saved already, or not sound: after updates that had to skip
        minibatches.
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
        """Write the weights' fingerprint into run.json; returns it. finished: there is nothing left to do."""
        digest = weights_fingerprint(self._trainer)
        with self._writes.attempt(RECORD):
            update_record(
                self._folder,
                {"finished": finished, "ended": _now(), "steps": self._trainer.steps, "fingerprint": digest},
            )
        return digest


def weights_fingerprint(trainer: Trainer) -> str:
    """The fingerprint of the policy's weights as they are now."""
    return fingerprint(
        {name: values for name, values in trainer.learner.state_dict().items() if name.startswith("policy.")}
    )


def load_run(
    config: TrainConfig, folder: Path, total_steps: int, tell: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The state to go on from, and what differs in the configuration; both empty for a run that begins.

    Checkpoints that are damaged are told of and set aside. Raises InputError when the configuration differs and may
    not, when there is nothing left to do, or when a run would begin among another's checkpoints.
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
    """Give a trainer that has not begun the network and normalizers of another run's newest checkpoint; returns the
    steps behind them.

    Raises InputError where there is no checkpoint, its network does not fit, or what it reads and moves is not what
    this run's does.
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
    """Raises ValueError where observations or actions of a checkpoint's task and the trainer's mean something else,
    saying what differs.
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
    """What the task says its numbers mean, as a checkpoint gives it back: JSON makes lists of tuples."""
    return as_json(trainer.task.meaning())


def find_run(given: str, runs: Path, key: str = "resume") -> Path:
    """The run's folder that resume=given, or another key, means: a path, or `latest`, the one under runs that wrote the
    newest checkpoint.

    The runs of a sweep are its own: none of them is the latest. Raises InputError where there is no run.
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
    """[was, is] of the keys that differ between a checkpoint's values_of and config, those left out that change no
    result.

    Raises InputError where config does not allow differences (resume_overrides), or for one that cannot be made any
    more.
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
    """What run.json in folder says; empty where it is not there or not whole, because checkpoints have all that a run
    needs.
    """
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}


def use_modules_of(run: Path, tell: Callable[[str], None], *, own: bool = True) -> None:
    """As use_modules, with what the run's record says."""
    use_modules(run, read_record(run).get(MODULES, {}), tell, own=own)


def update_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Add values to run.json in folder. Raises OSError."""
    replace_file(folder / RECORD, (json.dumps(read_record(folder) | values, indent=2) + "\n").encode())


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """[was, is] of the keys whose JSON values differ. NaN, which equals nothing, is the same as NaN."""
    pairs = {key: [was.get(key), now.get(key)] for key in sorted(was.keys() | now.keys())}
    return {key: [old, new] for key, (old, new) in pairs.items() if old != new and json.dumps(old) != json.dumps(new)}


def _told(differing: Mapping[str, list[Any]]) -> str:
    return "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in differing.items())


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _as_override(value: Any) -> str:
    """The value as it is written on the command line."""
    return "null" if value is None else json.dumps(value, separators=(",", ":")).strip('"')
