"""`python -m train +robot=NAME`: composes the configuration, trains, and prints the table at the end of a sweep.

`--help` lists the options.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from envs.settings.configs import CONFIGS, gym_family, options
from hydra_plugins.rfx import GridSweeper, OptunaSweeper, RayLauncher
from rfx.settings.reader import read_yaml
from rfx.settings.terms import search_working_directory
from rfx.system.folders import replace_file
from rfx.system.output import lasting_output
from rfx.system.outside import OutsideError
from train.commands.compose import compose_run
from train.runs.lock import FolderInUse, sole_process
from train.runs.overrides import FOLDER, HYDRA, WHOLE_RUN, is_override, kept, key_of, laid_over, own_overrides
from train.sweeps.sweep import SweepFolder, finish_sweep, read_result, read_results
from train.task.errors import InputError, bad_input, exit_on_bad_command_line, exit_on_error, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from train.runs.callbacks import Callback
    from train.task.config import TrainConfig

# After this much training in all runs together a sweep's page gets a video, which takes up to a minute to draw.
# The command train.report draws the video in any case.
VIDEO_AFTER_S = 600.0
OF_SWEEPS = ("seeds", "ray")  # keys of a sweep, which a single run does not have
FIRST = "first"  # subfolder of a run for the run that it starts from, if configs/first.yaml names one


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def run(values: DictConfig) -> None:
    """Do one run. Hydra has already made its folder and saved the configuration in it."""
    settings = HydraConfig.get()
    folder, overrides = (
        Path(settings.runtime.output_dir),
        OmegaConf.to_container(settings.overrides.task, resolve=False),
    )
    with exit_on_error():
        if settings.mode is RunMode.MULTIRUN:
            print(f"\nRun {settings.job.num}: {' '.join(overrides)}")
            run_of_sweep(values, folder, overrides)
        else:
            _, result = run_alone(values, folder, overrides, settings.runtime.choices.get("robot"))
            if result["exit_code"]:
                raise SystemExit(result["exit_code"])


def run_alone(
    values: DictConfig,
    folder: Path,
    overrides: list[str],
    robot: str | None,
    console: Console | None = None,
    callbacks: Iterable[Callback | Callable] = (),
) -> tuple[Path, dict[str, Any]]:
    """Do a run that is not part of a sweep. Returns its folder and its result.

    robot is the name of the chosen file in configs/robot/. The folder is removed again if the run cannot begin.
    """
    try:
        if values.seeds != 1:
            raise InputError(f"seeds={values.seeds} is for sweeps, which run each point so often: add -m")
        if values.resume:
            found = run_to_resume(str(values.resume), folder.parent)
            if found.resolve() != folder.resolve():
                discard(folder)
            folder = found
        overrides = kept(overrides, values)
        result = train(values, folder, robot, overrides, console, callbacks)
    except (InputError, SystemExit):
        discard(folder)
        raise
    write_result(folder, result, overrides)
    return folder, result


def run_to_resume(resume: str, runs: Path) -> Path:
    """The folder of the run that resume names; a first run (configs/first.yaml) stands for the run around it."""
    from train.runs.resume import find_run

    found = find_run(resume, runs)
    return found.parent if found.name == FIRST and (found.parent / HYDRA).is_dir() else found


def go_on(arguments: list[str], tell: Callable[[str], None] = print) -> list[str]:
    """The arguments; with resume=RUN, the run's own settings are put before them, so that the given ones win.

    A setting given beside resume counts as an intended change, so resume_overrides=true is not needed. Raises
    InputError if there is no such run.
    """
    given = [argument for argument in arguments if is_override(argument)]
    said = [override for override in given if key_of(override) in ("resume", "hydra.run.dir")]
    said = {override.get_key_element(): override.value() for override in OverridesParser.create().parse_overrides(said)}
    if not said.get("resume") or {"-m", "--multirun"} & {*arguments}:
        return arguments
    found = run_to_resume(str(said["resume"]), Path(str(said.get("hydra.run.dir", "runs/_"))).parent)
    with bad_input():
        own = own_overrides(found)
    if own is None:
        own = take_whole(found)
    new = [each for each in given if key_of(each) not in (*said, "resume_overrides") and each not in own]
    settings = laid_over(own, [override for override in given if key_of(override) != "resume"])
    tell(f"Going on with {found}: {' '.join(own)}" + (f", and now {' '.join(new)}" if new else ""))
    accept = ["resume_overrides=true"] if new and not any(key_of(each) == "resume_overrides" for each in given) else []
    options = [argument for argument in arguments if not is_override(argument)]
    return [*options, *settings, *accept, "resume=" + "'{}'".format(str(found).replace("'", "\\'"))]


def take_whole(run: Path) -> list[str]:
    """Arguments that choose a run's whole saved configuration, for a run that did not begin on the command line."""
    from train.runs.resume import read_record
    from train.task.flat import tree_of

    node = tree_of(read_record(run).get("config", {}))
    ConfigStore.instance().store(group="robot", name=WHOLE_RUN, node=node, package="_global_")
    return [f"+robot={WHOLE_RUN}"]


def run_of_sweep(values: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Do one run of a sweep: a failure is recorded and printed, and the sweep goes on."""
    try:
        if values.resume:
            raise InputError(
                "resume goes on with one run: leave out -m; a sweep goes on when it is given again with its hydra.sweep.dir"
            )
        result = train_or_go_on(values, folder, overrides)
    except FolderInUse:  # another sweep trains there, and will write the result
        raise
    except (InputError, OutsideError) as error:
        result = {"status": "failed", "error": one_line(error)}
        print(f"error: {result['error']}", file=sys.stderr)
    except Exception as error:
        result = {"status": "failed", "error": f"{type(error).__name__}: {one_line(error)}"}
        traceback.print_exc()
    write_result(folder, result, overrides)
    if result["status"] == "stopped":
        raise SystemExit(result["exit_code"])


def train_or_go_on(values: DictConfig, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train a run of a sweep, or go on with it if the sweep was interrupted and is started again.

    A run that already has a result is not trained again.
    """
    from train.runs.resume import CHECKPOINTS
    from train.sweeps.study import pruner_of

    result = read_result(folder)
    if result.get("status") in ("finished", "pruned") and result["overrides"] == overrides:
        print("It has ended already.")
        return result
    if (folder / CHECKPOINTS).is_dir():
        values.resume = str(folder)
    pruner = pruner_of(folder)
    robot = HydraConfig.get().runtime.choices.get("robot")
    return train(values, folder, robot, kept(overrides, values), callbacks=[pruner] if pruner else [])


def train(
    values: DictConfig,
    folder: Path,
    robot: str | None,
    overrides: list[str],
    console: Console | None = None,
    callbacks: Iterable[Callback | Callable] = (),
) -> dict[str, Any]:
    """Train as the composed configuration says; the imports are in here so that --help is quick."""
    from rich.console import Console

    from train.runs.checkpoint import checkpoints
    from train.runs.resume import CHECKPOINTS, use_modules_of
    from train.runs.run import train
    from train.task.config import TrainConfig

    console = console or Console()
    with bad_input():
        if values.resume:
            use_modules_of(folder, print, own=not values.resume_overrides)
        plain = OmegaConf.to_container(values, resolve=True)
        first = plain.pop(FIRST) if FIRST in plain else read_yaml(CONFIGS / f"{FIRST}.yaml").get(robot)
        config = TrainConfig.from_dict({key: value for key, value in plain.items() if key not in OF_SWEEPS})
    if first and not config.start_from and not checkpoints(folder / CHECKPOINTS):
        result = train_first(first, config, folder / FIRST, console)
        if result["status"] == "stopped":
            console.print(
                f"That was the first of two runs: python -m train resume={folder} goes on with both",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if result["status"] != "finished":
            return result
        config = dataclasses.replace(config, start_from=str(folder / FIRST))
    own = None if f"+robot={WHOLE_RUN}" in overrides else overrides
    return train(config, folder, console, callbacks, overrides=own)


def train_first(overrides: list[str], config: TrainConfig, folder: Path, console: Console) -> dict[str, Any]:
    """Train the run that config's run starts from, as on the command line, with the same seed and threads.

    If that run exists already, it is continued if unfinished, and used as it is otherwise.
    """
    from train.runs.checkpoint import checkpoints
    from train.runs.resume import CHECKPOINTS, read_record
    from train.runs.run import train
    from train.task.config import TrainConfig

    if read_record(folder).get("finished"):
        return {"status": "finished"}
    console.print(f"First: {' '.join(overrides)}", markup=False, highlight=False, soft_wrap=True)
    resume = [f"resume={folder}"] if checkpoints(folder / CHECKPOINTS) else []
    composed = compose_run([*overrides, f"seed={config.seed}", f"threads={config.threads}", *resume], f"{FIRST}: ")
    with bad_input(f"{FIRST}: "):
        plain = OmegaConf.to_container(composed.values, resolve=True)
        first = TrainConfig.from_dict({key: value for key, value in plain.items() if key not in (*OF_SWEEPS, FIRST)})
    return train(first, folder, console, overrides=overrides)


def write_result(folder: Path, result: dict[str, Any], overrides: list[str]) -> None:
    """Write result.json, from which the sweep's table is made."""
    replace_file(folder / "result.json", (json.dumps(result | {"overrides": overrides}, indent=2) + "\n").encode())


def discard(folder: Path) -> None:
    """Remove the folder of a run that never began and holds only Hydra's files.

    The folder stays if this process did not make it, or if another process trains in it.
    """
    if SweepFolder.made is None or not folder.is_dir() or folder.resolve() != SweepFolder.made.resolve():
        return
    with suppress(FolderInUse), sole_process(folder):
        if {path.name for path in folder.iterdir()} <= {".hydra"}:
            shutil.rmtree(folder, ignore_errors=True)


def take_robot_folders(arguments: list[str]) -> list[str]:
    """The arguments, with +robot=PATH changed so that Hydra can read it, for a robot in a folder of the user's own.

    Hydra is given a configuration for that robot. The robot then trains as configs/tasks/legged.yaml says, and needs no
    file in configs/robot/.
    """
    taken = []
    for argument in choose_gym(arguments):
        prefix, equals, path = argument.partition("=")
        if prefix in ("+robot", "++robot") and path not in options("robot") and Path(path).is_dir():
            name = FOLDER + re.sub(r"\W", "_", Path(path).resolve().name)  # not the name of a file in configs/robot/
            node = {
                "defaults": [{"/tasks": "legged"}, "_self_", {"/preset": "none"}],
                "robot": str(Path(path).resolve()),
            }
            ConfigStore.instance().store(group="robot", name=name, node=node, package="_global_")
            argument = f"{prefix}={name}"
        taken.append(argument)
    return taken


def choose_gym(arguments: list[str]) -> list[str]:
    """The arguments; for +robot=gym, which is not a robot, Hydra is given the Gymnasium task and the family of env.id.

    Raises InputError for a sweep over ids of several families.
    """
    if not {"+robot=gym", "++robot=gym"} & {*arguments}:
        return arguments
    ids = [
        id
        for argument in arguments
        if argument.startswith("env.id=")
        for id in argument.removeprefix("env.id=").split(",")
    ]
    families = {gym_family(id) for id in ids} or {"other"}
    if len(families) > 1:
        raise InputError(
            f"env.id is of several families, {', '.join(sorted(families))}, whose settings differ: sweep one family at a time, "
            "or use python -m measure.gym"
        )
    node = {"defaults": [{"/tasks": "gym"}, {"/gym": families.pop()}, "_self_"]}
    ConfigStore.instance().store(group="robot", name="gym", node=node, package="_global_")
    return arguments


def write_report(sweep: Path) -> None:
    """Write the page about a finished sweep, if the packages that draw it are installed (extra viz)."""
    if (
        sys.exc_info()[0] is not None
        or not (sweep / "sweep.csv").is_file()
        or importlib.util.find_spec("matplotlib") is None
    ):
        return
    from train.sweeps.sweep_report import PAGE, write_page

    spent_s = sum(result.get("wall_s") or 0.0 for result in read_results(sweep))
    try:
        print(write_page([sweep], sweep / PAGE, video=spent_s > VIDEO_AFTER_S))
    except OSError as error:
        print(
            f"no report: {one_line(error)}; python -m train.report {sweep} --output PATH writes it elsewhere",
            file=sys.stderr,
        )


def register_plugins() -> None:
    """Register our plugins with Hydra, which does not find them in an editable installation."""
    for plugin in (GridSweeper, RayLauncher, OptunaSweeper):
        Plugins.instance().register(plugin)
    launchers = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    launchers.pop(
        "ray.yaml", None
    )  # from hydra-ray-launcher, if installed: Hydra would use its schema for our launcher


@lasting_output()
def main() -> None:
    """Entry point of the command."""
    SweepFolder.path, SweepFolder.made, failed = None, None, 0
    try:
        with exit_on_bad_command_line("train"):
            search_working_directory()
            sys.argv[1:] = take_robot_folders(go_on(sys.argv[1:]))
            register_plugins()
            run()
    finally:
        if SweepFolder.path is not None:
            failed = finish_sweep(SweepFolder.path)
            write_report(SweepFolder.path)
    if failed:
        raise SystemExit(1)
