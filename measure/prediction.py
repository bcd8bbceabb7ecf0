"""`python -m measure.prediction parts=FILE` predicts steps/s of a learner with many workers.

It computes them from the measurements of measure.scale, and measures nothing itself. docs/scale.md lists the
assumptions.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfx.settings.reader import read
from train.task.errors import InputError, bad_input, exit_on_error

CORES, GBIT_PER_S, LEARNERS = (8, 64, 512), (1, 10), 8
ENVS_PER_CORE, FIXED_ENVS = 512, 4096  # environments per core, and a fixed number of environments


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Measured parts of an iteration: seconds of one core, and bytes."""

    rollout_steps: int  # control steps of every environment in an iteration
    physics_s: float  # physics of one environment's step
    python_row_s: float  # of one environment's step: the part of Python's time that grows with the environments
    python_step_s: float  # of a worker's step: the part of Python's time that does not grow
    # The learner's computation for one environment's step, update included, on all its cores
    update_s: float
    take_in_s: float  # time to take one environment's step out of the object store
    latency_s: float  # Ray's own time for an iteration, with little to send
    rollout_bytes: float  # of one environment's step, with its share of the state that is sent beside the rollout
    weights_bytes: float  # weights with normalizers, sent to each machine
    num_gradients: int  # gradients in an iteration
    gradient_bytes: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted seconds of the parts of an iteration, and the speed that follows."""

    collect_s: float
    travel_s: float
    learner_s: float  # taking in and update
    num_steps: int

    @property
    def iteration_s(self) -> float:
        """Seconds of an iteration: the sum of its parts, because nothing overlaps."""
        return self.collect_s + self.travel_s + self.learner_s

    @property
    def steps_per_s(self) -> float:
        """Environment steps per second."""
        return self.num_steps / self.iteration_s


def predict(parts: Parts, num_envs: int, cores: int, gbit_per_s: float, cores_per_machine: int = 8) -> Prediction:
    """Predict an iteration with a worker of one thread on each core.

    The learner has a machine of its own, behind one link.
    """
    num_steps, rows = num_envs * parts.rollout_steps, -(-num_envs // cores)
    collect_s = parts.rollout_steps * (parts.python_step_s + rows * (parts.physics_s + parts.python_row_s))
    sent = num_steps * parts.rollout_bytes + -(-cores // cores_per_machine) * parts.weights_bytes
    return Prediction(
        collect_s=collect_s,
        travel_s=parts.latency_s + 8e-9 * sent / gbit_per_s,
        learner_s=num_steps * (parts.take_in_s + parts.update_s),
        num_steps=num_steps,
    )


def cores_at_limit(parts: Parts, gbit_per_s: float) -> float:
    """How many cores collect as fast as one learner takes in and learns, with many environments.

    From there, twice as many cores give a third more speed.
    """
    return (parts.physics_s + parts.python_row_s) / (
        parts.take_in_s + parts.update_s + 8e-9 * parts.rollout_bytes / gbit_per_s
    )


def predict_data_parallel(
    parts: Parts, num_envs: int, cores: int, gbit_per_s: float, learners: int, delay_s: float = 1e-4
) -> Prediction:
    """Predict an iteration with a learner on each of several machines.

    Each learner takes a share of every minibatch, and they sum their gradients in a ring. Rollouts stay on their machine. A sum over M machines is 2 (M - 1) messages of 1 / M of the gradient, one after the
    other, each with a delay. Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of
    workstations".
    """
    alone = predict(parts, num_envs, cores, gbit_per_s)
    message_s = delay_s + 8e-9 * parts.gradient_bytes / learners / gbit_per_s
    sums_s = parts.num_gradients * 2 * (learners - 1) * message_s
    return dataclasses.replace(alone, travel_s=parts.latency_s, learner_s=alone.learner_s / learners + sums_s)


def predictions(parts: Parts) -> dict[str, Any]:
    """The values of the tables of docs/scale.md, by cores and Gbit/s in words.

    They are for environments that grow with the cores, and for a fixed number of environments.
    """
    found: dict[str, Any] = {"limit_cores": {f"{rate}_gbit": cores_at_limit(parts, rate) for rate in GBIT_PER_S}}
    for cores in CORES:
        for rate in GBIT_PER_S:
            grown = cores * ENVS_PER_CORE
            cases = {
                "grow": predict(parts, grown, cores, rate),
                "fixed": predict(parts, FIXED_ENVS, cores, rate),
                "data_parallel": predict_data_parallel(parts, grown, cores, rate, LEARNERS),
            }
            for name, case in cases.items():
                found.setdefault(name, {}).setdefault(f"{cores}_cores", {})[f"{rate}_gbit"] = dataclasses.asdict(
                    case
                ) | {
                    "steps_per_s": case.steps_per_s,
                    "learner_share": (case.travel_s + case.learner_s) / case.iteration_s,
                }
    return found


def read_parts(measured: Mapping[str, Any]) -> Parts:
    """Read the parts from the JSON that measure.scale wrote. Raises ValueError."""
    if "parts" not in measured:
        raise ValueError("it has no parts: expected the output of python -m measure.scale")
    return read(Parts, measured["parts"])


def main() -> None:
    """Run the command line."""
    with exit_on_error():
        given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
        if "parts" not in given or given.keys() - {"parts", "output"}:
            raise InputError(
                f"got {' '.join(sys.argv[1:]) or 'nothing'}; expected parts=FILE, which measure.scale wrote, and perhaps "
                "output=FILE"
            )
        with bad_input(f"{given['parts']}: "):
            found = predictions(read_parts(json.loads(Path(given["parts"]).read_text())))
        text = json.dumps(found, indent=1) + "\n"
        Path(given["output"]).write_text(text) if "output" in given else print(text, end="")


if __name__ == "__main__":
    main()
