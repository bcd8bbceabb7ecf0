"""The figures of README and docs: measured by commands, kept in docs/figures.json, rendered between markers, stale when
their code changes.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from test_suite import made_up

from envs.settings.configs import compose
from measure import figures
from measure.claims import cell, read_groups
from measure.figures import Figures, main, read_arguments
from measure.gym import PUBLISHED
from measure.markdown import SUMMARY, blocks, median_of, rendered, section
from train.judge.crossings import TERRAIN
from train.runs import fingerprint
from train.task.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """import json, sys, time
given = dict(word.split("=") for word in sys.argv[1:])
with open("calls.txt", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
time.sleep(0.05)
if given["row"] in open("broken.txt").read():
    raise SystemExit(3)
json.dump({"falls": 2.0 * int(given["seed"]), "power": None, "steps": 1_505_280}, open(given["to"], "w"))
"""


class Tomorrow(datetime):
    """It is a day later."""

    @classmethod
    def now(cls):
        return super().now() + timedelta(days=1)


GROUPS = """paths: {all: [code]}
groups:
  walk:
    about: what walks
    minutes: 1
    rows: {dog: {label: Dog}, cat: {label: Cat}}
    seeds: [1, 4]
    commands: {first: "measure row={row} seed={seed} to={output}", second: "measure row={row} seed={seed} to={folder}/result.json again={folder}"}
    depends: [all, ":!code/notes.txt", "{row}.yaml"]
    head: [who, falls, power, steps]
    each: ["{label} {seed}", "{first[falls]:.1f}", "{second[power]:.0f} W", "{second[steps]:.1fM}"]
    median: true
    lines: [[target, "3", "", ""]]
    summary: ["walking, {first[steps]:.1fM}", "{first[falls]:.1f} falls"]
  other:
    about: apart
    minutes: 90
    apart: true
    rows: {dog: {}}
    commands: {first: "measure row={row} seed={seed} to={output}"}
    depends: [code]
    head: [what, figure]
    lines: [[falls, "{first[falls]:.2f}"]]
"""
README = "# Title\n\n<!-- figures: summary -->\n<!-- end -->\n\n<!-- figures: walk -->\nold\n<!-- end -->\n\n<!-- figures: other -->\nnot yet\n<!-- end -->\nend\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a command to measure by, and code that figures depend on."""
    for name, text in {
        "measure.py": COMMAND,
        "groups.yaml": GROUPS,
        "README.md": README,
        "broken.txt": "",
        "code/a.py": "1",
        "dog.yaml": "1",
        "code/notes.txt": "1",
        "cat.yaml": "1",
        ".gitignore": "runs\ncalls.txt\n__pycache__\n",
        "docs/more.md": "no marker\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=root, check=True)


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", "x")


def run(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """How many commands `python -m measure.figures` ran."""
    calls = root / "calls.txt"
    calls.write_text("")
    monkeypatch.setattr(sys, "argv", ["figures", *arguments])
    with open(root / "runs.log", "w") as log:
        main(root, root / "groups.yaml", Console(file=log, width=200))
    return len(calls.read_text().splitlines())


@pytest.mark.e2e
def test_figures_are_measured_once_and_shown_between_the_markers(checkout, monkeypatch):
    assert run(checkout, monkeypatch) == 8  # two rows, two seeds, two commands
    text = (checkout / "README.md").read_text()
    shown = blocks(text)
    assert shown["walk"].startswith(
        "| who | falls | power | steps |\n| --- | --- | --- | --- |\n| Dog 1 | 2.0 | - W | 1.5 M |\n"
        "| Dog 4 | 8.0 | - W | 1.5 M |\n| Cat 1 | 2.0 |"
    )
    assert (
        "| median | 5.0 | - W | 1.5 M |\n| target | 3 |  |  |\n\n`python -m measure.figures --only walk`, "
        in shown["walk"]
    )
    assert shown["summary"] == "| what | measured |\n| --- | --- |\n| walking, 1.5 M | 5.0 falls |\n"
    assert "tale" not in text and text.endswith("end\n") and shown["other"] == "not yet\n"  # that one is apart
    values = json.loads((checkout / "docs" / "figures.json").read_text())["walk"]["cat/4"]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert (
        values["commit"] == head and values["first"]["falls"] == 8.0 and values["provenance"]["cores"] == os.cpu_count()
    )
    assert values["first"]["process_s"] >= 0.05 and values["second"]["command"].startswith(
        "measure row=cat seed=4 to=runs/figures/walk/cat/4/"
    )
    assert str(checkout) not in (checkout / "docs" / "figures.json").read_text()
    commit(checkout)  # figures.json and README are no code
    assert run(checkout, monkeypatch) == 0 and (checkout / "README.md").read_text() == text
    assert (
        run(checkout, monkeypatch, "--only", "other") == 1
        and "| falls | 0.00 |" in blocks((checkout / "README.md").read_text())["other"]
    )


@pytest.mark.e2e
@pytest.mark.parametrize("committed", [False, True])
def test_a_figure_is_stale_when_its_code_has_changed_and_only_then(checkout, monkeypatch, committed):
    run(checkout, monkeypatch)
    commit(checkout)
    (checkout / "code" / "notes.txt").write_text("2")
    (checkout / "measure.py").write_text(COMMAND + "\n")
    assert run(checkout, monkeypatch) == 0
    (checkout / "cat.yaml").write_text("2")
    (checkout / "code" / "new.py").write_text("2") if not committed else commit(checkout)
    assert run(checkout, monkeypatch, "--render") == 0
    values = json.loads((checkout / "docs" / "figures.json").read_text())["walk"]
    new = [] if committed else ["code/new.py"]  # of no commit yet
    assert values["dog/1"]["changed_since"] == new and values["cat/1"]["changed_since"] == ["cat.yaml", *new]
    assert (
        f"**Stale**: what it depends on has changed since, in {1 + len(new)} file"
        in (text := (checkout / "README.md").read_text())
        and "| 5.0 falls (**stale**) |" in text
    )
    assert "stale" in (checkout / "runs.log").read_text()
    assert run(checkout, monkeypatch) == (4 if committed else 8)
    assert ("differ from the last commit" in (checkout / "runs.log").read_text()) != committed
    assert (
        "Stale" in (checkout / "README.md").read_text()
    ) != committed  # measured with changes that no commit has: nobody can repeat it


@pytest.mark.e2e
def test_what_is_worked_out_of_other_figures_is_stale_when_those_are_measured_anew(checkout, monkeypatch):
    groups = (
        GROUPS
        + """  reader:
    about: works out
    minutes: 1
    apart: true
    reads: other
    rows: {dog: {}}
    commands: {first: "measure row={row} seed={seed} to={output} from={source}/first.json"}
    depends: [measure.py]
    head: [what, figure]
    lines: [[falls, "{first[falls]:.2f}"]]
"""
    )
    (checkout / "groups.yaml").write_text(groups)
    commit(checkout)
    both = "--only", "other", "--only", "reader"
    assert run(checkout, monkeypatch, *both) == 2 and run(checkout, monkeypatch, *both) == 0
    values = json.loads((checkout / "docs" / "figures.json").read_text())["reader"]["dog/0"]
    assert values["first"]["command"].endswith(" from=runs/figures/other/dog/0/first.json")
    shutil.rmtree(checkout / "runs" / "figures" / "other")
    monkeypatch.setattr(figures, "datetime", Tomorrow)  # when a command began is noted to the second
    assert run(checkout, monkeypatch, "--only", "other") == 1
    stale = lambda: json.loads((checkout / "docs" / "figures.json").read_text())["reader"]["dog/0"]["changed_since"]  # noqa: E731
    assert (
        stale() == ["runs/figures/other/dog/0"]
        and "stale: runs/figures/other/dog/0 changed since" in (checkout / "runs.log").read_text()
    )
    assert run(checkout, monkeypatch, *both) == 1 and stale() == []
    for wrong in ("none", "walk"):  # that one has other seeds
        (checkout / "groups.yaml").write_text(groups.replace("reads: other", f"reads: {wrong}"))
        with pytest.raises(
            ValueError, match=f"reader.reads: got '{wrong}', expected a group with the same rows and seeds"
        ):
            read_groups(checkout / "groups.yaml")


@pytest.mark.e2e
def test_a_command_that_fails_is_told_and_the_others_go_on(checkout, monkeypatch):
    (checkout / "broken.txt").write_text("dog")
    with pytest.raises(SystemExit) as exit:
        run(checkout, monkeypatch)
    assert (
        exit.value.code == 1
        and (checkout / "runs.log").read_text().count("failed, with exit code 3: python -m measure row=dog") == 2
    )
    values = json.loads((checkout / "docs" / "figures.json").read_text())
    assert set(values["walk"]) == {"cat/1", "cat/4"}
    assert "2 of 4 runs are missing" in (checkout / "README.md").read_text()
    (checkout / "broken.txt").write_text("")
    assert run(checkout, monkeypatch) == 4 and "missing" not in (checkout / "README.md").read_text()


@pytest.mark.e2e
def test_what_was_interrupted_begins_anew(checkout, monkeypatch):
    run(checkout, monkeypatch)
    folder = checkout / "runs" / "figures" / "walk" / "dog" / "4"
    (folder / "mine").write_text("")
    assert run(checkout, monkeypatch) == 0 and (folder / "mine").exists()  # nothing is measured, so nothing is tidied
    (folder / "result.json").unlink()
    (folder / "half").mkdir()  # of the second command
    (folder / "half" / "done").write_text("")
    assert run(checkout, monkeypatch) == 1 and not (folder / "half").exists()
    (folder / "first.json").unlink()  # what the second command read
    (folder / "leftover").write_text("")
    assert run(checkout, monkeypatch) == 2 and not (folder / "leftover").exists()
    (folder / "measured.json").write_text('{"fir')
    assert run(checkout, monkeypatch) == 2


def test_medians_are_of_every_number_and_keep_what_could_not_be_measured():
    trees = [
        {"a": 1, "b": {"c": 0.5, "d": None}, "e": "x", "f": [1, 10], "g": True},
        {"a": 5, "b": {"c": 0.1, "d": 3.0}, "e": "x", "f": [3, 30], "g": True},
        {"a": 2, "b": {"c": 0.2, "d": 4.0}, "e": "y", "f": [2, 20], "h": 1, "g": True},
    ]
    assert median_of(trees) == {"a": 2, "b": {"c": 0.2, "d": None}, "e": None, "f": [2, 20], "g": True}


def test_a_cell_that_names_nothing_measured_is_refused():
    values = {"train": {"wall_s": 90.0, "targets": [{"value": 0.25}]}}
    assert cell("{train[wall_s]:.1fmin}, {train[targets][0][value]:.0%}", values) == "1.5 min, 25%"
    for text in ("{train[wall]}", "{trian[wall_s]}", "{train[targets][1][value]}", "{train[wall_s]:.3q}"):
        with pytest.raises(ValueError, match="cannot be filled in"):
            cell(text, values)


def test_published_figures_are_those_of_the_bench():
    """They stand in the table of docs/results.md and in that of measure.gym, with their sources there."""
    for task, row in read_groups()["gym"].rows.items():
        assert row == {name: f"{figures[task]:g}" if task in figures else "-" for name, figures in PUBLISHED.items()}, (
            task
        )
    assert sum(map(len, PUBLISHED.values())) == sum(
        value != "-" for row in read_groups()["gym"].rows.values() for value in row.values()
    )


def test_wrong_markers_and_groups_are_refused(checkout):
    groups = read_groups(checkout / "groups.yaml")
    with pytest.raises(ValueError, match="has no <!-- end -->"):
        rendered("<!-- figures: walk -->\n<!-- figures: other -->\n<!-- end -->", groups, {})
    with pytest.raises(ValueError, match="a marker names wlak: no group"):
        rendered("<!-- figures: wlak -->\n<!-- end -->", groups, {})
    with pytest.raises(InputError, match="--only wlak: there is no such group, did you mean 'walk'"):
        read_arguments(["--only", "wlak"], groups)
    (checkout / "groups.yaml").write_text(GROUPS.replace('"{first[falls]:.1f}", ', ""))
    with pytest.raises(ValueError, match="a line of 3 cells"):
        read_groups(checkout / "groups.yaml")
    (checkout / "groups.yaml").write_text(GROUPS.replace(', "{first[falls]:.1f} falls"', ""))
    with pytest.raises(ValueError, match="a summary of 1 cells"):
        read_groups(checkout / "groups.yaml")


def test_readme_and_docs_say_what_the_file_says():
    """The only way that a figure gets between the markers, and every group has its place."""
    groups, values = read_groups(), json.loads(path.read_text()) if (path := ROOT / figures.FILE).is_file() else {}
    texts = [path.read_text() for pattern in figures.TEXTS for path in ROOT.glob(pattern)]
    for text in texts:
        assert rendered(text, groups, values) == text, (
            "run python -m measure.figures --render, and commit what it writes"
        )
    assert sorted(name for text in texts for name in blocks(text)) == sorted([*groups, SUMMARY])
    assert values.keys() <= groups.keys()


def test_the_deploy_and_rough_tables_find_what_the_suite_writes():
    """The suite's own figures, made up, where playing them takes minutes; targets stand in the order that the table has
    them in.
    """
    groups, suite = read_groups(), made_up(falls=30, survived=60)
    times = {"process_s": 1332.0, "other_cores": 0.02}
    nominal = suite.nominal.to_dict()
    suite = {"suite": {**nominal, "as_trained": nominal, "worst_corner": nominal, "suite": suite.to_dict(), **times}}
    measured = {
        "go2/0": {
            "train": {"steps": 6e6, **times},
            **suite,
            "began": "2026-01-02T03",
            "commit": "a" * 40,
            "changed_since": [],
            "provenance": dict.fromkeys(("cores", "processor", "python", "mujoco", "tinygrad"), "x"),
        }
    }
    lines = section("deploy", groups["deploy"], measured).splitlines()
    falls = "0.029, 0.040"  # of 30 events at most 40.69, chi-squared
    each = f"| 0 | 1332 s | {falls} | 0.010, 0.010, 0.010 | 0.010 | 93.8%, 93.8% | 0.029, 0.029 | {', '.join(['0.029'] * 4)} | 0.040 m | "
    assert lines[2].startswith(each) and lines[3].startswith(each.replace("| 0 |", "| median |"))
    told = [target["name"] for target in suite["suite"]["suite"]["targets"]]
    assert told[4:] == [
        "falls at friction 0.4",
        "falls at friction 1.2",
        "falls with 3 kg",
        "falls at 20 ms latency",
        "error vx with a joint damping of 2 N m s/rad",
        "survives pushes of 1 m/s",
        "drift on a zero command",
    ]
    terrain = suite["suite"]["suite"]["terrain"]
    terrain["crossed"] = [[0.1 * level + 0.01 * kind for kind in range(6)] for level in range(10)]
    assert [list(compose("terrain", TERRAIN)["env"]["terrain"]["kinds"])[i] for i in (3, 5)] == ["stairs_up", "gaps"]
    lines = section("rough", groups["rough"], measured).splitlines()
    assert (
        lines[2] == f"| 0 | 22.2 min | 2 | 63%, 73%, 83%, 93% | 35%, 45%, 55%, 65% | {falls} | 0.010, 0.010, 0.010 |"
    ), lines
    assert lines[-3].startswith("| target | 12 min | 6 |"), lines


TINY = (
    "threads=1 env.num_envs=8 trainer.rollout_steps=8 trainer.total_steps=64 policy.hidden=[16] trainer.final_evaluation_envs=4 "
    "trainer.final_evaluation_s=0.3"
)


@pytest.mark.e2e
def test_the_groups_of_runs_find_what_their_commands_write(tmp_path, monkeypatch):
    """The default group itself, with commands that take seconds; what the robots' table shows is among it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    groups = read_groups()
    commands = {
        name: f"{command} {TINY if name == 'train' else 'num_envs=4 duration_s=1.2 threads=1'}"
        for name, command in groups["default"].commands.items()
    }
    groups["default"] = dataclasses.replace(groups["default"], commands=commands, seeds=(7,))
    (tmp_path / "docs").mkdir()
    measured = Figures(groups, tmp_path, Console(quiet=True))
    assert measured.measure(["default"])
    values = json.loads((tmp_path / "docs" / "figures.json").read_text())["default"]
    assert values["go2/7"]["train"]["seed"] == 7 and values["go2/7"]["train"]["steps"] == 64
    assert [values["go2/7"][name]["timestep_s"] for name in ("at_10_ms", "at_5_ms", "at_2_ms")] == [0.01, 0.005, 0.002]
    assert section("default", groups["default"], values).startswith("| seed | wall time | ")
    assert "Unitree A1, `+robot=a1` | 0.0 M | " in section("robots", groups["robots"], {"a1/0": values["go2/7"]})
