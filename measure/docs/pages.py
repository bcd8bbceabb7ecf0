"""A hook of mkdocs: it adds pages that are written from the code to the pages of docs/, and lists all of them.

`make docs` builds the site. The front page is README. The page of keys is the text of configs/, which explains each
key. The references are lists of names; mkdocstrings reads their docstrings.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import rfx
import rfx.nn
import train
from rfx.commands.cli import command_parsers
from train.commands import report, verify

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"

# Pages of docs/ by heading; a page that no heading names comes last, under its own title.
SECTIONS = {
    "Start": ("index", "commands", "keys", "results"),
    "Guides": ("add_a_robot", "terms", "loop", "policy_inputs", "deploy", "export", "sweeps", "scale"),
    "Reference": ("nn", "observations", "reference/rfx", "reference/nn", "reference/train", "reference/terms"),
    "Project": ("house", "contributing", "changelog", "mutants"),
}
TERMS = {  # modules of terms, by the heading on the page of terms
    "Rewards": "envs.legged.rewards",
    "Terminations": "envs.legged.terminations",
    "Observation terms": "rfx.robot.observation_terms",
    "Privileged observation terms": "envs.legged.privileged",
    "Commands": "envs.legged.commands",
    "Resets": "envs.legged.resets",
    "Pushes": "envs.legged.pushes",
    "Randomization": "envs.legged.randomization",
    "Terrain kinds": "envs.legged.terrain_kinds",
}
SETTINGS = ("train.task.config", "train.ppo.config", "envs.legged.config")
KEYS = {
    "rfx train": ("train.yaml",),
    "The walking task": ("tasks/legged.yaml",),
    "preset=deploy": ("preset/deploy.yaml",),
    "Gymnasium tasks": ("tasks/gym.yaml", "gym_families.yaml"),
    "+scale=ray": ("scale/ray.yaml",),
    "rfx evaluate": ("evaluate.yaml",),
    "rfx play": ("play.yaml",),
    "rfx benchmark": ("benchmark.yaml",),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every page of docs/ and of this file."""
    known = {path.stem for path in (ROOT / "docs").glob("*.md")} | generated().keys()
    listed = {name for names in SECTIONS.values() for name in names}
    config.nav = [
        {section: [f"{name}.md" for name in names if name in known]} for section, names in SECTIONS.items()
    ] + [f"{name}.md" for name in sorted(known - listed)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of this file."""
    for name, text in generated().items():
        files.append(File.generated(config, f"{name}.md", content=text))
    return files


def generated() -> dict[str, str]:
    """Pages that are written from the code, by name."""
    return {
        "index": at_root("README.md"),
        "contributing": at_root("CONTRIBUTING.md"),
        "changelog": at_root("CHANGELOG.md"),
        "keys": keys(),
        "reference/rfx": "# rfx\n\n" + entries("rfx", exports()),
        "reference/nn": "# rfx.nn\n\n" + entries("rfx.nn", places(rfx.nn)),
        "reference/train": "# train\n\n" + entries("train", places(train)) + "\n".join(map(module_entry, SETTINGS)),
        "reference/terms": terms(),
    }


def at_root(name: str) -> str:
    """A page of the checkout's root, with its links rewritten for docs/."""
    text = (ROOT / name).read_text().replace("](docs/", "](").replace("](README.md", "](index.md")
    return (
        re.sub(r"\[([^]]*)\]\(LICENSE\)", r"\1", text)
        .replace("CONTRIBUTING.md", "contributing.md")
        .replace("CHANGELOG.md", "changelog.md")
    )


def keys() -> str:
    """The settings of every command: the files of configs/, and the help of commands that have options."""
    lines = [
        "# Keys and options",
        "",
        "Keys are written `key=value`; a key inside another is written `env.num_envs=64`.",
        "",
    ]
    for title, names in KEYS.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += [f'```yaml title="configs/{name}"', without_hydra((CONFIGS / name).read_text()), "```", ""]
    helps = {name: parser.format_help() for name, parser in command_parsers().items()}
    for name, text in (helps | {"report": help_of(report.main), "verify": help_of(verify.main)}).items():
        lines += [f"## rfx {name}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(lines)


def help_of(main: Callable[[], None]) -> str:
    """The text that a command prints for --help."""
    printed = io.StringIO()
    with patch.object(sys, "argv", ["rfx", "--help"]), redirect_stdout(printed), suppress(SystemExit):
        main()
    return printed.getvalue()


def without_hydra(text: str) -> str:
    """A configuration without the parts that only Hydra reads: the defaults list and Hydra's settings."""
    blocks = re.split(r"^(?=\w[\w]*:)", text, flags=re.MULTILINE)
    return "".join(block for block in blocks if not block.startswith(("defaults:", "hydra:"))).rstrip()


def exports() -> list[str]:
    """The place of definition of every name that rfx exports."""
    return [f"{module}.{name}" for module, names in rfx.EXPORTS.items() for name in names]


def places(module: object) -> list[str]:
    """The place of definition of every name that a module exports."""
    values = [getattr(module, name) for name in getattr(module, "__all__", ())]
    return [f"{value.__module__}.{value.__qualname__}" for value in values]


def entries(package: str, names: Iterable[str]) -> str:
    """Entries for mkdocstrings. Each heading is the name under which the package exports the entry."""
    return "".join(
        f"::: {name}\n    options:\n      heading: {package}.{name.rpartition('.')[2]}\n      heading_level: 2\n\n"
        for name in names
    )


def module_entry(name: str) -> str:
    """All that a module defines, for mkdocstrings."""
    return f"## {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n      heading_level: 3\n"


def terms() -> str:
    """The page of all terms, by kind."""
    lines = ["# Terms", "", "Terms are plain functions. A task's YAML names them, with their parameters.", ""]
    for title, module in TERMS.items():
        lines += [f"## {title}", "", module_entry(module).partition("\n\n")[2]]
    return "\n".join(lines)
