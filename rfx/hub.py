"""Files on the Hugging Face Hub, through its own client. Needs the extra `hub`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfx.extras import missing


def upload(path: Path, repo_id: str, files: Sequence[str], *, private: bool, commit_message: str) -> str:
    """Upload these files of a folder to the repository owner/name, made if it is not there. Returns its hf:// source.

    The login is the client's own (`hf auth login`, or the variable HF_TOKEN). Raises ImportError without the extra, ValueError for another
    repo_id, and what the client raises.
    """
    check_repo_id(repo_id)
    client = _client().HfApi()
    client.create_repo(repo_id, private=private, exist_ok=True)
    client.upload_folder(repo_id=repo_id, folder_path=path, allow_patterns=list(files), delete_patterns=list(files), commit_message=commit_message)
    return f"hf://{repo_id}"


def download(source: str, files: Sequence[str]) -> Path:
    """The local folder of hf://owner/name, or hf://owner/name@revision, fetched unless the client has it already.

    Only these files are fetched. Raises ImportError without the extra, ValueError for another source, and what the client raises.
    """
    repo_id, _, revision = source.removeprefix("hf://").partition("@")
    check_repo_id(repo_id)
    return Path(_client().snapshot_download(repo_id, revision=revision or None, allow_patterns=list(files)))


def check_repo_id(repo_id: str) -> None:
    """Raises ValueError for anything but owner/name."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id):
        raise ValueError(f"got {repo_id!r}; expected owner/name, or hf://owner/name as a source")


def _client() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise missing("this", "huggingface_hub") from error
