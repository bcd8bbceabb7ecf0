"""Every code block of the two documentation pages runs, in order, and prints what the page says: with torch, and
without.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import rfx
from rfx.observation.arrays import is_installed, library

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("nn", "observations")

# What the blocks print, by page and by the number of the block on it; blocks not named here print nothing.
PRINTED = {
    ("nn", 2): ["(1, 12)"],
    ("observations", 1): ["torch.Size([1, 64])", "12", "64"],
    ("observations", 4): ["True", "True"],
    ("observations", 6): ["torch.Size([1, 64])", "torch.Size([1, 2, 480, 640, 3])"],
    ("observations", 7): [
        "torch.Size([1, 64])",
        "tensor([1., 1., 1., 1., 1., 1.])",
        "tensor([" + ", ".join(["0."] * 58) + "])",
    ],
    ("observations", 8): ["torch.Size([1, 6])"],
    ("observations", 9): ["torch.Size([8, 6])", "torch.Size([8, 10, 6])"],
    ("observations", 10): ["torch.Size([1, 4, 64])"],
    ("observations", 11): ["0", "2", "0"],
}


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)


def undefined_names(page: str, number: int) -> dict:
    """What a block takes for granted."""
    from tinygrad import Tensor

    if page == "nn":
        return {"Tensor": Tensor}
    obs = rfx.MockRobot(tensors="numpy").observe()
    return {
        10: {"robot": rfx.MockRobot()},
        11: {"obs1": obs, "obs2": obs},
        14: {"action": "an action"},
        15: {"policy": page_policy, "hardware_driver": Recorder(), "robot": rfx.MockRobot()},
        16: {"buffer": []},
    }.get(number, {"rfx": rfx})


def page_policy(obs: dict):
    """Any policy that gives padded actions in the library of the observation."""
    return obs["state"] * 0.5


class Recorder:
    """A driver that keeps what it is sent."""

    def send_command(self, action) -> None:
        self.sent = action


def run_page(page: str, with_torch: bool) -> dict:
    """Run the blocks of a page in one namespace, checking what they print.

    Blocks that name torch are left out without it.
    """
    names = {"__name__": f"page_{page}"}
    for number, block in enumerate(blocks(page)):
        if with_torch:
            import torch

            names["torch"] = torch
        elif "torch" in re.sub(r"#.*", "", block):
            continue
        names |= undefined_names(page, number)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "device 'cuda' is not available")
            exec(compile(block, f"{page}, block {number}", "exec"), names)
        expected = PRINTED.get((page, number), [])
        if not with_torch:
            expected = [re.sub(r"torch\.Size\(\[(.*)\]\)", r"(\1)", line) for line in expected]
        actual = re.sub(r",\n +", ", ", printed.getvalue()).splitlines()
        assert actual == expected, f"{page}, block {number}: printed {actual}, the page says {expected}"
    return names


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """A folder with the TorchScript file that the policy page opens, and a registry that forgets what the page
    registers.
    """
    from rfx.nn import policy

    monkeypatch.setattr(policy, "_registered", dict(policy._registered))
    monkeypatch.chdir(tmp_path)
    if is_installed("torch"):
        import torch

        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(torch.jit.script(torch.nn.Linear(48, 12)), "model.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("page", PAGES)
def test_page(page):
    pytest.importorskip("torch")
    names = run_page(page, with_torch=True)
    if page == "nn":
        assert names["policy"].__class__.__name__ == "MLP" and names["ac"].hidden == [512, 512]
        assert [tuple(array.shape) for array in names["ac"].forward_actor_critic(names["Tensor"].zeros(32, 48))] == [
            (32, 12),
            (32, 1),
        ]
    else:
        assert names["spec"].has_images is False and names["spec"].has_language is False
        assert tuple(names["hardware_driver"].sent.shape) == (1, 6)
        kept, copied = names["buffer"]
        assert kept["state"] is names["obs"]["state"] and copied["state"] is not names["obs"]["state"]


def test_frame_stacking_and_multi_modal_policies_of_the_page_run():
    torch = pytest.importorskip("torch")
    names = run_page("observations", with_torch=True)
    temporal, robot = names["TemporalPolicy"](), rfx.MockRobot(state_dim=12, action_dim=6)
    actions = [temporal(robot.observe()) for _ in range(5)]
    assert all(action.shape == (1, 64) for action in actions)
    assert [bool(action.any()) for action in actions] == [False, False, False, True, True]
    images = torch.zeros(1, 2, 8, 8, 3)
    obs = rfx.make_observation(torch.zeros(1, 12), 12, 64, images=images, language=torch.zeros(1, 77, dtype=torch.long))
    assert names["MultiModalPolicy"]()(obs).shape == (1, 64)
    assert names["MultiModalPolicy"]()(robot.observe()).shape == (1, 64)


@pytest.mark.parametrize("page", PAGES)
def test_page_without_torch(page):
    """The blocks that do not name torch run where it cannot be imported; observations are then tinygrad tensors."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.path.insert(0, sys.argv[1]); import test_pages; "
        "names = test_pages.run_page(sys.argv[2], with_torch=False); "
        "assert test_pages.library(names['obs']['state'] if sys.argv[2] == 'observations' else names['obs']) == 'tinygrad'"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), page], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_torch_is_asked_for_by_the_name_of_its_extra():
    code = "import sys; sys.modules['torch'] = None; from rfx.nn import TorchJitPolicy; TorchJitPolicy('model.pt')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (
        done.stderr.splitlines()[-1]
        == "ModuleNotFoundError: this needs torch, which is not installed: pip install -e '.[torch]'"
    )


def test_a_robot_gives_torch_tensors_where_torch_is_installed():
    assert library(rfx.MockRobot().observe()["state"]) == ("torch" if is_installed("torch") else "tinygrad")
