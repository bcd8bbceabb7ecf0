"""What a policy's folder says is shown on a terminal, and never obeyed by it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

import rfx
from rfx.commands.cli import main
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.nn import MLP, go2_mlp
from rfx.policy.folder import CONFIG, WEIGHTS
from rfx.system.text import fit, folded, printable

# sets the title, clears, overwrites the line, turns writing around, C1's CSI
EVIL = "\x1b]0;title\x07\x1b[2J\rok \u202egnp.exe \x9b31m"


def obeyed(text: str) -> set[str]:
    """Characters of a text that a terminal would act on, line ends aside."""
    return {character for character in text if not character.isprintable() and character != "\n"}


def test_printable():
    assert printable("plain text, größer \u2713") == "plain text, größer \u2713" and printable(1.5) == "1.5"
    assert printable("\x1b[31mred\n\t\x07\x7f\x9b\u202e\\n") == r"\x1b[31mred\n\t\x07\x7f\x9b" + r"\u202e" + r"\n"


@pytest.fixture
def folder(tmp_path):
    return go2_mlp([8]).save(tmp_path / "p", robot_config=GO2_CONFIG, training_info={"name": "x"})


def change(folder, **values) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    "values",
    [
        {"training_info": {"name": EVIL, EVIL: 1}},
        {"rfx_version": EVIL},
        {"arguments": {"obs_dim": 48, EVIL: EVIL}},
        {"policy_type": EVIL},
    ],
    ids=lambda values: ", ".join(values),
)
def test_inspect_and_errors(values, folder, capfd):
    change(folder, **values)
    assert main(["inspect", str(folder)]) == 0
    out = capfd.readouterr().out
    assert r"\x1b]0;title\x07\x1b[2J\rok \u202egnp.exe \x9b31m" in out and not obeyed(out)
    main(["deploy", str(folder), "--duration", "0.01"])
    main(["preflight", str(folder), "--interface", "eth9"])
    captured = capfd.readouterr()
    assert not obeyed(captured.out + captured.err)


@pytest.mark.parametrize("where", ["name", "joint", "term", "foot", "mjcf"])
def test_names_of_a_robot_hold_nothing_of_the_kind(where, folder, capfd):
    robot = GO2_CONFIG.to_dict()
    if where in ("name", "mjcf"):
        robot[where] = EVIL
    elif where == "term":
        robot["observation_terms"][0] = EVIL
    else:
        robot["joints" if where == "joint" else "feet"][0]["name"] = EVIL
    change(folder, robot_config=robot)
    with pytest.raises(ValueError, match="expected printable text") as error:
        rfx.inspect_policy(folder)
    assert not obeyed(str(error.value))
    assert main(["inspect", str(folder)]) == 1 and not obeyed(capfd.readouterr().err)
    with pytest.raises(ValueError, match="printable"):
        dataclasses.replace(GO2_CONFIG, name="a\x1b")


def test_errors_that_other_entries_print(folder, tmp_path):
    """`python -m train.evaluate` and its like print errors by themselves."""
    from train.task.errors import one_line

    change(folder, format=3, rfx_version=EVIL)
    with pytest.raises(ValueError, match="install rfx") as error:
        rfx.inspect_policy(folder)
    assert not obeyed(str(error.value)) and not obeyed(one_line(EVIL))
    safetensors.numpy.save_file({EVIL: np.array([np.nan], np.float32)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="not finite") as error:
        MLP.load(tmp_path / WEIGHTS)
    assert not obeyed(str(error.value))


def test_a_line_of_parts_keeps_as_many_as_fit_and_leaves_the_last_column_free():
    parts = ["Walk", "no LowState for 0.3 s", "+0.10 +0.00 m/s", "50 Hz"]
    assert fit(parts, 200) == "Walk | no LowState for 0.3 s | +0.10 +0.00 m/s | 50 Hz"
    assert (
        fit(parts, 54) == "Walk | no LowState for 0.3 s | +0.10 +0.00 m/s"
    )  # all are 54 long: the last column would be filled
    assert fit(parts, 40) == "Walk | no LowState for 0.3 s | 50 Hz"
    assert fit(["standing up"], 9) == "stand..."
    assert all(len(fit(parts, width)) < width for width in range(1, 100))


def test_a_long_line_is_folded_between_words_and_nothing_is_lost():
    line = "remote: Start stands up, A walks, B stands again, L2+B damps at once, always"
    rows = folded(line, 30).split("\n")
    assert max(map(len, rows)) < 30 and " ".join(rows) == line and folded("short", 30) == "short"
