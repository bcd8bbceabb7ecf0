"""Names the output files of an evaluation.

They lie beside the policy and are named after the conditions, so that the run's own evaluation.json is not overwritten.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from train.judge.evaluate_config import EvaluateConfig


def beside(config: EvaluateConfig, size: str = "") -> Path:
    """Path evaluation_CONDITIONS.json in the folder that holds the policy folder.

    The current folder is used for a policy that is not in a folder here. size says how much is played, unless that is
    given by robots and seconds. Other conditions appear in the name only if they differ from the defaults.
    """
    named = [size or f"{config.num_envs}x{config.duration_s:g}s", f"seed_{config.seed}"]
    if config.timestep_s:
        named.append(f"{1e3 * config.timestep_s:g}ms")
    for value in (config.mjcf, config.task):
        named += [_stem(value)] if value else []
    if config.suite:
        named.append(f"suite_{config.suite}")
    if config.compare:
        named.append(f"beside_{_stem(_run_name(config.compare))}")
    return (
        Path() if config.policy.startswith("hf://") else Path(config.policy).parent
    ) / f"evaluation_{'_'.join(named)}.json"


def check_writable(*paths: str | Path | None) -> None:
    """Make the folders of output files before the work begins, and check that files can be written there.

    Raises OSError if not.
    """
    for folder in dict.fromkeys(Path(path).parent for path in paths if path):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            tempfile.TemporaryFile(dir=folder).close()  # noqa: SIM115  (it is gone at once)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error


def names_of(paths: list[str]) -> dict[str, str]:
    """Short names of policies, by path: the folder around each policy folder, or the paths if two names are equal."""
    short = {path: _run_name(path) for path in paths}
    return short if len(set(short.values())) == len(paths) else {path: path for path in paths}


def _run_name(policy: str) -> str:
    """The name of the folder that contains the policy folder."""
    return policy if policy.startswith("hf://") else Path(policy).resolve().parent.name or policy


def _stem(source: str) -> str:
    """The part of a path or another source that is allowed in a file name."""
    name = source.rpartition("/")[2] if "://" not in source else source.partition("://")[2]
    return re.sub(r"[^\w.-]+", "-", name.removesuffix(".xml").removesuffix(".yaml"))
