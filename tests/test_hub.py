"""Policies on the Hugging Face Hub, against a local stand-in for the client: its documented functions, backed by a folder."""

from __future__ import annotations

import fnmatch
import hashlib
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import rfx
from rfx.nn import MLP, Policy
from rfx.normalizer import ObservationNormalizer
from rfx.policy_folder import CONFIG, NORMALIZER, WEIGHTS

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A folder of repositories behind HfApi and snapshot_download; every call must fit the real signature."""
    root = tmp_path / "remote"
    signatures = {name: inspect.signature(getattr(hub.HfApi, name)) for name in ("create_repo", "upload_folder")}
    download_signature = inspect.signature(hub.snapshot_download)

    class Api:
        def create_repo(self, *arguments, **keywords):
            call = signatures["create_repo"].bind(self, *arguments, **keywords).arguments
            (root / call["repo_id"]).mkdir(parents=True, exist_ok=call["exist_ok"])

        def upload_folder(self, *arguments, **keywords):
            call = signatures["upload_folder"].bind(self, *arguments, **keywords).arguments
            repository = root / call["repo_id"]
            for old in list(repository.iterdir()):
                if any(fnmatch.fnmatch(old.name, pattern) for pattern in call["delete_patterns"]):
                    old.unlink()
            for file in Path(call["folder_path"]).iterdir():
                if any(fnmatch.fnmatch(file.name, pattern) for pattern in call["allow_patterns"]):
                    shutil.copy(file, repository)

    def snapshot_download(*arguments, **keywords):
        call = download_signature.bind(*arguments, **keywords).arguments
        target = tmp_path / "cache" / call["repo_id"]
        shutil.rmtree(target, ignore_errors=True)
        names = [file.name for file in (root / call["repo_id"]).iterdir()]
        wanted = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in call["allow_patterns"])]
        target.mkdir(parents=True)
        for name in wanted:
            (target / name).symlink_to(root / call["repo_id"] / name)  # the client's cache holds links too
        (target.parent / "revision").write_text(str(call["revision"]))
        return str(target)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return root


def test_pushed_policy_loads_from_its_source(remote, tmp_path):
    policy = MLP(4, 2, [3], rng=np.random.default_rng(0))
    path = policy.save(tmp_path / "p", normalizer=ObservationNormalizer(4))
    source = rfx.push_policy(path, "someone/walker")
    assert source == "hf://someone/walker" and sorted(file.name for file in (remote / "someone/walker").iterdir()) == [
        WEIGHTS, NORMALIZER, CONFIG]
    obs = {"state": np.ones((1, 4), np.float32)}
    np.testing.assert_array_equal(rfx.load_policy(source)(obs), rfx.load_policy(path)(obs))
    assert type(Policy.load(source)) is MLP and rfx.inspect_policy(source).policy_type == "MLP"


def test_pushing_again_leaves_nothing_of_the_old_policy_and_the_rest_alone(remote, tmp_path):
    rfx.push_policy(MLP(4, 2, [3]).save(tmp_path / "p", normalizer=ObservationNormalizer(4)), "someone/walker")
    (remote / "someone/walker/README.md").write_text("card")
    rfx.push_policy(MLP(4, 2, [5]).save(tmp_path / "p"), "someone/walker")
    assert sorted(file.name for file in (remote / "someone/walker").iterdir()) == ["README.md", WEIGHTS, CONFIG]
    assert rfx.load_policy("hf://someone/walker").normalizer is None


def test_a_revision_is_passed_on(remote, tmp_path):
    rfx.push_policy(MLP(4, 2, []).save(tmp_path / "p"), "someone/walker")
    rfx.load_policy("hf://someone/walker@v1.0")
    assert (tmp_path / "cache/someone/revision").read_text() == "v1.0"


def test_a_damaged_folder_is_not_pushed(remote, tmp_path):
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
    assert not remote.exists()


@pytest.mark.parametrize("name", ["walker", "a/b/c", "", "../x", "a/.."])
def test_a_name_that_is_no_repository_is_refused(remote, tmp_path, name):
    with pytest.raises(ValueError, match="owner/name"):
        rfx.push_policy(tmp_path, name)
    with pytest.raises(ValueError, match="owner/name"):
        rfx.load_policy(f"hf://{name}")


def test_the_missing_client_is_asked_for_by_the_name_of_its_extra():
    code = "import sys; sys.modules['huggingface_hub'] = None; import rfx; rfx.inspect_policy('hf://a/b')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install -e '.[hub]'" in done.stderr.splitlines()[-1]
