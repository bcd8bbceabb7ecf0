"""What libraries raise about the world outside is one line, whatever class it has."""

import errno
import functools
import socket
from types import SimpleNamespace

import numpy as np
import pytest

from rfx.commands.cli import main
from rfx.nn import MLP
from rfx.policy import hub
from rfx.system.outside import OutsideError, outside


class ConnectError(Exception):
    """As of httpx: no OSError."""


class StatusError(Exception):
    def __init__(self, status: int):
        super().__init__(f"{status} Client Error\n\nRequest ID: 1\x1b[31m\n" + "x" * 5000)
        self.response = SimpleNamespace(status_code=status)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "raised, words",
    [
        (ConnectError("[Errno -2] Name or service not known"), "no connection"),
        (socket.gaierror(-2, "Name or service not known"), "no connection"),
        (TimeoutError(), "no connection"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no connection"),
        (caused(RuntimeError("sorry"), ConnectionRefusedError(111, "refused")), "no connection"),
        (StatusError(401), "no permission"),
        (StatusError(403), "no permission"),
        (StatusError(404), "not found"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), "no permission to write /cache"),
        (caused(RuntimeError("could not save"), OSError(errno.ENOSPC, "No space left on device")), "no space left"),
        (KeyError("odd"), "odd"),
    ],
)
def test_whatever_is_raised_is_one_short_line_that_says_what_and_why(raised, words):
    with pytest.raises(OutsideError) as caught, outside("hf://a/b"):
        raise raised
    text = str(caught.value)
    assert text.startswith("hf://a/b: ") and words in text
    assert "\n" not in text and "\x1b" not in text and len(text) < 500
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("mistake", [TypeError("x"), ModuleNotFoundError("x"), ValueError("x")])
def test_mistakes_pass(mistake):
    with pytest.raises(type(mistake)) as caught, outside("hf://a/b"):
        raise mistake
    assert caught.value is mistake


@pytest.fixture
def unreachable_hub(monkeypatch):
    """The hub's own client, and nobody who listens where it looks."""
    client = pytest.importorskip("huggingface_hub")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    there = SimpleNamespace(
        HfApi=functools.partial(client.HfApi, endpoint=endpoint, token="hf_of_the_test"),
        snapshot_download=functools.partial(client.snapshot_download, endpoint=endpoint),
    )
    monkeypatch.setattr(hub, "_client", lambda: there)


def test_without_a_network_push_and_inspect_are_one_line(unreachable_hub, tmp_path, capsys):
    folder = MLP(4, 2, [3], rng=np.random.default_rng(0)).save(tmp_path / "p")
    for command in (
        ["push", str(folder), "a/b", "--no-card"],
        ["inspect", "hf://a/b"],
        ["inspect", f"hf://a/b@{'0' * 40}"],
    ):
        assert main(command) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"rfx {command[0]}: hf://a/b") and "no connection" in told and told.count("\n") == 1


def test_a_model_of_menagerie_without_a_network_is_one_line(monkeypatch, tmp_path, capsys):
    menagerie = pytest.importorskip("mujoco_menagerie")
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    monkeypatch.setenv("MENAGERIE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MENAGERIE_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(menagerie._cache.time, "sleep", lambda _: None)  # between its tries
    from rfx.robot.files import find_mjcf, load_robot

    with pytest.raises(OutsideError, match=r"menagerie:unitree_go1: no connection \("):
        find_mjcf(load_robot("go1"), "menagerie:unitree_go1")
