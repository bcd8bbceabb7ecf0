"""Policies on the Hugging Face Hub: its own client, in processes of their own, against a stand-in for its HTTP
interface.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hub_server import TOKEN, Hub

import rfx
from rfx.commands.model_card import card_files, find_evaluation, model_card
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.nn import MLP, Policy, go2_mlp
from rfx.policy.folder import CONFIG, NORMALIZER, WEIGHTS
from rfx.policy.normalizer import ObservationNormalizer

pytest.importorskip("huggingface_hub")
ROOT = Path(__file__).resolve().parents[2]
RUN = "import sys, json; from rfx.commands.cli import main; sys.exit(max(main(arguments) for arguments in json.loads(sys.argv[1])))"


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture
def rfx_(hub, tmp_path):
    """Runs commands of rfx one after the other in a process that has the stand-in as its hub, and a cache of its
    own.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }

    def run(*commands: list[str], **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", RUN, json.dumps([list(map(str, command)) for command in commands])],
            cwd=tmp_path,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def told_commit(text: str) -> str:
    return re.search(r"@([0-9a-f]{40})$", text, re.MULTILINE)[1]


def small(path: Path, **bundle) -> Path:
    return MLP(4, 2, [3], rng=np.random.default_rng(0)).save(path, **bundle)


@pytest.mark.e2e
def test_a_walking_policy_goes_there_and_back(rfx_, hub, tmp_path):
    """push, then inspect and deploy from the hub: the page, the picture, the same files, and the commit with which to
    have them again.
    """
    folder = go2_mlp([8]).save(
        tmp_path / "run" / "policy",
        robot_config=GO2_CONFIG,
        normalizer=ObservationNormalizer(48),
        training_info={"name": "walker", "task": "legged", "seed": 3, "steps": 1000},
    )
    (tmp_path / "run" / "evaluation.json").write_text(
        json.dumps({"falls_per_episode": 0.25, "error_vx": 0.0412345, "policy": str(folder)})
    )
    done = rfx_(["push", folder, "someone/walker", "--private"])
    assert done.returncode == 0 and re.fullmatch(r"pushed: hf://someone/walker@[0-9a-f]{40}\n", done.stdout), (
        done.stderr
    )
    commit, files = hub.find("someone/walker", "main")
    assert told_commit(done.stdout) == commit and hub.private["someone/walker"]
    can_draw = find_library("EGL") is not None or bool(os.environ.get("DISPLAY"))
    assert set(files) == {
        ".gitattributes",
        "README.md",
        WEIGHTS,
        CONFIG,
        NORMALIZER,
        *(["robot.png"] if can_draw else []),
    }
    assert all(files[name] == (folder / name).read_bytes() for name in (WEIGHTS, CONFIG, NORMALIZER))
    card = files["README.md"].decode()
    assert (
        "# walker" in card
        and "| falls\\_per\\_episode | 0.25 |" in card
        and "| error\\_vx | 0.04123 |" in card
        and "| steps | 1000 |" in card
    )
    assert "rfx deploy hf://someone/walker --robot sim" in card
    if can_draw:
        assert (
            "![the robot, under this policy](robot.png)" in card
            and files["robot.png"].startswith(b"\x89PNG")
            and len(files["robot.png"]) > 10_000
        )
    else:
        assert "the page has no picture: no OpenGL" in done.stderr and "robot.png" not in card

    done = rfx_(["deploy", "hf://someone/walker", "--duration", "0.1"], ["inspect", "hf://someone/walker"])
    assert done.returncode == 0 and "robot: go2, 12 joints" in done.stdout and told_commit(done.stderr) == commit
    assert (
        f"hf://someone/walker is commit {commit}; to have this very one again: hf://someone/walker@{commit}"
        in done.stderr
    )
    hub.requests.clear()
    done = rfx_(
        ["inspect", f"hf://someone/walker@{commit}"]
    )  # there already: the robot's computer needs no network for it
    assert done.returncode == 0 and "robot: go2" in done.stdout and "is commit" not in done.stderr
    assert not [path for _, path in hub.requests if "someone" in path]


@pytest.mark.e2e
def test_pushing_again_leaves_nothing_of_the_old_policy_and_the_rest_alone(rfx_, hub, tmp_path):
    first = small(tmp_path / "first", normalizer=ObservationNormalizer(4))
    second = MLP(4, 2, [5]).save(tmp_path / "second")
    assert rfx_(["push", first, "someone/walker", "--no-card"]).returncode == 0
    before, files = hub.find("someone/walker", "main")
    hub.commit("someone/walker", {**files, "README.md": b"mine", "notes.txt": b"notes"})
    assert rfx_(["push", second, "someone/walker", "--no-card"]).returncode == 0
    files = hub.find("someone/walker", "main")[1]
    assert set(files) == {".gitattributes", "README.md", "notes.txt", WEIGHTS, CONFIG} and files["README.md"] == b"mine"
    done = rfx_(["inspect", "hf://someone/walker"], ["inspect", f"hf://someone/walker@{before}"])
    assert (
        "hidden=[5]" in done.stdout
        and "hidden=[3]" in done.stdout
        and done.stdout.index("hidden=[5]") < done.stdout.index("hidden=[3]")
    )


@pytest.mark.e2e
def test_a_tag_is_followed_and_told_which_commit_it_is(rfx_, hub, tmp_path):
    folder = small(tmp_path / "p")
    tagged = hub.commit("someone/walker", {name: (folder / name).read_bytes() for name in (WEIGHTS, CONFIG)})
    hub.tags["someone/walker"] = {"v1.0": tagged}
    hub.commit("someone/walker", {})
    done = rfx_(["inspect", "hf://someone/walker@v1.0"])
    assert (
        done.returncode == 0
        and f"hf://someone/walker@v1.0 is commit {tagged}; to have this very one again: hf://someone/walker@{tagged}"
        in done.stderr
    )
    done = rfx_(["inspect", "hf://someone/walker"])
    assert done.returncode == 1 and "rfx_config.json is missing" in done.stderr


@pytest.mark.e2e
def test_what_is_too_large_is_not_fetched(rfx_, hub, tmp_path):
    folder = small(tmp_path / "p")
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    hub.commit("someone/large", {**files, "video.mp4": b"-"})
    for size, message in (
        (257 * 2**20, f"bytes; expected a policy of at most {256 * 2**20} bytes"),
        (None, f"{WEIGHTS} of unknown size; expected a policy"),
    ):
        hub.listed_sizes = {WEIGHTS: size, "video.mp4": 10**12}
        done = rfx_(["inspect", "hf://someone/large"])
        assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
    assert not [path for method, path in hub.requests if "/resolve/" in path]
    hub.listed_sizes = {"video.mp4": 10**12}  # no file of a policy: it does not count, and is not fetched
    assert rfx_(["inspect", "hf://someone/large"]).returncode == 0
    assert not [path for _, path in hub.requests if "video" in path]


def test_a_listing_that_lies_about_sizes_is_caught_on_disk(rfx_, hub, tmp_path, monkeypatch):
    folder = small(tmp_path / "p")
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    hub.commit("someone/liar", files)
    hub.listed_sizes = {WEIGHTS: 1, CONFIG: 1}
    code = "import sys; from rfx.policy.hub import download; download('hf://someone/liar', sys.argv[1].split(), max_bytes=100)"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, f"{CONFIG} {WEIGHTS}"], env=environment, capture_output=True, text=True
    )
    assert (
        f"ValueError: hf://someone/liar: got {sum(map(len, files.values()))} bytes; expected a policy of at most 100 bytes"
        in done.stderr
    )


def test_without_login_or_repository_it_is_one_line(rfx_, tmp_path):
    folder = small(tmp_path / "p")
    done = rfx_(["push", folder, "someone/walker", "--no-card"], HF_TOKEN="hf_wrong")
    assert (
        done.returncode == 1
        and done.stderr.startswith("rfx push: ")
        and "401" in done.stderr
        and done.stderr.count("\n") == 1
    )
    done = rfx_(["inspect", "hf://someone/none"])
    assert (
        done.returncode == 1
        and done.stderr.startswith("rfx inspect: ")
        and "404" in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_a_damaged_folder_is_not_pushed(tmp_path):
    path = MLP(4, 2, []).save(tmp_path / "p")
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(ValueError, match=WEIGHTS):
        rfx.push_policy(path, "someone/walker")
    path = MLP(4, 2, []).save(tmp_path / "p")
    weights = {name: np.full_like(array, np.nan) for name, array in rfx.inspect_policy(path).read_weights().items()}
    safetensors.numpy.save_file(weights, path / WEIGHTS)
    config = json.loads((path / CONFIG).read_text())
    config["files"][WEIGHTS] = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
    (path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="not finite"):
        rfx.push_policy(path, "someone/walker")


@pytest.mark.parametrize("name", ["walker", "a/b/c", "", "../x", "a/.."])
def test_a_name_that_is_no_repository_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="owner/name"):
        rfx.push_policy(tmp_path, name)
    with pytest.raises(ValueError, match="owner/name"):
        Policy.load(f"hf://{name}")


@pytest.mark.parametrize("revision", ["", " ", "../x", "a b", "\x1b[31m"])
def test_a_name_that_is_no_revision_is_refused(revision):
    with pytest.raises(ValueError, match="expected a commit, branch or tag, or no @"):
        rfx.inspect_policy(f"hf://someone/walker@{revision}")


def test_the_missing_client_is_asked_for_by_the_name_of_its_extra(tmp_path):
    code = "import sys; sys.modules['huggingface_hub'] = None; " + RUN
    commands = json.dumps([["inspect", "hf://a/b"]])
    done = subprocess.run(
        [sys.executable, "-c", code, commands],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (
        done.returncode == 2
        and done.stderr == "rfx inspect: this needs huggingface-hub, which is not installed: pip install -e '.[hub]'\n"
    )


def test_the_page_of_a_policy_of_no_robot_and_of_a_stranger(tmp_path):
    """No picture, and the reason told; nothing that a folder says becomes markup of the page."""
    notes: list[str] = []
    folder = small(
        tmp_path / "p",
        training_info={
            "name": "<img src=x>| `a` [b](c)\n# d\x1b[31m",
            "evaluation": {"score": 1.5, "commands": {"a": [1, 2]}},
        },
    )
    files = card_files(folder, "a/b", notes.append)
    assert set(files) == {"README.md"} and notes == ["the page has no picture: the folder says no robot"]
    card = files["README.md"].decode()
    title = next(line for line in card.splitlines() if line.startswith("# "))
    assert title == r"# &lt;img src=x&gt;\| \`a\` \[b\](c)\\n\# d\\x1b\[31m"
    assert "| score | 1.5 |" in card and "\x1b" not in card and "robot.png" not in card


def test_figures_of_another_policy_are_left_alone(tmp_path):
    folder = small(tmp_path / "p", training_info={"evaluation": {"score": 1.0}})
    info = rfx.inspect_policy(folder)
    assert find_evaluation(info) == {"score": 1.0}
    for text, score in (
        ('{"score": 2.0}', 2.0),
        ('{"score": 2.0, "policy": "elsewhere/other"}', 1.0),
        ("[1]", 1.0),
        ("{", 1.0),
    ):
        (tmp_path / "evaluation.json").write_text(text)
        assert find_evaluation(info)["score"] == score
    assert "## Evaluation" not in model_card(info, "a/b")


@pytest.mark.e2e
def test_a_commit_that_is_not_all_there_is_fetched_again(rfx_, hub, tmp_path):
    """As after an interrupted download: a pinned source opens without the network only where its files are."""
    folder = small(tmp_path / "p")
    commit = hub.commit("someone/walker", {name: (folder / name).read_bytes() for name in (WEIGHTS, CONFIG)})
    source = f"hf://someone/walker@{commit}"
    assert rfx_(["inspect", source]).returncode == 0
    (kept,) = (tmp_path / "hf").rglob(f"{commit}/{WEIGHTS}")
    kept.unlink()
    assert rfx_(["inspect", source]).returncode == 0 and kept.exists()
    hub.commits.clear()
    assert rfx_(["inspect", source]).returncode == 0
