"""Policies kept during training, each with its time.

A rival's policies are arrays. Ours are the checkpoints of its run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy

import rfx
from rfx.policy.actor import Actor
from rfx.policy.normalizer import ObservationNormalizer
from rfx.robot.state import Array
from rfx.system.folders import replace_file
from train.judge.play import Act, PolicyAct
from train.runs.checkpoint import ARRAYS, checkpoints, read_checkpoint
from train.runs.resume import CHECKPOINTS

SNAPSHOTS = "snapshots"
ACTIVATIONS = {"tanh": np.tanh, "elu": lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A rival's deterministic policy in NumPy.

    It computes (x - mean) * scale, clips this to +-clip, and runs the layers; the last layer is linear. layers are
    pairs of weight (out, in) and bias (out,). mean and scale (D,) belong to the first D columns of an observation.
    """

    layers: Sequence[tuple[Array, Array]]
    mean: Array
    scale: Array
    clip: float
    activation: str

    def __call__(self, observation: Array) -> Array:
        """Actions (N, A), float32, for observations (N, D or more)."""
        x = np.clip((observation[:, : len(self.mean)] - self.mean) * self.scale, -self.clip, self.clip).astype(
            np.float32
        )
        for index, (weight, bias) in enumerate(self.layers, 1):
            x = x @ weight.T + bias
            if index < len(self.layers):
                x = ACTIVATIONS[self.activation](x)
        return x

    def save(self, path: Path) -> None:
        """Write a .safetensors file."""
        arrays = {"mean": self.mean, "scale": self.scale}
        for index, (weight, bias) in enumerate(self.layers):
            arrays |= {f"{index}.weight": weight, f"{index}.bias": bias}
        data = safetensors.numpy.save(
            {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()},
            {"activation": self.activation, "clip": str(self.clip)},
        )
        replace_file(path, data)

    @classmethod
    def load(cls, path: Path) -> Network:
        """Read a network that save wrote."""
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
        layers = [(arrays[f"{index}.weight"], arrays[f"{index}.bias"]) for index in range((len(arrays) - 2) // 2)]
        return cls(
            layers=layers,
            mean=arrays["mean"],
            scale=arrays["scale"],
            clip=float(metadata["clip"]),
            activation=metadata["activation"],
        )


@dataclass(kw_only=True)
class Stopwatch:
    """Says when a rival's policy is due to be kept, and when its time is over.

    started is the process's start, in the time of time.time().
    """

    folder: Path
    started: float
    milestones_s: Sequence[float]
    seconds: float
    steps: int | None = None
    _passed: int = field(default=0, init=False)

    def is_over(self, steps: int) -> bool:
        """Whether the time or the number of environment steps is used up."""
        return time.time() - self.started >= self.seconds or (self.steps is not None and steps >= self.steps)

    def is_due(self) -> bool:
        """Whether a milestone has passed since the last call."""
        passed = sum(milestone <= time.time() - self.started for milestone in self.milestones_s)
        self._passed, before = passed, self._passed
        return passed > before

    def keep(self, network: Network, steps: int) -> None:
        """Save the policy after so many steps; the file's modification time says when."""
        self.folder.mkdir(parents=True, exist_ok=True)
        network.save(self.folder / f"{steps:012d}.safetensors")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A policy that was kept: seconds since its process's start, environment steps, and its path."""

    seconds: float
    steps: int
    path: Path

    def act(self) -> Act:
        """The policy as a function that acts."""
        if self.path.suffix == ".safetensors":
            return Network.load(self.path)
        return PolicyAct(
            checkpoint_policy(self.path) if self.path.parent.name == CHECKPOINTS else rfx.load_policy(self.path)
        )


def checkpoint_policy(path: Path) -> rfx.LoadedPolicy:
    """The policy in a checkpoint of our trainer."""
    state, prefix = read_checkpoint(path), "learner.policy."
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    config = state["run.config"]
    actor = Actor.of(
        weights,
        "ActorCritic",
        {"history": config["policy.history"], "activation": config.get("policy.activation", "tanh")},
    )
    return rfx.LoadedPolicy(actor, normalizer=ObservationNormalizer.from_dict(state["normalizer"]))


def kept_by_rival(folder: Path, started: float) -> list[Kept]:
    """The policies that a rival kept, in the order of training."""
    return [
        Kept(seconds=path.stat().st_mtime - started, steps=int(path.stem), path=path)
        for path in sorted((folder / SNAPSHOTS).glob("*.safetensors"))
    ]


def kept_by_us(folder: Path, started: float, ended: float, steps: int, milestones_s: Sequence[float]) -> list[Kept]:
    """The first checkpoint of our run after each milestone, and its last policy.

    The time of the last policy is the end of the process.
    """
    saved = [
        Kept(seconds=(path / ARRAYS).stat().st_mtime - started, steps=int(path.name), path=path)
        for path in checkpoints(folder / CHECKPOINTS)
    ]
    first = dict.fromkeys(
        next((kept for kept in saved if kept.seconds >= milestone), None) for milestone in milestones_s
    )
    return [kept for kept in first if kept] + [Kept(seconds=ended - started, steps=steps, path=folder / "policy")]
