"""`python -m train +robot=NAME`: composes the configuration, trains, and ends a sweep with its table.

`--help` tells more.
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

# of training in a sweep its page gets a video, which takes up to a minute to draw; train.report always makes it
VIDEO_AFTER_S = 600.0
OF_SWEEPS = ("seeds", "ray")  # keys that no run knows
FIRST = "first"  # in a run's folder: that of the run which it goes on from, where configs/first.yaml names one


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def run(values: DictConfig) -> None:
    """One run. Hydra has made its folder and saved the configuration in it."""
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
    """A run that is not of a sweep. Returns the folder that it is in, and its result.

    robot is the file of configs/robot/ that was chosen. folder is removed again if the run cannot begin.
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
    """The folder of the run that resume means. A run that came first (configs/first.yaml) means the whole of both."""
    from train.runs.resume import find_run

    found = find_run(resume, runs)
    return found.parent if found.name == FIRST and (found.parent / HYDRA).is_dir() else found


def go_on(arguments: list[str], tell: Callable[[str], None] = print) -> list[str]:
    """The arguments. Where they say resume=RUN, the run's own settings stand before them; those given count above.

    Who gives a setting beside resume means the change, and need not say resume_overrides=true. Raises InputError where
    there is no run.
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
    """What chooses the whole configuration of a run that no command line began. Hydra is told of it, as of a robot."""
    from train.runs.resume import read_record
    from train.task.flat import tree_of

    node = tree_of(read_record(run).get("config", {}))
    ConfigStore.instance().store(group="robot", name=WHOLE_RUN, node=node, package="_global_")
    return [f"+robot={WHOLE_RUN}"]


def run_of_sweep(values: DictConfig, folder: Path, overrides: list[str]) -> None:
    """As one run, but a failure is written down and told, and the sweep goes on."""
    try:
        if values.resume:
            raise InputError(
                "resume goes on with one run: leave out -m; a sweep goes on when it is given again with its hydra.sweep.dir"
            )
        result = train_or_go_on(values, folder, overrides)
    except FolderInUse:  # by another sweep, whose result it is to write
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
    """Train a run of a sweep; where the sweep was interrupted and is given again, go on with the run, or take the
    result that is there.
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
    """Train as the composed configuration says; imports wait until here, so that --help is quick."""
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
    """Train the run that config's goes on from, as on the command line, with its seed and threads; go on with it, or
    take it, if it is there.
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
    """Write result.json, which the sweep's table is made from."""
    replace_file(folder / "result.json", (json.dumps(result | {"overrides": overrides}, indent=2) + "\n").encode())


def discard(folder: Path) -> None:
    """Remove the folder of a run that never began, which holds what Hydra wrote alone.

    It stays where this process did not make it, or another one trains in it.
    """
    if SweepFolder.made is None or not folder.is_dir() or folder.resolve() != SweepFolder.made.resolve():
        return
    with suppress(FolderInUse), sole_process(folder):
        if {path.name for path in folder.iterdir()} <= {".hydra"}:
            shutil.rmtree(folder, ignore_errors=True)


def take_robot_folders(arguments: list[str]) -> list[str]:
    """The arguments, with +robot=PATH as Hydra can read it: Hydra is told of a robot whose files are in a folder of the
    user's own.

    It then walks as configs/tasks/legged.yaml says, without a file in configs/robot/.
    """
    taken = []
    for argument in choose_gym(arguments):
        prefix, equals, path = argument.partition("=")
        if prefix in ("+robot", "++robot") and path not in options("robot") and Path(path).is_dir():
            name = FOLDER + re.sub(r"\W", "_", Path(path).resolve().name)  # no file's name in configs/robot/
            node = {
                "defaults": [{"/tasks": "legged"}, "_self_", {"/preset": "none"}],
                "robot": str(Path(path).resolve()),
            }
            ConfigStore.instance().store(group="robot", name=name, node=node, package="_global_")
            argument = f"{prefix}={name}"
        taken.append(argument)
    return taken


def choose_gym(arguments: list[str]) -> list[str]:
    """The arguments; where they say +robot=gym, which is no robot, Hydra is told of the task, and of the family that
    env.id belongs to.

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
    """Write the page about a sweep that has come to an end, if what draws it is there (extra viz)."""
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
    """Tell Hydra of ours, which it does not find by itself where the project is installed as editable."""
    for plugin in (GridSweeper, RayLauncher, OptunaSweeper):
        Plugins.instance().register(plugin)
    launchers = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    launchers.pop(
        "ray.yaml", None
    )  # of hydra-ray-launcher, where that is installed: it would be taken for the schema of ours


@lasting_output()
def main() -> None:
    """The entry."""
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
