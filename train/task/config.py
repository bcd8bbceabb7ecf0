"""A training run as data: the configuration that `python -m train` composes from `configs/`, checked key by key."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rfx.settings.reader import read
from rfx.system.extras import install_command
from train.ppo.config import PolicyConfig, PPOConfig
from train.task.task import find_task


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long to train, and how often to evaluate and to save.

    Steps are environment steps, summed over environments.
    """

    total_steps: int = 6_000_000
    rollout_steps: int = 24  # per environment and iteration
    evaluate_every: int = 1_000_000  # steps between evaluations during training
    evaluation_envs: int = 64
    evaluation_s: float = 8.0
    final_evaluation_envs: int = 256
    final_evaluation_s: float = 20.0
    checkpoint_every: int = 250_000  # steps
    keep_checkpoints: int = 2  # how many of the newest checkpoints to keep

    def __post_init__(self) -> None:
        for name in (f.name for f in dataclasses.fields(self)):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"trainer.{name} is {value}: it must be positive")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What a run writes at its end, beside its policy folder."""

    onnx: bool = False  # policy.onnx, for other runtimes: docs/export.md

    def __post_init__(self) -> None:
        if self.onnx and importlib.util.find_spec("onnx") is None:
            raise ValueError(f"export.onnx is true, which needs onnx: {install_command('onnx')}")


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """Workers that collect for the learner with Ray, on one machine or many: docs/scale.md."""

    workers: int = 2
    threads: int = 0  # threads of each worker; 0: a machine's workers share its cores evenly
    # Address of a Ray cluster; auto: the cluster that this machine is part of; null: the run starts its own Ray
    address: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"scale.{name} is {getattr(self, name)}: it must be {least} or more")
        if importlib.util.find_spec("ray") is None:
            raise ValueError(f"scale asks for workers, which needs ray: {install_command('ray')}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. env is the task's own dataclass, which has num_envs."""

    task: str = "legged"  # a name in train.task.task.TASKS, or MODULE:CLASS
    seed: int = 0
    threads: int = 0  # for the physics and the learner; 0: one for each core
    robot: str | None = None  # its name, or the folder of its files
    name: str | None = None  # name of the run; null: the name of the robot, the environment or the task
    logger: str | tuple[str, ...] = "tensorboard"  # gets the metrics, as metrics.csv does: train/runs/loggers.py
    env: Any
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    scale: ScaleConfig | None = None  # null: everything in this process
    start_from: str | None = None  # a run's folder, or latest: begin with its network and normalizers
    resume: str | None = None  # a run's folder, or latest: continue it
    resume_overrides: bool = False  # accept a configuration that differs from the checkpoint's

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must be 0 or more")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}: it must be a number of threads, or 0 for one for each core")
        if self.start_from and self.resume and self.start_from == self.resume:
            raise ValueError(
                f"start_from and resume are both {self.resume}: start_from begins a new run with its network, resume goes on "
                "with it"
            )
        if self.export.onnx and self.policy.network:
            raise ValueError(
                "export.onnx is true: rfx writes ONNX graphs of its own networks only, and policy.network "
                f"is {self.policy.network}; set export.onnx=false"
            )
        if self.scale and self.scale.workers > self.env.num_envs:
            raise ValueError(
                f"scale.workers is {self.scale.workers}: it must be at most env.num_envs, {self.env.num_envs}"
            )
        num_samples, num_minibatches = self.env.num_envs * self.trainer.rollout_steps, self.ppo.num_minibatches
        if num_samples % num_minibatches:
            divisor = max(d for d in range(1, num_minibatches + 1) if num_samples % d == 0)
            raise ValueError(
                f"ppo.num_minibatches is {num_minibatches}: it does not divide the rollout of env.num_envs "
                f"{self.env.num_envs} x trainer.rollout_steps {self.trainer.rollout_steps} = {num_samples} samples; "
                f"the next that does is {divisor}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Make a configuration from plain values, as the YAML files hold them.

        Raises ValueError that names the key, its value and the possible values.
        """
        return read(cls, {**values, "env": find_task(values.get("task", cls.task)).read_env(values)})

    @property
    def loggers(self) -> tuple[str, ...]:
        """The names of the loggers, without duplicates."""
        return tuple(dict.fromkeys((self.logger,) if isinstance(self.logger, str) else self.logger))

    @property
    def title(self) -> str:
        """The run's name for people."""
        return self.name or self.robot or getattr(self.env, "id", None) or self.task
