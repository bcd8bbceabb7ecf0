"""The settings of an evaluation, as `configs/evaluate.yaml` and the command line give them."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass

from rfx.policy.folder import inside_run
from rfx.system.extras import missing


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The settings in `configs/evaluate.yaml`."""

    policy: str | None = None
    num_envs: int = 1024  # with fewer than 600 robots no policy can meet the target of 0.005 falls per episode
    duration_s: float = 20.0
    seed: int = 0
    threads: int = 0
    timestep_s: float | None = None
    mjcf: str | None = None
    task: str | None = None
    suite: str | None = None
    compare: str | None = None
    output: str | None = None
    video: str | None = None
    episodes: int = 20

    def __post_init__(self) -> None:
        if self.policy is None:
            raise ValueError("no policy given: policy=PATH, of a policy folder such as runs/DATE_TIME/policy")
        if self.num_envs < 1 or not self.duration_s > 0 or self.seed < 0 or self.threads < 0:
            raise ValueError(
                f"num_envs {self.num_envs}, duration_s {self.duration_s}, seed {self.seed}, threads {self.threads}: "
                f"the first two must be positive, the others 0 or more"
            )
        if self.task and (self.suite or self.compare):
            raise ValueError(
                f"task is {self.task!r}: leave it out with suite and compare, which play the policy's own task; "
                "the suite judges every policy on terrain too"
            )
        if self.suite not in (None, "full", "models"):
            raise ValueError(f"suite is {self.suite!r}: it must be full or models, or null for the plain evaluation")
        for key, module in (("video", "imageio_ffmpeg"), ("suite", "imageio_ffmpeg"), ("suite", "matplotlib")):
            if getattr(self, key) not in (None, "models") and importlib.util.find_spec(module) is None:
                raise missing(f"{key}={getattr(self, key)}", module)

    def inside_runs(self) -> EvaluateConfig:
        """The same settings, where a run's folder is replaced by the policy folder inside it."""
        return dataclasses.replace(
            self, policy=inside_run(self.policy), compare=self.compare and inside_run(self.compare)
        )
