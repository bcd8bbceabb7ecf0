"""Measures the time from the start of a training run to the end of its first iteration, and the memory it takes.

It is measured with an empty and with a filled kernel cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ITERATIONS = 3


def measure_startup(
    robot: str, num_envs: int, rollout_steps: int, overrides: Sequence[str], tell: Callable[[str], None]
) -> dict[str, float]:
    """Seconds from process start to the end of the first iteration, cold and warm, and peak memory.

    Both are real runs of `python -m train +robot={robot}` in their own processes. The cold run starts with an empty
    cache folder, the warm run with the cache that the cold one filled. The memory is the peak resident memory of the
    warm process. Raises RuntimeError with the run's last lines if one fails.
    """
    arguments = [
        f"+robot={robot}",
        f"env.num_envs={num_envs}",
        f"trainer.rollout_steps={rollout_steps}",
        *overrides,
        f"trainer.total_steps={ITERATIONS * num_envs * rollout_steps}",
        "trainer.evaluation_s=2",
        "trainer.final_evaluation_s=2",
    ]
    with tempfile.TemporaryDirectory(prefix="rfx-benchmark-") as folder:
        tell("start-up with an empty cache")
        cold_s, _ = first_iteration(arguments, Path(folder), "cold")
        tell("start-up with a filled cache")
        warm_s, memory = first_iteration(arguments, Path(folder), "warm")
    return {"start_cold_s": cold_s, "start_warm_s": warm_s, "peak_memory_mb": memory / 1e6}


def first_iteration(arguments: Sequence[str], folder: Path, name: str) -> tuple[float, float]:
    """Run `python -m train` with its cache in folder.

    Returns the seconds to the end of the first iteration, and the peak memory in bytes.
    """
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    environment.pop("CACHEDB", None)
    command = [sys.executable, "-m", "train", *arguments, f"hydra.run.dir={folder / name}"]
    begin, first_s, lines = time.perf_counter(), None, []
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        lines.append(line)
        if first_s is None and " steps " in line and "/s " in line:
            first_s = time.perf_counter() - begin
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or first_s is None:
        raise RuntimeError(
            f"the run {' '.join(command)} failed with exit code {process.returncode}: {' '.join(lines[-5:])}"
        )
    return first_s, usage.ru_maxrss * 1024.0
