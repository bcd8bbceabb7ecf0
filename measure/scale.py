"""`python -m measure.scale robot=NAME` measures the cost of workers on this machine, and the parts of an iteration.

The same run, bit for bit, is trained without Ray and with 1, 2 and 4 workers. They take turns in one process, on the
same number of threads. From the parts, measure.prediction predicts the speed of larger machines.
"""

from __future__ import annotations

if __name__ == "__main__":
    from rfx.system.extras import exit_without

    exit_without("ray", "python -m measure.scale")

import dataclasses
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from envs.settings.configs import compose
from measure.gym import key_values
from measure.prediction import Parts, predict
from rfx.nn import kernels
from rfx.settings.reader import read
from train.bench.throughput import seconds_of_parts
from train.runs.fingerprint import provenance
from train.runs.trainer import Trainer
from train.task.config import ScaleConfig, TrainConfig
from train.task.errors import bad_input, exit_on_error

FEW = 8  # factor of fewer environments: it separates Python's time for each call from that for each row


@dataclass(frozen=True, kw_only=True)
class ScaleBenchConfig:
    """Settings of the command line, as key=value."""

    robot: str  # name in configs/robot/
    num_envs: int = 1024
    threads: int = 0  # threads of all workers together; 0: one for each core
    workers: tuple[int, ...] = (1, 2, 4)
    train_steps: int = 1_500_000  # training before anything is measured, so that the robots more or less walk
    rounds: int = 7  # each round measures everything once, in turn; figures are medians
    output: str = "scale.json"

    def __post_init__(self) -> None:
        for name in ("num_envs", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.workers or min(self.workers) < 1:
            raise ValueError(
                f"workers is {list(self.workers)}: it must be a list of numbers of workers, such as [1,2,4]"
            )


def run(config: ScaleBenchConfig, console: Console) -> dict[str, Any]:
    """Measure everything and write the file. Returns the figures."""
    output = Path(config.output)
    with bad_input():
        plain = train_config(config, threads=config.threads or len(os.sched_getaffinity(0)))
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
        trainer = Trainer(plain)

    def tell(doing: str) -> None:
        console.print(f"[dim]{doing}[/]", highlight=False)

    tell(f"training for {config.train_steps:,} steps")
    while trainer.steps < config.train_steps:
        trainer.iterate()
    state = trainer.state_dict()
    figures = {"machine": provenance(), "num_envs": config.num_envs, "threads": plain.threads} | measure_workers(
        config, plain, state, tell
    )
    tell("the parts of an iteration")
    parts = measure_parts(config, state, figures)
    figures["parts"] = dataclasses.asdict(parts)
    figures["measured_of_predicted"] = {  # on this machine, where nothing goes through a network
        name: values["steps_per_s"] / predict(parts, config.num_envs, values["workers"], math.inf).steps_per_s
        for name, values in figures.items()
        if name.startswith("workers_") and values["workers"] == plain.threads and values["threads"] == 1
    }
    output.write_text(json.dumps(figures, indent=1) + "\n")
    for name, values in figures.items():
        if name.startswith("workers_"):
            console.print(
                f"{values['workers']} workers of {values['threads']} threads: {values['steps_per_s']:,.0f} steps/s, without Ray "
                f"{values['plain_steps_per_s']:,.0f}: {values['cost']:.1%} less",
                highlight=False,
            )
    console.print(f"[dim]{output}[/]", highlight=False, soft_wrap=True)
    return figures


def train_config(
    config: ScaleBenchConfig, *, threads: int, num_envs: int | None = None, workers: int = 0
) -> TrainConfig:
    """The robot's default run, of this size. Workers share the threads, with at least one each."""
    values = compose("robot", config.robot)
    scale = ScaleConfig(workers=workers, threads=max(1, threads // workers)) if workers else None
    made = TrainConfig.from_dict(
        {**values, "env": {**values["env"], "num_envs": num_envs or config.num_envs}, "threads": threads}
    )
    return dataclasses.replace(made, scale=scale)


def measure_workers(
    config: ScaleBenchConfig, plain: TrainConfig, state: Mapping[str, Any], tell: Callable[[str], None]
) -> dict[str, Any]:
    """Speeds with and without Ray, and the parts of the difference, for each number of workers.

    All are medians over the rounds. If there are more workers than threads, each has one thread. The run without Ray
    then has as many threads as there are workers.
    """
    import ray

    threads = {num: max(plain.threads, num) for num in config.workers}
    ray.init(
        address="local",
        num_cpus=sum(threads.values()),
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    with ExitStack() as stack:
        stack.callback(ray.shutdown)
        trainers = {(total, 0): Trainer(train_config(config, threads=total)) for total in sorted({*threads.values()})}
        trainers |= {
            (total, num): stack.enter_context(closing(Trainer(train_config(config, threads=total, workers=num))))
            for num, total in threads.items()
        }
        for trainer in trainers.values():
            trainer.load_state_dict(state)
        rounds: list[dict[tuple[int, int], dict[str, float]]] = []
        for i in range(-1, config.rounds):  # the first compiles
            tell(f"round {i + 1} of {config.rounds}")
            found = {}
            for (total, num), trainer in trainers.items():
                kernels.set_num_threads(total)
                found[total, num] = trainer.iterate()
            rounds += [found] if i >= 0 else []
    return {
        f"workers_{num}": compared(num, total, [(found[total, num], found[total, 0]) for found in rounds])
        for num, total in threads.items()
    }


def compared(
    num: int, total: int, rounds: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]
) -> dict[str, float]:
    """Medians of the metrics of iterations with workers, beside those without."""
    speed = "time/env_steps_per_s"
    figures = {
        "workers": num,
        "threads": max(1, total // num),
        "steps_per_s": statistics.median(one[speed] for one, _ in rounds),
        "plain_steps_per_s": statistics.median(other[speed] for _, other in rounds),
        "cost": 1.0 - statistics.median(one[speed] / other[speed] for one, other in rounds),
    }
    tags = (
        "time/collect_s",
        "time/update_s",
        "time/ray_s",
        "time/ray_send_s",
        "time/ray_travel_s",
        "time/ray_take_in_s",
        "scale/received_mb",
    )
    medians = {tag.partition("/")[2]: statistics.median(one[tag] for one, _ in rounds) for tag in tags}
    return figures | {
        name.removesuffix("_s") + "_ms" if name.startswith("ray_") else name: 1e3 * value
        if name.startswith("ray_")
        else value
        for name, value in medians.items()
    }


def measure_parts(config: ScaleBenchConfig, state: Mapping[str, Any], figures: Mapping[str, Any]) -> Parts:
    """Measure the parts of an iteration.

    Collection runs on one thread, with all environments and with few. The update runs on all threads. Ray's parts are
    those with the fewest workers.
    """
    seconds = {}
    for num_envs, threads in (
        (config.num_envs, 1),
        (max(1, config.num_envs // FEW), 1),
        (config.num_envs, figures["threads"]),
    ):
        trainer = Trainer(train_config(config, threads=threads, num_envs=num_envs))
        kernels.set_num_threads(threads)
        trainer.load_state_dict(first_rows(state, num_envs))
        trainer.iterate()  # compiles
        seconds[num_envs, threads] = seconds_of_parts(trainer, trainer.env.state_dict(), config.rounds)
    few, many, whole = (
        seconds[max(1, config.num_envs // FEW), 1],
        seconds[config.num_envs, 1],
        seconds[config.num_envs, figures["threads"]],
    )
    num_steps, num_few = trainer.config.trainer.rollout_steps, max(1, config.num_envs // FEW)
    python_few, python_many = (
        sum(part[name] for name in ("environment", "inference", "collection")) / num_steps for part in (few, many)
    )
    row_s = (python_many - python_few) / max(1, config.num_envs - num_few)
    samples, ray = config.num_envs * num_steps, figures[f"workers_{min(config.workers)}"]
    weights = sum(array.nbytes for array in trainer.learner.weights().values())
    return Parts(
        rollout_steps=num_steps,
        physics_s=many["physics"] / samples,
        python_row_s=row_s,
        python_step_s=max(0.0, python_many - config.num_envs * row_s),
        update_s=(whole["gae"] + whole["update"] + whole["rest"]) / samples,
        take_in_s=1e-3 * ray["ray_take_in_ms"] / samples,
        latency_s=1e-3 * (ray["ray_send_ms"] + ray["ray_travel_ms"]),
        rollout_bytes=1e6 * ray["received_mb"] / samples,
        weights_bytes=weights,
        num_gradients=trainer.config.ppo.num_epochs * trainer.config.ppo.num_minibatches,
        gradient_bytes=weights,
    )


def first_rows(state: Mapping[str, Any], num_envs: int) -> dict[str, Any]:
    """A Trainer's state_dict, cut to the first environments."""
    of_envs = ("noise.", "env.", "observation.", "history.", "episodes.")
    return {name: value[:num_envs] if name.startswith(of_envs) else value for name, value in state.items()}


def read_arguments(arguments: Sequence[str]) -> ScaleBenchConfig:
    """The config that key=value arguments make; values are YAML. Raises ValueError."""
    return read(ScaleBenchConfig, key_values(arguments))


def main() -> None:
    """Run the command line."""
    with exit_on_error():
        with bad_input():
            config = read_arguments(sys.argv[1:])
        run(config, Console())


if __name__ == "__main__":
    main()
