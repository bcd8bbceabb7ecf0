"""Checks that Python finds rfx's own packages: a user's folder may have a `train` or `envs` of its own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]  # folder of rfx, envs and train, in a checkout and in site-packages


def exit_on_foreign(*names: str) -> None:
    """End the process with one line and exit code 2 if Python finds a foreign package with one of these names."""
    for name in names:
        spec = importlib.util.find_spec(name)
        found = spec and Path(spec.origin or next(iter(spec.submodule_search_locations or ()))).resolve()
        if found and HOME / name not in (found, found.parent):
            print(
                f"error: {name!r} is {found}, which is not rfx's: run the command as rfx ..., or in another folder, "
                "or rename it",
                file=sys.stderr,
            )
            raise SystemExit(2)
