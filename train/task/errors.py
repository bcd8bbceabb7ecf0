"""Turns bad input into one clear line on stderr and exit code 2, for the entries train, evaluate and benchmark."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envs.settings.configs import CONFIGS, compose, options
from rfx.settings.reader import read_yaml
from rfx.system.extras import install_command
from rfx.system.outside import OutsideError
from rfx.system.text import printable
from train.ppo.errors import TrainingBroken

SHOW_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
GYM_KEYS = ("env.id", "env.batched", "env.kwargs")  # keys that exist with +robot=gym only
# In these groups, a key that the YAML files lack may name a term or an argument.
OPEN_GROUPS = (
    "env.commands.",
    "env.resets.",
    "env.randomization.",
    "env.pushes.",
    "env.terminations.",
    "env.rewards.",
    "env.terrain.kinds.",
    "policy.network_kwargs.",
)


class InputError(Exception):
    """The user's input cannot be used.

    The message is one line that says what was given, what is possible and what to do.
    """


class UnknownOption(Exception):
    """An option, with dashes, that the command line does not have."""


@contextmanager
def bad_input(prefix: str = "") -> Iterator[None]:
    """Turn errors into InputErrors where the user's input is first used, because the user can correct them."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise InputError(prefix + one_line(error)) from error


@contextmanager
def exit_on_bad_command_line(config_name: str) -> Iterator[None]:
    """Put this around Hydra: its errors about overrides or folders end the process with one line and exit code 2.

    config_name is the YAML file of the entry, without its suffix. With HYDRA_FULL_ERROR=1 the traceback is shown
    instead. Inside the context that variable is always set, because nothing else stops Hydra from reporting errors and
    exiting by itself.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with _options_in_one_line(config_name):
            yield
    except Exception as error:
        if SHOW_TRACEBACK:
            raise
        print(f"error: {explain(error, config_name)}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        if not SHOW_TRACEBACK:
            os.environ.pop("HYDRA_FULL_ERROR", None)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Put this around the function that Hydra runs: an InputError ends the process with one line and exit code 2.

    TrainingBroken and OutsideError end it with one line and exit code 1, Ctrl-C with 130, and any other error with a
    traceback and 1.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if SHOW_TRACEBACK:
            raise
        if isinstance(error, (InputError, OutsideError, TrainingBroken)):
            print(f"error: {one_line(error)}", file=sys.stderr)
            raise SystemExit(2 if isinstance(error, InputError) else 1) from None
        traceback.print_exc()
        raise SystemExit(1) from None


def explain(error: Exception, config_name: str, arguments: Sequence[str] | None = None) -> str:
    """Turn Hydra's or OmegaConf's error about arguments into one line, which names the nearest existing key or option.

    The default arguments are this process's.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    message = str(error)
    if isinstance(error, UnknownOption):
        return message
    if isinstance(error, OSError) and error.filename:  # before the run began: Hydra makes its folder
        return f"{one_line(error)}; choose a folder that can be written with hydra.run.dir=PATH, or hydra.sweep.dir=PATH in a sweep"
    if match := re.search(r"Could not override '([^']*)'\.?\s*(No match in the defaults list)?", message):
        key = match[1]
        if (
            config_name == "train"
            and key != "robot"
            and (options(key) or key in known_keys(config_name))
            and not _robot_given(arguments)
        ):
            return needs_robot(key)
        if match[2]:
            return f"{key}= chooses from a group, and is written with a plus: +{key}=NAME, possible are {', '.join(options(key))}"
        return unknown_key(key, config_name)
    if match := re.search(
        r"Could not find '([^']*)/([^'/]*)'(?:\s*Available options in '[^']*':\n((?:\t.*\n?)*))?", message
    ):
        extra = f"; {install_command('slurm')} adds the launcher submitit_slurm" if match[1] == "hydra/launcher" else ""
        return f"unknown {match[1]} {match[2]!r}: {_nearest(match[2], (match[3] or '').split())}{extra}"
    if match := re.search(r"Could not delete from config\. '?([^' ]*)'?", message):
        return unknown_key(match[1], config_name)
    if match := re.search(r'found duplicate key (.*)\s+in "(.*)", line (\d+)', message):
        return f"{match[2]}: the key {match[1]!r} stands twice, the second time in line {match[3]}: leave one of them"
    if match := re.search(r"Ambiguous value for argument '([^']*)'", message):
        return f"{match[1]} gives several values: add -m to run them one after the other, or write key=[value,value] for a list"
    if override := getattr(error, "override", None):
        return f"cannot read {override!r}: it must be key=value, +key=value or ~key"
    return one_line(error)


@contextmanager
def _options_in_one_line(config_name: str) -> Iterator[None]:
    """Let option parsers raise UnknownOption instead of printing their usage.

    This changes all parsers inside the context, because Hydra makes its own.
    """

    def error(parser: argparse.ArgumentParser, message: str) -> None:
        unknown = re.fullmatch(r"unrecognized arguments: (.*)", message)
        if unknown is None:
            raise UnknownOption(f"{message}; --hydra-help tells the options")
        option = unknown[1].split()[0]
        if not option.startswith("-"):  # argparse takes settings from one place only
            raise UnknownOption(
                f"{option} stands apart from the other settings: write options such as -m before all of them"
            )
        name, equals, value = option.lstrip("-").partition("=")
        if name in known_keys(config_name) or options(name):
            # Argparse took the word after the option for a setting; it is the option's value.
            after = sys.argv[sys.argv.index(option) + 1 :][:1] if option in sys.argv else []
            value = value if equals else "".join(after) if after and not re.search("=|^-", after[0]) else "VALUE"
            plus = "+" if config_name == "train" and options(name) else ""  # a choice from a group
            raise UnknownOption(f"unknown option {option!r}: settings have no dashes, {plus}{name}={value}")
        close = difflib.get_close_matches(option, list(parser._option_string_actions), n=1, cutoff=0.7)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise UnknownOption(
            f"unknown option {option!r}: {meant}Settings are written key=value; --help tells what can be set"
        )

    previous, argparse.ArgumentParser.error = argparse.ArgumentParser.error, error
    try:
        yield
    finally:
        argparse.ArgumentParser.error = previous


def unknown_key(key: str, config_name: str) -> str:
    """One line for a key that the composed configuration does not have."""
    keys = known_keys(config_name)
    if key.startswith(OPEN_GROUPS):
        # The key itself may be in keys, from another robot.
        close = difflib.get_close_matches(key, [other for other in keys if other != key], n=1, cutoff=0.9)
        meant = f"did you mean {close[0]!r}? " if close else ""
        return f"this config has no {key!r}: {meant}To add a term or a parameter write a plus before it, +{key}=VALUE"
    return f"unknown key {key!r}: {_nearest(key, keys)}"


def needs_robot(key: str) -> str:
    """One line for a key that needs a robot when no robot is chosen; it shows the whole command to type."""
    robots = ["gym"] if key.startswith(GYM_KEYS) else options("robot")
    others = [word for word in sys.argv[1:] if not word.startswith("robot=")]
    command = shlex.join(["python", "-m", "train", "+robot=NAME", *others])
    return f"{key} comes with a robot, and no robot is given: choose one with +robot=NAME, possible are {', '.join(robots)}: {command}"


def known_keys(config_name: str) -> list[str]:
    """Dotted keys in the YAML files of an entry; for the training entry also the keys of every robot."""
    trees = [read_yaml(CONFIGS / f"{config_name}.yaml")]
    if config_name == "train":
        trees += [*(compose("robot", robot) for robot in options("robot")), compose("tasks", "gym")]
    keys: dict[str, None] = {}
    for tree in trees:
        keys |= dict.fromkeys(_flatten(tree))
    return [key for key in keys if key.split(".")[0] not in ("hydra", "defaults")]


def one_line(error: BaseException | str) -> str:
    """The message on one line, without OmegaConf's notes and without control characters."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"cannot use {str(Path(error.filename))!r}: {error.strerror.lower()}"
    lines = [
        line
        for line in str(error).splitlines()
        if not line.strip().startswith(("full_key:", "object_type=", "reference_type="))
    ]
    return printable(" ".join(" ".join(lines).split())) or type(error).__name__


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")


def _robot_given(arguments: Sequence[str]) -> bool:
    return any(argument.startswith(("+robot=", "++robot=")) for argument in arguments)


def _nearest(name: str, names: list[str]) -> str:
    """Suggest the nearest of names, or else one with the same last part, or else list possible names.

    The list has the names of the same group, or the names without a group.
    """
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    close = close or [other for other in names if other.rpartition(".")[2] == name.rpartition(".")[2]]
    if close:
        return f"did you mean {close[0]!r}?"
    group = name.rpartition(".")[0]
    beside = [other for other in names if other.rpartition(".")[0] == group] or [
        other for other in names if "." not in other
    ]
    return f"possible are {', '.join(beside) or 'none'}"
