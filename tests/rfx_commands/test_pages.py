"""Every Python block of docs/ runs by itself and prints what it says; every command of docs/ and README is one that the
program takes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import rfx
from rfx.observation.arrays import is_installed, library

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
TEXTS = PAGES | {name: (ROOT / f"{name}.md").read_text() for name in ("README", "CONTRIBUTING")}
TESTED_ELSEWHERE = {
    "add_a_robot": "test_add_a_robot.py",
    "export": "test_onnx.py",
    "loop": "test_loop_page.py",
    "terms": "test_terms_page.py",
}  # pages whose Python needs files or trains, by the test that runs it


def blocks(text: str, language: str) -> list[str]:
    """A page's blocks of a language, without the indentation that they have in a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def python_blocks() -> list[tuple[str, int]]:
    return [
        (name, number)
        for name, text in PAGES.items()
        if name not in TESTED_ELSEWHERE
        for number in range(len(blocks(text, "python")))
    ]


def run_block(page: str, number: int, with_torch: bool = True) -> dict:
    """Run a block in a namespace of its own; its lines of output are those that stand behind `# prints`.

    Returns the names it leaves.
    """
    block, names, printed = blocks(PAGES[page], "python")[number], {"__name__": f"{page}_{number}"}, io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "device 'cuda' is not available")
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    said = re.findall(r"# prints (.*)", block)
    if not with_torch:
        said = [re.sub(r"torch\.Size\(\[(.*)\]\)", r"(\1)", line) for line in said]
    if said:
        assert printed.getvalue().splitlines() == said, f"{page}, block {number}"
    return names


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """A folder for what blocks write, and a registry that forgets what they register."""
    from rfx.nn import policy

    monkeypatch.setattr(policy, "_registered", dict(policy._registered))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page, number", python_blocks())
def test_a_block_runs_by_itself(page, number):
    if "torch" in blocks(PAGES[page], "python")[number]:
        pytest.importorskip("torch")
    run_block(page, number)


def test_the_front_page_is_two_screens():
    assert len(TEXTS["README"].encode()) < 7_500
    assert "rfx deploy" in blocks(TEXTS["README"], "sh")[0]


def test_a_block_that_takes_something_for_granted_or_prints_something_else_is_seen(monkeypatch):
    monkeypatch.setitem(PAGES, "x", "```python\nprint(y)\n```\n\n```python\nprint(1)  # prints 2\n```\n")
    with pytest.raises(NameError):
        run_block("x", 0)
    with pytest.raises(AssertionError):
        run_block("x", 1)


@pytest.mark.parametrize("page", sorted(TESTED_ELSEWHERE.keys() & PAGES.keys()))
def test_other_pages_have_a_test_that_reads_them(page):
    (test,) = (ROOT / "tests").rglob(TESTED_ELSEWHERE[page])
    assert f"{page}.md" in test.read_text()


def test_observations_without_torch():
    """The blocks that do not name torch run where it cannot be imported, on tinygrad tensors; what needs torch names
    its extra.
    """
    code = """
import re, sys
sys.modules["torch"] = None
sys.path.insert(0, sys.argv[1])
import test_pages
for number, block in enumerate(test_pages.blocks(test_pages.PAGES["observations"], "python")):
    if "torch" not in re.sub(r"#.*", "", block):
        obs = test_pages.run_block("observations", number, with_torch=False).get("obs")
        assert obs is None or test_pages.library(obs["state"]) == "tinygrad"
from rfx.nn import TorchJitPolicy
TorchJitPolicy("model.pt")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, env=environment
    )
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: this needs torch, which is not installed: pip install -e '.[torch]'"
    ), done.stderr


def test_a_robot_gives_torch_tensors_where_torch_is_installed():
    assert library(rfx.MockRobot().observe()["state"]) == ("torch" if is_installed("torch") else "tinygrad")


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in a page's shell blocks, as `rfx NAME ...` or as it is; comments left out."""
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["python", "-m"] and words[2:] and words[2].partition(".")[0] == "train":
                words = ["rfx", words[2].removeprefix("train.")] + words[3:]
            if words:
                yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


GROUPS = ("robot", "preset", "scale", "tasks", "terrain")


@cache
def composed(name: str, groups: tuple[str, ...]):
    """The configuration of a command with what its groups add."""
    from hydra import compose

    return compose(name, list(groups))


def wrong(words: list[str]) -> str | None:
    """What is wrong with an rfx command, or None: an option or a key that there is not.

    Values of keys are not looked at.
    """
    from rfx.commands.cli import command_parsers
    from rfx.commands.deploy import check_options
    from train.commands.train import take_robot_folders

    name, arguments = words[1], words[2:]
    try:
        if name in ("train", "evaluate", "play", "benchmark"):
            keys = [word for word in arguments if word != "-m" and not word.startswith("hydra")]
            groups = tuple(word for word in take_robot_folders(keys) if word.lstrip("+").partition("=")[0] in GROUPS)
            config = composed(name, groups)
            for key in (word.partition("=")[0] for word in keys if word not in groups and word[0] not in "+~"):
                OmegaConf.select(config, key.rpartition(".")[0])[key.rpartition(".")[2]] if "." in key else config[key]
        elif name not in ("report", "verify"):
            options = command_parsers()[name].parse_args(arguments)
            if name == "deploy":
                check_options(options)
    except (SystemExit, Exception) as error:
        return f"{shlex.join(words)}: {type(error).__name__} {error}"


@pytest.fixture(scope="module")
def hydra_configs():
    from hydra import initialize_config_dir

    from envs.settings.configs import CONFIGS

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.mark.parametrize(
    "page", [page for page, text in TEXTS.items() if page != "add_a_robot" and "rfx" in next(zip(*commands(text)), ())]
)
def test_every_command_is_one_that_the_program_takes(page, hydra_configs):
    lines = [words for words in commands(TEXTS[page]) if words[0] == "rfx"]
    assert not [problem for words in lines if (problem := wrong(words))]


def test_the_notebooks_commands_are_ones_that_the_program_takes(hydra_configs):
    cells = json.loads((ROOT / "docs" / "first_walk.ipynb").read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    lines = re.findall(r"^!\{(rfx\} .*)", text, re.MULTILINE)
    assert len(lines) == 3 and not [
        problem for line in lines if (problem := wrong(shlex.split(line.replace("}", "", 1))))
    ]


def test_a_command_that_the_program_does_not_take_is_seen(hydra_configs):
    assert wrong(["rfx", "walk", "x"]) and wrong(["rfx", "deploy", "x", "--robot", "go2", "--viewer"])
    assert wrong(["rfx", "train", "+robot=go2", "env.num_env=4"]) and wrong(["rfx", "train", "-m", "ppo.gama=0.1,0.2"])
