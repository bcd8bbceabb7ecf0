"""How the trainer's commands begin: `rfx train`, and `python -m train`, which is the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from rfx.system.extras import exit_without
from rfx.system.floors import exit_on_foreign
from rfx.system.interrupt import leave_on_interrupt


def run(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run train/commands/NAME.py with these arguments, by default those of the process."""
    leave_on_interrupt()  # before the imports, which take a second; a run takes over while there is something to save
    exit_on_foreign("envs", "train")
    exit_without("train", f"rfx {name}")
    if arguments is not None:
        sys.argv = [f"rfx {name}", *arguments]  # Hydra reads them there
    importlib.import_module(f"train.commands.{name}").main()
