"""`python -m train +robot=NAME`: composes the configuration, trains, and ends a sweep with its table. `--help` tells more."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def leave(number: int, _: FrameType | None) -> None:
    """Ctrl-C while there is nothing to save: one line, exit code 130. A second one kills."""
    signal.signal(number, signal.SIG_DFL)
    print("interrupted", file=sys.stderr)
    raise SystemExit(128 + number)


if __name__ == "__main__":  # before the imports, which take a second; train.run takes over while there is something to save
    signal.signal(signal.SIGINT, leave)
    from rfx.extras import exit_without

    exit_without("train", "python -m train")

import json
import re
import shutil
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from envs.configs import CONFIGS, gym_family, options
from rfx.folders import replace_file
from train.errors import InputError, bad_input, exit_on_bad_command_line, exit_on_error, one_line
from train.runs.sweep import SweepFolder, finish_sweep


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def run(values: DictConfig) -> None:
    """One run. Hydra has made its folder and saved the configuration in it."""
    settings = HydraConfig.get()
    folder, overrides = Path(settings.runtime.output_dir), OmegaConf.to_container(settings.overrides.task, resolve=False)
    with exit_on_error():
        if settings.mode is RunMode.MULTIRUN:
            print(f"\nRun {settings.job.num}: {' '.join(overrides)}")
            run_of_sweep(values, folder, overrides)
        else:
            try:
                if values.resume:
                    folder = run_to_resume(str(values.resume), folder)
                result = train(values, folder)
            except (InputError, SystemExit):
                discard(folder)
                raise
            write_result(folder, result, overrides)
            if result["exit_code"]:
                raise SystemExit(result["exit_code"])


def run_to_resume(resume: str, folder: Path) -> Path:
    """The folder that resume means, in which the run goes on; the one that Hydra made for a new run is removed."""
    from train.runs.resume import find_run

    found = find_run(resume, folder.parent)
    if found.resolve() != folder.resolve():
        discard(folder)
    return found


def run_of_sweep(values: DictConfig, folder: Path, overrides: list[str]) -> None:
    """As one run, but a failure is written down and told, and the sweep goes on."""
    try:
        if values.resume:
            raise InputError("resume goes on with one run: leave out -m, and give the folder of one of the sweep's runs")
        result = train(values, folder)
    except InputError as error:
        result = {"status": "failed", "error": one_line(error)}
        print(f"error: {result['error']}", file=sys.stderr)
    except Exception as error:
        result = {"status": "failed", "error": f"{type(error).__name__}: {one_line(error)}"}
        traceback.print_exc()
    write_result(folder, result, overrides)
    if result["status"] == "stopped":
        raise SystemExit(result["exit_code"])


def train(values: DictConfig, folder: Path) -> dict[str, Any]:
    """Train as the composed configuration says; imports wait until here, so that --help is quick."""
    from train.config import TrainConfig
    from train.run import train

    with bad_input():
        config = TrainConfig.from_dict(OmegaConf.to_container(values, resolve=True))
    return train(config, folder)


def write_result(folder: Path, result: dict[str, Any], overrides: list[str]) -> None:
    """Write result.json, which the sweep's table is made from."""
    replace_file(folder / "result.json", (json.dumps(result | {"overrides": overrides}, indent=2) + "\n").encode())


def discard(folder: Path) -> None:
    """Remove the folder of a run that never began, if it holds nothing but what Hydra wrote."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".hydra"}:
        shutil.rmtree(folder, ignore_errors=True)


def take_robot_folders(arguments: list[str]) -> list[str]:
    """The arguments, with +robot=PATH as Hydra can read it: Hydra is told of a robot whose files are in a folder of the user's own.

    It then walks as configs/tasks/legged.yaml says, without a file in configs/robot/.
    """
    taken = []
    for argument in choose_gym(arguments):
        prefix, equals, path = argument.partition("=")
        if prefix in ("+robot", "++robot") and path not in options("robot") and Path(path).is_dir():
            name = "folder_" + re.sub(r"\W", "_", Path(path).resolve().name)  # no file's name in configs/robot/
            node = {"defaults": [{"/tasks": "legged"}, "_self_", {"/preset": "none"}], "robot": str(Path(path).resolve())}
            ConfigStore.instance().store(group="robot", name=name, node=node, package="_global_")
            argument = f"{prefix}={name}"
        taken.append(argument)
    return taken


def choose_gym(arguments: list[str]) -> list[str]:
    """The arguments; where they say +robot=gym, which is no robot, Hydra is told of the task, and of the family that env.id belongs to.

    Raises InputError for a sweep over ids of several families.
    """
    if not {"+robot=gym", "++robot=gym"} & {*arguments}:
        return arguments
    ids = [id for argument in arguments if argument.startswith("env.id=") for id in argument.removeprefix("env.id=").split(",")]
    families = {gym_family(id) for id in ids} or {"other"}
    if len(families) > 1:
        raise InputError(f"env.id is of several families, {', '.join(sorted(families))}, whose settings differ: sweep one family at a time, "
                         "or use python -m train.bench.gym")
    node = {"defaults": [{"/tasks": "gym"}, {"/gym": families.pop()}, "_self_"]}
    ConfigStore.instance().store(group="robot", name="gym", node=node, package="_global_")
    return arguments


def main() -> None:
    """The entry."""
    SweepFolder.path, failed = None, 0
    try:
        with exit_on_bad_command_line("train"):
            sys.argv[1:] = take_robot_folders(sys.argv[1:])
            run()
    finally:
        if SweepFolder.path is not None:
            failed = finish_sweep(SweepFolder.path)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
