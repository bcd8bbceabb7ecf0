"""Mutation testing: which changes of our code do its tests not notice? mutmut makes the changes, one at a time, and docs/mutants.md tells.

    python tests/mutants.py                        every file of pyproject.toml's [tool.mutants]: hours. What is known already stands
    python tests/mutants.py train/ppo/gae.py ...   these files
    python tests/mutants.py --again train/ppo/gae.py ...   also what their tests did not notice when they last ran
    python tests/mutants.py --report               docs/mutants.md alone

Each file has a folder of its own under mutants/, for its own tests: a mutant is quick, and what is found does not depend on other files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER, REASONS, PAGE = ROOT / "mutants", ROOT / "tests" / "mutants.yaml", ROOT / "docs" / "mutants.md"
TESTS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
TIMEOUT, SURVIVED = (-24, -9, 24, 36, 152, 255), (0, 5, 33, None)  # exit codes; 5 and 33: no test reaches it. The others: killed
BEGIN, END = "<!-- mutants -->", "<!-- end -->"


def folder_of(file: str) -> Path:
    """The folder in which mutmut works on a file."""
    return FOLDER / file.removesuffix(".py").replace("/", ".")


def set_up(file: str) -> Path:
    """Make a file's folder: the sources, linked, and a configuration for this file and its tests. Returns it."""
    folder = folder_of(file)
    (folder / "mutants").mkdir(parents=True, exist_ok=True)
    for name in ("rfx", "train", "tests"):  # mutmut copies these
        (folder / name).is_symlink() or (folder / name).symlink_to(ROOT / name)
    for name in ("envs", "configs", "assets", "hydra_plugins"):
        (folder / "mutants" / name).is_symlink() or (folder / "mutants" / name).symlink_to(ROOT / name)
    # NumPy alone may be forked after it ran, and then the quickest tests come first. tinygrad has threads, which a forked process has not.
    isolation = "fork" if file.startswith("rfx/robots/") else "forkserver"
    own = {"only_mutate": [file], "pytest_add_cli_args_test_selection": TESTS[file], "process_isolation": isolation}
    table = "[tool.mutmut]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in own.items())
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text().replace("[tool.mutmut]\n", table))
    return folder


def results(file: str) -> dict[str, int | None]:
    """mutmut's exit code of every mutant of a file; None of one that has not run."""
    meta = folder_of(file) / "mutants" / f"{file}.meta"
    return json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}


def run(file: str, again: bool) -> None:
    """Run the mutants of a file that have not run, or, again, those that no test noticed."""
    folder = set_up(file)
    names = [name for name, code in results(file).items() if code in SURVIVED + TIMEOUT] if again else []
    environment = {**os.environ, "CPU_COUNT": "1", "OMP_NUM_THREADS": "1", "CACHEDB": str(FOLDER / "cache.db"),  # of mutated kernels
                   "PYTHONPATH": str(folder / "mutants" / "tests"), "PYTEST_ADDOPTS": "-p mutants"}
    subprocess.run([sys.executable, "-m", "mutmut", "run", *names], cwd=folder, env=environment, check=True)


def pytest_collection_modifyitems(items: list) -> None:
    """This file as a plugin of pytest: the quickest tests come first, as mutmut measured them. Its fork server does not mind their order."""
    if (measured := Path("mutmut-stats.json")).exists():
        seconds = json.loads(measured.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))


@dataclass(frozen=True)
class Survivor:
    """A mutant that no test noticed: where it is, and the lines that it changes."""

    function: str
    before: str
    after: str


def survivors(file: str) -> Iterator[Survivor]:
    """The mutants of a file that no test noticed, as mutmut shows them."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    for name, code in results(file).items():
        if code in SURVIVED:
            lines = get_diff_for_mutant(name, path=file).splitlines()[3:]
            before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
            yield Survivor(name.rpartition(".")[2].partition("__mutmut")[0].removeprefix("x_").removeprefix("xǁ").replace("ǁ", "."), before, after)


def difference(before: str, after: str) -> str:
    """What changed between two lines, with a few words around it."""
    same = len(os.path.commonprefix([before, after]))
    rest = len(os.path.commonprefix([before[same:][::-1], after[same:][::-1]]))
    begin = max(before.rfind(" ", 0, max(same - 24, 0)), 0)
    parts = [text[begin:min(len(text) - rest + 16, len(text))].strip() for text in (before, after)]
    return " → ".join(f"`{part}`" for part in parts)


def page() -> str:
    """The tables of docs/mutants.md, of what has run."""
    reasons = yaml.safe_load(REASONS.read_text()) or {}
    rows, lists, unused = [], [], []
    for file in TESTS:
        codes = list(results(file).values())
        if not codes or None in codes:
            rows.append(f"| {file} | {len(codes) or ''} | not done |  |  |  |")
            continue
        survived, late = (sum(code in kind for code in codes) for kind in (SURVIVED, TIMEOUT))
        rows.append(f"| {file} | {len(codes)} | {len(codes) - survived} | {late} | {survived} | {100 - 100 * survived / len(codes):.1f}% |")
        os.chdir(folder_of(file))
        known, told = reasons.get(file, []), Counter()
        items = []
        for survivor in survivors(file):
            reason = next((entry for entry in known if entry["change"] in survivor.after and entry.get("in", survivor.function) == survivor.function), None)
            told[id(reason)] += 1
            items.append(f"- {survivor.function}: {difference(survivor.before, survivor.after)}: {reason['why'] if reason else '**no reason yet**'}")
        unused += [f"{file}: {entry['change']}" for entry in known if not told[id(entry)]]
        lists += [f"\n### {file}\n", *items] if items else []
    for line in unused:
        print(f"mutants.yaml has a reason that fits no survivor: {line}", file=sys.stderr)
    return "\n".join(["| file | mutants | killed | of them by a time limit | survived | killed |", "| --- | --- | --- | --- | --- | --- |", *rows, *lists])


def report() -> None:
    """Write the tables into docs/mutants.md, between its marks."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{page()}\n{END}{rest.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", choices=[[], *TESTS], metavar="FILE")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    for file in () if arguments.report else arguments.files or TESTS:
        run(file, arguments.again)
    report()


if __name__ == "__main__":
    main()
