"""Start of the trainer's commands: `rfx train`, and `python -m train`, which does the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from rfx.system.extras import exit_without
from rfx.system.floors import exit_on_foreign
from rfx.system.interrupt import leave_on_interrupt


def run(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run train/commands/NAME.py with these arguments; the default is the arguments of the process."""
    leave_on_interrupt()  # before the imports, which take a second; a run sets its own handler later
    exit_on_foreign("envs", "train")
    exit_without("train", f"rfx {name}")
    if arguments is not None:
        sys.argv = [f"rfx {name}", *arguments]  # Hydra reads its arguments from sys.argv
    importlib.import_module(f"train.commands.{name}").main()
