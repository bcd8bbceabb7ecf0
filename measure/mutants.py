"""Mutation testing: which changes of our code do its tests not notice? mutmut makes the changes, one at a time, and
docs/mutants.md tells.

    python measure/mutants.py                        the files of pyproject.toml's [tool.mutants] that docs/mutants.md does not know yet
    python measure/mutants.py --all                  all of them: 40 minutes on two cores
    python measure/mutants.py train/ppo/gae.py ...   these files
    python measure/mutants.py --again train/ppo/gae.py ...   also what their tests did not notice when they last ran
    python measure/mutants.py --report               docs/mutants.md alone

Each file has a folder of its own under mutants/, for its own tests: a mutant is quick, and what is found does not
depend on other files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rfx.system import extras

ROOT = Path(__file__).resolve().parent.parent
FOLDER, REASONS, PAGE = ROOT / "mutants", ROOT / "measure" / "mutants.yaml", ROOT / "docs" / "mutants.md"
TESTS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
TIMEOUT, SURVIVED = (
    (-24, -9, 24, 36, 152, 255),
    (0, 5, 33),
)  # exit codes. 5 and 33: no test reaches the mutant. All other codes: killed
BEGIN, END = "<!-- mutants -->", "<!-- end -->"


def folder_of(file: str) -> Path:
    """The folder in which mutmut works on a file."""
    return FOLDER / file.removesuffix(".py").replace("/", ".")


def set_up(file: str) -> Path:
    """Make a file's folder: the sources, linked, and a configuration for this file and its tests. Returns it."""
    folder = folder_of(file)
    (folder / "mutants" / "tests").mkdir(
        parents=True, exist_ok=True
    )  # before Python knows the path: it does not look again for a folder that was missing
    for name in ("rfx", "train", "tests"):  # mutmut copies these folders
        (folder / name).is_symlink() or (folder / name).symlink_to(ROOT / name)
    for name in ("envs", "configs", "assets", "hydra_plugins"):
        (folder / "mutants" / name).is_symlink() or (folder / "mutants" / name).symlink_to(ROOT / name)
    # A process that ran only NumPy may be forked, and then the quickest tests come first. tinygrad has threads, which
    # a forked process lacks.
    isolation = "fork" if file.startswith("rfx/drivers/") else "forkserver"
    own = {"only_mutate": [file], "pytest_add_cli_args_test_selection": TESTS[file], "process_isolation": isolation}
    table = "[tool.mutmut]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in own.items())
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text().replace("[tool.mutmut]\n", table))
    return folder


def results(file: str) -> dict[str, int | None]:
    """mutmut's exit code of every mutant of a file.

    It is None if the mutant has not run, or if its function has changed since.
    """
    from mutmut.mutation.file_mutation import compute_function_hashes

    meta = folder_of(file) / "mutants" / f"{file}.meta"
    if not meta.exists():
        return {}
    found, now = json.loads(meta.read_text()), compute_function_hashes((ROOT / file).read_text())
    changed = {name for name, before in found["hash_by_function_name"].items() if now.get(name) != before}
    return {
        name: None if name.rpartition(".")[2].partition("__mutmut")[0] in changed else code
        for name, code in found["exit_code_by_key"].items()
    }


def run(file: str, again: bool) -> None:
    """Run the mutants of a file that have not run; with again, those that no test noticed."""
    folder = set_up(file)
    names = [name for name, code in results(file).items() if code in SURVIVED + TIMEOUT] if again else []
    environment = {
        **os.environ,
        "CPU_COUNT": "1",
        "OMP_NUM_THREADS": "1",
        "CACHEDB": str(FOLDER / "cache.db"),  # of mutated kernels
        "PYTHONPATH": str(folder / "mutants" / "tests"),
        "PYTEST_ADDOPTS": "-p mutants",
    }
    subprocess.run([sys.executable, "-m", "mutmut", "run", *names], cwd=folder, env=environment, check=True)


def pytest_collection_modifyitems(items: list) -> None:
    """This file as a plugin of pytest: the quickest tests come first, as mutmut measured them.

    Its fork server does not mind their order.
    """
    if (measured := Path("mutmut-stats.json")).exists():
        seconds = json.loads(measured.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))


def pytest_collection_finish() -> None:
    """Refuse tests whose import opens a tinygrad device.

    Processes forked from this one share the device's memory. Mutants that run side by side would write into each
    other's tensors.
    """
    device = sys.modules.get("tinygrad.device")
    if device and device.Device._opened_devices:
        raise pytest.UsageError(
            f"importing the tests opened {', '.join(device.Device._opened_devices)}; expected no device before a test runs"
        )


@dataclass(frozen=True)
class Survivor:
    """A mutant that no test noticed: where it is, and the lines that it changes."""

    function: str
    before: str
    after: str


def survivors(file: str) -> Iterator[Survivor]:
    """The mutants of a file that no test noticed, as mutmut shows them."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    if not (found := results(file)):
        return
    os.chdir(folder_of(file))  # mutmut looks in the working directory
    for name, code in found.items():
        if code in SURVIVED:
            lines = get_diff_for_mutant(name, path=file).splitlines()[3:]
            before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
            yield Survivor(
                name.rpartition(".")[2]
                .partition("__mutmut")[0]
                .removeprefix("x_")
                .removeprefix("xǁ")
                .replace("ǁ", "."),
                before,
                after,
            )


def difference(before: str, after: str) -> str:
    """What changed between two lines, with a few words around it."""
    same = len(os.path.commonprefix([before, after]))
    rest = len(os.path.commonprefix([before[same:][::-1], after[same:][::-1]]))
    begin = max(before.rfind(" ", 0, max(same - 24, 0)), 0)
    parts = [text[begin : min(len(text) - rest + 16, len(text))].strip() for text in (before, after)]
    return " → ".join(f"`{part}`" for part in parts)


def row(file: str) -> str:
    """A file's line in the table."""
    codes = list(results(file).values())
    done, survived, late = (
        len(codes) - codes.count(None),
        sum(code in SURVIVED for code in codes),
        sum(code in TIMEOUT for code in codes),
    )
    share = f"{100 - 100 * survived / done:.1f}%" if done else ""
    if not codes or done < len(codes):
        share = f"not done, {done} have run" + (f": {share}" if share else "")
    return f"| {file} | {len(codes) or ''} | {done - survived or ''} | {late if done else ''} | {survived if done else ''} | {share} | {version(file)} |"


def total(rows: list[str]) -> str:
    """The table's last line: the sums of the lines above it."""
    made, killed, late, survived = (
        sum(int(cell) for cell in column if cell.strip()) for column in zip(*(row.split("|")[2:6] for row in rows))
    )
    return f"| all | {made} | {killed} | {late} | {survived} | {f'{100 * killed / (killed + survived):.1f}%' if killed else ''} | |"


def listing(file: str, reasons: list[dict[str, str]]) -> list[str]:
    """A file's survivors, one line each, with the reason why they may stay. Prints reasons that fit no survivor."""
    used, lines = set(), []
    for survivor in survivors(file):
        function = survivor.function
        fitting = [
            i
            for i, entry in enumerate(reasons)
            if entry["change"] in survivor.after and entry.get("in", function) == function
        ]
        used |= {*fitting[:1]}
        reason = reasons[fitting[0]]["why"] if fitting else "**no reason yet**"
        lines.append(f"- {function}: {difference(survivor.before, survivor.after)}: {reason}")
    for i, entry in enumerate(reasons):
        if i not in used:
            print(f"mutants.yaml has a reason that fits no survivor of {file}: {entry['change']}", file=sys.stderr)
    return [f"\n### {file}\n", *lines] if lines else []


def version(file: str) -> str:
    """The commit that last changed a file."""
    return subprocess.run(
        ["git", "log", "-1", "--format=%h", "--abbrev=7", "--", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def known() -> tuple[dict[str, str], dict[str, list[str]]]:
    """The parts of docs/mutants.md about files that have not changed since.

    Returns their lines in the table, and the lists of their survivors.
    """
    table, *sections = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip().split("\n\n### ")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines()}
    return (
        {file: line for file, line in rows.items() if file in TESTS and line.endswith(f"| {version(file)} |")},
        {section.partition("\n")[0]: ["\n### " + section] for section in sections},
    )


def page() -> str:
    """The tables of docs/mutants.md: new ones of files that ran here, and the present ones of other files."""
    reasons, rows, lists = yaml.safe_load(REASONS.read_text()), [], []
    before, listed = known()
    for file in TESTS:
        here = file not in before or any(code is not None for code in results(file).values())
        rows.append(row(file) if here else before[file])
        lists += listing(file, reasons.get(file, [])) if here else listed.get(file, [])
    return "\n".join(
        [
            "| file | mutants | killed | of them by a time limit | survived | share killed | the file of |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            total(rows),
            *lists,
        ]
    )


def report() -> None:
    """Write the tables into docs/mutants.md, between its marks."""
    table = page()
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    extras.exit_without("mutants", "make mutants")
    if unknown := [file for file in arguments.files if file not in TESTS]:
        parser.error(
            f"got {', '.join(unknown)}; expected files of [tool.mutants] in pyproject.toml: {', '.join(TESTS)}"
        )
    done = [file for file, line in known()[0].items() if "not done" not in line]
    for file in (
        () if arguments.report else arguments.files or [file for file in TESTS if arguments.all or file not in done]
    ):
        run(file, arguments.again)
        report()
    report()


if __name__ == "__main__":
    main()
