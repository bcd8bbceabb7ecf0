"""Policies on the Hugging Face Hub, through its own client. Needs the extra `hub`."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from rfx.policy_folder import CONFIG, NORMALIZER, WEIGHTS, inspect_policy

FILES = [CONFIG, NORMALIZER, WEIGHTS]


def push_policy(path: str | Path, repo_id: str, *, private: bool = False, commit_message: str = "Policy saved by rfx") -> str:
    """Upload the policy folder at path to the repository owner/name, made if it is not there. Returns its hf:// source.

    The login is the client's own (`hf auth login`, or the variable HF_TOKEN). Raises ImportError without the extra, ValueError for another
    repo_id or a folder that is not whole, and what the client raises.
    """
    _check_repo_id(repo_id)
    info = inspect_policy(path)
    info.read_weights()
    client = _client().HfApi()
    client.create_repo(repo_id, private=private, exist_ok=True)
    client.upload_folder(repo_id=repo_id, folder_path=info.path, allow_patterns=FILES, delete_patterns=FILES, commit_message=commit_message)
    return f"hf://{repo_id}"


def download_policy(source: str) -> Path:
    """The local folder of hf://owner/name, or hf://owner/name@revision, fetched unless the client has it already.

    Only the files of a policy folder are fetched. Raises ImportError without the extra, ValueError for another source, and what the
    client raises.
    """
    repo_id, _, revision = source.removeprefix("hf://").partition("@")
    _check_repo_id(repo_id)
    return Path(_client().snapshot_download(repo_id, revision=revision or None, allow_patterns=FILES))


def _check_repo_id(repo_id: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id):
        raise ValueError(f"got {repo_id!r}; expected owner/name, or hf://owner/name as a source")


def _client() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError("this needs huggingface_hub, which is not installed: pip install 'rfx[hub]'") from error
