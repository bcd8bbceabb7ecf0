"""`python -m train.report FOLDER [FOLDER ...]`: one HTML page about a sweep, or about any runs side by side."""

from __future__ import annotations

if __name__ == "__main__":
    from rfx.system.extras import exit_without
    from rfx.system.interrupt import leave_on_interrupt

    leave_on_interrupt()
    exit_without("train", "python -m train.report")

import argparse
import sys
from pathlib import Path

from rfx.settings.terms import search_working_directory
from train.runs.resume import RECORD, use_modules_of
from train.sweeps.sweep_report import PAGE, write_page
from train.task.errors import InputError, one_line


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(
        prog="rfx report",
        description="Writes one HTML page about a sweep, or about any runs side by "
        "side: tables, curves, what the keys are worth, and the best policy's video (extra viz).",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="of a sweep or a run, such as runs/DATE_TIME_sweep"
    )
    parser.add_argument("--output", type=Path, metavar="PATH", help=f"the page; default {PAGE} in the first folder")
    parser.add_argument("--no-video", action="store_true", help="leave the best policy's video out")
    given = parser.parse_args()
    search_working_directory()
    try:
        for record in (record for folder in given.folders for record in sorted(folder.glob(f"**/{RECORD}"))):
            use_modules_of(record.parent, print)  # the video needs the user's modules
        path = write_page(given.folders, given.output or given.folders[0] / PAGE, video=not given.no_video)
    except (InputError, ImportError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    print(path)


if __name__ == "__main__":
    main()
