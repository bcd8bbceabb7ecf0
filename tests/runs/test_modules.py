"""A run keeps the files of a user's own modules, and finds them again, whatever directory it is gone on with in."""

import dataclasses
import importlib
import sys
import warnings
from pathlib import Path

import pytest

import rfx
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.nn import MLP
from rfx.robot.modules import digest, source_files
from train.task.modules import MODULES, install_sources, keep_modules, sources_of, use_modules


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes modules into a folder on Python's path. Modules that a test imports are forgotten after it."""
    before = {*sys.modules}
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.syspath_prepend(tmp_path / "here")

    def write(**texts: str) -> Path:
        for name, text in texts.items():
            path = tmp_path / "here" / (name.replace("__in__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()
        return tmp_path / "here"

    yield write
    for name in {*sys.modules} - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]


def imported(name: str) -> str:
    """WHERE of a module that Python finds now."""
    importlib.invalidate_caches()
    return importlib.import_module(name).WHERE


def test_a_module_comes_with_those_beside_it_that_it_imports(here) -> None:
    here(
        one_m="import numpy\nimport rfx\nfrom two_m import x\n",
        two_m="def f():\n    import three_m\n",
        three_m="import one_m\n",
        four_m="",
    )
    assert {*source_files("one_m")} == {"one_m.py", "two_m.py", "three_m.py"}
    before = digest("one_m")
    here(four_m="x = 1\n")
    assert digest("one_m") == before
    here(three_m="import one_m  # changed\n")
    assert digest("one_m") != before


def test_a_package_is_all_of_its_files_and_what_is_not_a_users_is_none(here) -> None:
    here(pack__in____init__="", pack__in__deep__in__rewards="import beside\n", beside="", other="")
    assert {*source_files("pack")} == {"pack/__init__.py", "pack/deep/rewards.py", "beside.py"}
    for name in ("rfx", "train", "os", "not_there", "menagerie"):
        assert source_files(name) == {}
    assert sources_of(["numpy:zeros"]) == {}  # installed: found everywhere


def test_a_module_that_is_not_on_the_path_is_found_in_the_run(here, tmp_path, monkeypatch) -> None:
    folder, told = here(kept_m="from helper_m import WHERE\n", helper_m="WHERE = 'there'\n"), []
    recorded = keep_modules(tmp_path / "run", ["kept_m:term", "kept_m:other", "os:system", "menagerie:x"])
    assert {*recorded} == {"kept_m"} and (tmp_path / "run" / MODULES / "helper_m.py").is_file()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(folder)])
    use_modules(tmp_path / "run", recorded, told.append)
    assert imported("kept_m") == "there" and not told and "run" in sys.modules["kept_m"].__file__


@pytest.mark.parametrize(("own", "expected"), [(True, "then"), (False, "now")])
def test_one_that_differs_is_told_of_and_the_runs_own_counts_unless_it_may_change(
    here, tmp_path, own, expected
) -> None:
    told = []
    here(kept_m="WHERE = 'then'\n")
    recorded = keep_modules(tmp_path / "run", ["kept_m:term"])
    here(kept_m="WHERE = 'now'\n")
    use_modules(tmp_path / "run", recorded, told.append, own=own)
    assert imported("kept_m") == expected and len(told) == 1 and "kept_m" in told[0] and "\n" not in told[0]


def test_one_that_is_the_same_is_not_spoken_of(here, tmp_path) -> None:
    here(kept_m="WHERE = 'then'\n")
    told = []
    use_modules(tmp_path / "run", keep_modules(tmp_path / "run", ["kept_m:term"]), told.append)
    use_modules(tmp_path / "run", {}, told.append)
    assert not told


def test_a_worker_imports_from_the_files_it_was_sent(here, tmp_path, monkeypatch) -> None:
    folder = here(sent_m="WHERE = 'sent'\n", pack__in____init__="WHERE = 'a package'\n")
    sources = sources_of(["sent_m:term", "pack:term"])
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(folder)])
    install_sources(sources)
    monkeypatch.delitem(sys.modules, "pack", raising=False)
    path = Path(sys.path[0])
    try:
        assert imported("sent_m") == "sent" and imported("pack") == "a package"
    finally:
        for name in ("sent_m", "pack"):
            sys.modules.pop(name, None)
        for file in [*path.rglob("*.py")]:
            file.unlink()


def test_a_policy_warns_where_it_would_observe_by_another_module(here, tmp_path) -> None:
    here(speed_m="WHERE = 'then'\n")
    robot = dataclasses.replace(GO2_CONFIG, observation_terms=("speed_m:speed",), state_dim=12)
    info = {"modules": {"speed_m": digest("speed_m")}}
    path = MLP(12, 12, hidden=[8]).save(tmp_path / "policy", robot_config=robot, training_info=info)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rfx.load_policy(path)
    here(speed_m="WHERE = 'now'\n")
    with pytest.warns(UserWarning, match="speed_m"):
        rfx.load_policy(path)
