"""`python -m measure.gym` trains Gymnasium tasks x seeds, and writes a table beside published figures and curves.

    python -m measure.gym                                          the ten MuJoCo tasks, 10 seeds, 1 M steps: hours
    python -m measure.gym tasks=[Hopper-v5,Ant-v5] seeds=3 steps=3e6 jobs=2 folder=runs/three

Each task's folder is a sweep's folder, with a run for each seed. An interrupted command goes on when it is started
again. The table has all finished runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from envs.mujoco import TASKS
from rfx.robot.state import Array
from rfx.settings.reader import read
from rfx.system.extras import missing
from train.runs.checkpoint import checkpoints
from train.runs.metrics import read_metrics
from train.runs.resume import CHECKPOINTS
from train.sweeps.sweep import read_results, write_csv
from train.task.errors import bad_input, exit_on_error

# Mean returns after 1 M steps.
# CleanRL's are of its last training episodes, in Gym's version 4 of the tasks: docs.cleanrl.dev/rl-algorithms/ppo.
# Tianshou's are the maximum over training, in version 3: its MuJoCo benchmark, github.com/thu-ml/tianshou,
# examples/mujoco.
PUBLISHED = {
    "CleanRL": {
        "HalfCheetah-v5": 1443,
        "Walker2d-v5": 2288,
        "Hopper-v5": 2383,
        "InvertedPendulum-v5": 963,
        "Humanoid-v5": 716,
        "Pusher-v5": -40,
    },
    "Tianshou": {
        "HalfCheetah-v5": 5784,
        "Walker2d-v5": 3589,
        "Hopper-v5": 2609,
        "Ant-v5": 3258,
        "Swimmer-v5": 67,
        "Reacher-v5": -4.1,
        "InvertedDoublePendulum-v5": 9231,
    },
}
RESAMPLES, CONFIDENCE = 10_000, 0.95


@dataclass(frozen=True, kw_only=True)
class GymBenchConfig:
    """Settings of the command line, as key=value."""

    tasks: tuple[str, ...] = tuple(f"{name}-v5" for name in TASKS)
    seeds: int = 10  # number of seeds, from 0
    steps: int = 1_000_000
    jobs: int = 1  # runs at the same time; if there are several, each has one thread
    folder: str = "runs/gym"
    output: str | None = None  # JSON file for the table's rows; null: only table.csv in folder
    settings: tuple[str, ...] = ()  # further settings for every run, such as ppo.gamma=0.98

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.tasks:
            raise ValueError("tasks is []: it must name Gymnasium ids, such as tasks=[Hopper-v5]")


def read_arguments(arguments: Sequence[str]) -> GymBenchConfig:
    """The config that key=value arguments make. Raises ValueError."""
    return read(GymBenchConfig, key_values(arguments))


def key_values(arguments: Sequence[str]) -> dict[str, Any]:
    """Read key=value arguments. Values are YAML; steps may be 3e6. Raises ValueError."""
    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"got {argument!r}; expected key=value, such as seeds=3")
        values[key] = float(value) if key == "steps" else yaml.safe_load(value)
    return values


def run(config: GymBenchConfig, console: Console) -> list[dict[str, Any]]:
    """Train the runs that are not finished, and write table.csv and curves.png. Returns the table's rows."""
    folder = Path(config.folder)
    wanted = [(task, seed) for seed in range(config.seeds) for task in config.tasks]
    with ThreadPoolExecutor(config.jobs) as pool:
        list(pool.map(lambda pair: train_once(config, folder / pair[0] / str(pair[1]), *pair, console), wanted))
    rows = [row for task in config.tasks if (row := summary(folder / task, task))]
    if rows:
        write_csv(rows, folder / "table.csv")
        if config.output:
            Path(config.output).write_text(json.dumps({"rows": rows}, indent=1) + "\n")
        console.print(table(rows), highlight=False)
        console.print(f"[dim]{folder / 'table.csv'}[/]", highlight=False, soft_wrap=True)
        with bad_input():
            plot(folder, config.tasks)
        console.print(f"[dim]{folder / 'curves.png'}[/]", highlight=False, soft_wrap=True)
    return rows


def train_once(config: GymBenchConfig, folder: Path, task: str, seed: int, console: Console) -> None:
    """Train one run in its own process, unless it has finished. An interrupted run goes on."""
    result = folder / "result.json"
    if result.is_file() and json.loads(result.read_text())["status"] == "finished":
        return
    arguments = [
        "+robot=gym",
        f"env.id={task}",
        f"seed={seed}",
        f"trainer.total_steps={config.steps}",
        f"hydra.run.dir={folder}",
        *config.settings,
    ]
    if config.jobs > 1:
        arguments.append("threads=1")
    if checkpoints(folder / CHECKPOINTS):
        arguments.append(f"resume={folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "train", *arguments], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    state = "done" if done.returncode == 0 else f"failed, see {folder / 'log.txt'}"
    console.print(f"{task} seed {seed}: {state}", highlight=False, soft_wrap=True)


def summary(folder: Path, task: str) -> dict[str, Any] | None:
    """A task's row of the table, from its finished runs; None if there are none."""
    results = [result for result in read_results(folder) if result["status"] == "finished"]
    if not results:
        return None
    returns = np.array([result["evaluation"]["return"] for result in results])
    low, high = bootstrap_interval(returns, np.random.default_rng(0))
    row = {
        "task": task,
        "steps": results[0]["steps"],
        "seeds": len(returns),
        "mean": float(returns.mean()),
        "iqm": float(interquartile_mean(returns[None])[0]),
        "iqm_low": low,
        "iqm_high": high,
        "minutes": float(np.mean([result["wall_s"] for result in results])) / 60.0,
    }
    return row | {name: figures.get(task) for name, figures in PUBLISHED.items()}


def interquartile_mean(values: Array) -> Array:
    """The mean of the middle half of each row, (B, n) to (B,).

    It leaves out the int(n / 4) lowest and highest values, as scipy.stats.trim_mean does.
    """
    cut = values.shape[1] // 4
    return np.sort(values, axis=1)[:, cut : values.shape[1] - cut].mean(axis=1)


def bootstrap_interval(values: Array, rng: np.random.Generator) -> tuple[float, float]:
    """The percentile bootstrap's interval for the interquartile mean of values (n,).

    Source: Agarwal et al. 2021, "Deep RL at the Edge".
    """
    means = interquartile_mean(rng.choice(values, (RESAMPLES, len(values))))
    low, high = np.quantile(means, [0.5 - CONFIDENCE / 2.0, 0.5 + CONFIDENCE / 2.0])
    return float(low), float(high)


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as a table for the terminal."""
    shown = Table(
        title="Return of the last policy, deterministic, 20 full episodes on seeds not trained on",
        title_justify="left",
        box=None,
        title_style="bold",
        pad_edge=False,
    )
    for name in ("task", "steps", "seeds", "mean", "IQM", "95%", "minutes", *PUBLISHED):
        shown.add_column(name, justify="left" if name == "task" else "right")
    for row in rows:
        published = ("-" if row[name] is None else f"{row[name]:g}" for name in PUBLISHED)
        shown.add_row(
            row["task"],
            f"{row['steps'] / 1e6:.2f} M",
            str(row["seeds"]),
            f"{row['mean']:.1f}",
            f"{row['iqm']:.1f}",
            f"{row['iqm_low']:.1f} to {row['iqm_high']:.1f}",
            f"{row['minutes']:.1f}",
            *published,
        )
    return shown


def plot(folder: Path, tasks: Sequence[str]) -> None:
    """Draw curves.png: the return during training, with exploration, over steps.

    A line shows the mean of the seeds, a band the range from the lowest to the highest.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise missing("drawing learning curves", "matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(tasks), 5)
    figure, axes = pyplot.subplots(
        -(-len(tasks) // columns), columns, figsize=(3.2 * columns, 2.6 * -(-len(tasks) // columns)), squeeze=False
    )
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    for task, axis in zip(tasks, axes.flat):
        curves = [
            curve
            for run in sorted((folder / task).glob("*"))
            if run.is_dir() and len(curve := read_metrics(run, "episode/return"))
        ]
        axis.set_title(task, fontsize=9)
        axis.set_xlabel("steps, million", fontsize=8)
        if curves:
            steps = np.linspace(max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves), 200)
            returns = np.array([np.interp(steps, curve[:, 0], curve[:, 1]) for curve in curves])
            axis.fill_between(steps / 1e6, returns.min(axis=0), returns.max(axis=0), alpha=0.25, linewidth=0)
            axis.plot(steps / 1e6, returns.mean(axis=0))
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Run the command line."""
    with exit_on_error():
        with bad_input():
            config = read_arguments(sys.argv[1:])
        run(config, Console())


if __name__ == "__main__":
    main()
