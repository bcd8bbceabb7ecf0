"""docs/deploy.md: every option and extra in it is one that there is, and its tables say what the code does.
test_pages.py reads its commands.
"""

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from rfx.commands.cli import command_parsers
from rfx.drivers.go2.operator.deployment import LEADING, NAMES
from rfx.drivers.go2.rules.safety import SafetyLimits
from rfx.drivers.robot import MAX_VELOCITY_COMMAND

ROOT = Path(__file__).resolve().parents[2]
PAGE, README = ((ROOT / name).read_text() for name in ("docs/deploy.md", "README.md"))
TRAINERS = {entry.name for entry in entry_points(group="rfx.commands")}


def test_every_command_that_it_names_is_one():
    assert set(re.findall(r"`rfx ([a-z][\w-]*)", PAGE + README)) <= {*command_parsers(), *TRAINERS}


def test_every_option_it_names_is_one():
    known = {option for sub in command_parsers().values() for option in sub._option_string_actions}
    for span in re.findall(r"`([^`\n]*)`", re.sub(r"```sh.*?```", "", PAGE, flags=re.DOTALL)):
        for option in re.findall(r"(?<!\S)--\w[\w-]*", span):
            assert option in known, option


def test_every_extra_it_names_is_one():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for group in re.findall(r"\.\[([\w,]+)\]", PAGE + README) for name in group.split(",")}
    assert {"go2", "sim", "train", "viz"} <= named <= extras.keys()


def test_its_limits_are_the_drivers():
    rows = dict(re.findall(r"\| `(\w+)` = ([\d.]+) \|", PAGE))
    assert len(rows) == 9
    assert {name: float(value) for name, value in rows.items()} == {
        name: float(getattr(SafetyLimits(), name)) for name in rows
    }
    limits = SafetyLimits()
    assert f"kp {limits.stand_kp:g}, kd {limits.stand_kd:g}" in PAGE and f"kp 0, kd {limits.damping_kd:g}" in PAGE
    assert (
        f"down over {limits.lie_s:g} s" in PAGE
        and f"damps for {limits.damping_s:g} s" in PAGE
        and f"within about {limits.stand_s:g} s" in PAGE
    )
    assert (
        "{:.1f} m/s and {:.1f} m/s".format(*MAX_VELOCITY_COMMAND) in PAGE
        and f"is {MAX_VELOCITY_COMMAND[2]} rad/s" in PAGE
    )


def test_its_states_and_buttons_are_the_programs():
    def column(heading):
        table = PAGE.split(heading)[1].split("\n\n")[0]
        return {row.split("|")[1].strip(" *") for row in table.splitlines() if row.startswith("|") and "---" not in row}

    assert column("## States\n\n| state") == set(NAMES.values())
    assert column("## Remote\n\n| button") >= {*LEADING, "L2+B"}


@pytest.mark.parametrize(
    "picture", re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE) + re.findall(r"\]\((\.\./[^)]+)\)", PAGE)
)
def test_what_it_links_to_is_there(picture):
    assert (ROOT / "docs" / picture).is_file()
