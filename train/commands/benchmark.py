"""`python -m train.benchmark`: measures speed and memory of physics, environment, learner and the whole loop.

`--help` lists the options.
"""

from __future__ import annotations

if __name__ == "__main__":
    from rfx.system.extras import exit_without
    from rfx.system.interrupt import leave_on_interrupt

    leave_on_interrupt()
    exit_without("train", "python -m train.benchmark")

import dataclasses
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

import rfx
from envs.legged.env import LeggedEnv
from envs.settings.configs import CONFIGS, compose
from rfx.settings.reader import read
from train.bench.learner import ROUNDS, measure_learner
from train.bench.startup import measure_startup
from train.bench.throughput import measure, put_policy, record, where_time_goes
from train.runs.best import Snapshot
from train.runs.trainer import Trainer
from train.task.config import TrainConfig
from train.task.errors import bad_input, exit_on_bad_command_line, exit_on_error


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """The settings in `configs/benchmark.yaml`."""

    task: str  # name of a file in configs/robot/
    policy: str | None = None
    train_steps: int = 1_500_000
    num_envs: int = 1024
    threads: int = 0
    rounds: int = 5
    steps: int = 48
    startup: bool = True
    learner: bool = True
    output: str = "benchmark.json"

    def __post_init__(self) -> None:
        for name in ("train_steps", "num_envs", "rounds", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


def run(config: BenchmarkConfig, console: Console) -> dict[str, Any]:
    """Measure everything, print the table and write the file. Returns the figures by flat name."""
    with bad_input():
        trainer = Trainer(train_config(config))
        policy = rfx.load_policy(config.policy, trainer.task.robot) if config.policy else None
        output = Path(config.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
        if policy:
            put_policy(trainer, policy)
    with console.status("") as status:

        def tell(doing: str) -> None:
            status.update(f"[dim]{doing}[/]") if console.is_terminal else console.print(doing, highlight=False)

        if policy is None:
            policy = train_for_a_moment(trainer, config.train_steps, tell)
        nominal = LeggedEnv(
            config=dataclasses.replace(trainer.config.env, randomize=False),
            robot=trainer.task.robot,
            threads=config.threads,
        )
        recording, nominal_recording = (
            record(env, lambda observation: policy({"state": observation}), config.steps)
            for env in (trainer.env, nominal)
        )
        figures = describe_machine() | {
            "num_envs": config.num_envs,
            "physics_step_s": trainer.config.env.timestep_s,
            "policy": config.policy or f"trained for {trainer.steps} steps",
        }
        figures |= measure(trainer, recording, nominal, nominal_recording, config.rounds, tell)
        tell("where the time goes")
        figures |= where_time_goes(trainer, recording)
        if config.startup:
            figures |= measure_startup(
                config.task, config.num_envs, trainer.config.trainer.rollout_steps, [f"threads={config.threads}"], tell
            )
        if config.learner:  # last, because torch's threads keep spinning on the cores that the other measurements need
            figures |= measure_learner(tell)
    console.print(benchmark_table(figures), highlight=False)
    console.print(f"[dim]{output}[/]", highlight=False, soft_wrap=True)
    output.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def train_config(config: BenchmarkConfig) -> TrainConfig:
    """The task's default training configuration, with the sizes of this benchmark."""
    values = compose("robot", config.task)
    return TrainConfig.from_dict(
        {**values, "env": {**values["env"], "num_envs": config.num_envs}, "threads": config.threads}
    )


def train_for_a_moment(trainer: Trainer, num_steps: int, tell) -> rfx.LoadedPolicy:
    """Train for num_steps, enough for the robots to walk roughly. Returns the policy."""
    tell(f"training a policy for {num_steps:,} steps")
    while trainer.steps < num_steps:
        trainer.iterate()
    return Snapshot.of(trainer).policy


def describe_machine() -> dict[str, Any]:
    """What the figures depend on: processor, number of cores, memory, versions of packages."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = {name: version(name) for name in ("tinygrad", "numpy")} | {"mujoco": version("mujoco-core")}
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_gb, 1),
        "python": platform.python_version(),
        **versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def benchmark_table(figures: Mapping[str, Any]) -> Table:
    """Table of the figures: name, value, and share of the speed of raw physics."""
    title = (
        f"{figures['cpu']}, {figures['cores']} cores, {figures['memory_gb']} GB; Python {figures['python']}, "
        f"MuJoCo {figures['mujoco']}, tinygrad {figures['tinygrad']}; {figures['num_envs']} environments, "
        f"physics step {1e3 * figures['physics_step_s']:g} ms"
    )
    table = Table(title=title, title_justify="left", title_style="dim", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("")
    for name, label in (
        ("raw", "raw mujoco.batch"),
        ("env", "environment"),
        ("collect", "collection"),
        ("loop", "whole loop"),
    ):
        share = f"{figures[f'{name}_share_of_raw']:.0%} of raw" if name != "raw" else ""
        table.add_row(label, f"{figures[f'{name}_steps_per_s']:,.0f} steps/s", share)
    table.add_row(
        "environment, all robots nominal",
        f"{figures['nominal_env_steps_per_s']:,.0f} steps/s",
        f"randomization, noise, latency and pushes cost {1.0 - figures['env_share_of_nominal_env']:.0%}",
    )
    table.add_row("update in the loop", f"{figures['update_samples_per_s']:,.0f} samples/s", "")
    shares = {
        name.removeprefix("time_share_"): f"{value:.0%}"
        for name, value in figures.items()
        if name.startswith("time_share_")
    }
    table.add_row("the loop's time", "", ", ".join(f"{name} {share}" for name, share in shares.items()))
    if "start_cold_s" in figures:
        table.add_row(
            "start to first iteration",
            f"{figures['start_warm_s']:.1f} s",
            f"{figures['start_cold_s']:.1f} s with an empty cache",
        )
        table.add_row("peak memory", f"{figures['peak_memory_mb']:,.0f} MB", "")
    for minibatch in ROUNDS:
        if ours := figures.get(f"learner_{minibatch}_samples_per_s"):
            times = figures.get(f"learner_{minibatch}_times_torch")
            torch = (
                f"{times:.2f} times PyTorch's {figures[f'learner_{minibatch}_torch_samples_per_s']:,.0f}"
                if times
                else ""
            )
            table.add_row(f"update, minibatch {minibatch}", f"{ours:,.0f} samples/s", torch)
    for name, label in (("", "rfx"), ("torch_", "PyTorch"), ("onnx_", "ONNX Runtime")):
        if f"inference_{name}p50_us" in figures:
            p50, p99 = (figures[f"inference_{name}p{q}_us"] for q in (50, 99))
            table.add_row(f"one observation, {label}", f"p50 {p50:.0f} us", f"p99 {p99:.0f} us")
    return table


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="benchmark")
def _run(values: DictConfig) -> None:
    with exit_on_error():
        with bad_input():
            config = read(BenchmarkConfig, OmegaConf.to_container(values, resolve=True))
        run(config, Console())


def main() -> None:
    """Entry point of the command."""
    with exit_on_bad_command_line("benchmark"):
        _run()


if __name__ == "__main__":
    main()
