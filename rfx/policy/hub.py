"""Files on the Hugging Face Hub, through the client huggingface_hub. Needs the extra `hub`.

A source is hf://owner/name or hf://owner/name@REVISION. REVISION is a commit (40 hexadecimal digits), a branch or a
tag. Branches and tags may move.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfx.system.extras import missing
from rfx.system.outside import outside
from rfx.system.text import printable

SCHEME = "hf://"
MAX_BYTES = 256 * 2**20  # limit for all files of a policy together; our policies have less than 5 MiB
COMMIT = re.compile(r"[0-9a-f]{40}")
LOGIN = "log in with `hf auth login` as one who may, or say so with HF_TOKEN"


def upload(
    files: Mapping[str, bytes],
    repo_id: str,
    *,
    replaced: Sequence[str] = (),
    private: bool = False,
    commit_message: str,
) -> str:
    """Upload files by name to the repository owner/name. Creates the repository if it does not exist.

    Returns the hf:// source of the new commit. An old file in the repository is deleted if replaced names it and files
    does not. The client uses its own login (`hf auth login`, or the variable HF_TOKEN). Raises ModuleNotFoundError
    without huggingface_hub, ValueError for a repo_id that is not owner/name, and OutsideError for any error of the
    client.
    """
    check_repo_id(repo_id)
    client = _client().HfApi()
    with outside(f"{SCHEME}{repo_id}", LOGIN), tempfile.TemporaryDirectory() as folder:
        client.create_repo(repo_id, private=private, exist_ok=True)
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        commit = client.upload_folder(
            repo_id=repo_id, folder_path=folder, delete_patterns=[*replaced], commit_message=commit_message
        )
    return f"{SCHEME}{repo_id}@{commit.oid}"


def download(source: str, files: Sequence[str], *, optional: Sequence[str] = (), max_bytes: int = MAX_BYTES) -> Path:
    """The local folder of a source. The client fetches it if it does not have it already.

    A commit that the client already has needs no network. The client fetches only the names in files, and the names in
    optional that exist. If the source names no commit, a line on stderr says which commit it was and how to ask for
    that commit again. Raises ModuleNotFoundError without huggingface_hub, ValueError for a malformed source or for
    files of more than max_bytes together, and OutsideError for any error of the client.
    """
    repo_id, revision = parse(source)
    client = _client()
    is_pinned = revision is not None and COMMIT.fullmatch(revision) is not None
    wanted = [*files, *optional]
    folder = _kept(client, repo_id, revision, files, wanted) if is_pinned and revision else None
    if folder is None:
        with outside(source, LOGIN):
            listing = client.HfApi().model_info(repo_id, revision=revision, files_metadata=True)
        commit = str(listing.sha)
        if not COMMIT.fullmatch(commit) or (is_pinned and commit != revision):
            raise ValueError(
                f"{source}: the hub answered with commit {commit!r}; expected "
                f"{revision if is_pinned else '40 hexadecimal digits'}"
            )
        _check_size(
            source,
            {file.rfilename: file.size for file in listing.siblings or () if file.rfilename in wanted},
            max_bytes,
        )
        with outside(source, LOGIN):
            folder = Path(client.snapshot_download(repo_id, revision=commit, allow_patterns=wanted))
        if not is_pinned:
            print(
                printable(f"{source} is commit {commit}; to have this very one again: {SCHEME}{repo_id}@{commit}"),
                file=sys.stderr,
            )
    _check_size(
        source, {name: (folder / name).stat().st_size for name in wanted if (folder / name).exists()}, max_bytes
    )
    return folder


def parse(source: str) -> tuple[str, str | None]:
    """Repository and revision of a source; None if it names no revision. Raises ValueError for anything else."""
    repo_id, at, revision = source.removeprefix(SCHEME).partition("@")
    check_repo_id(repo_id)
    if at and not re.fullmatch(r"\w[\w./-]*", revision):
        raise ValueError(f"got revision {revision!r} in {source!r}; expected a commit, branch or tag, or no @")
    return repo_id, revision or None


def check_repo_id(repo_id: str) -> None:
    """Raises ValueError for anything but owner/name."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id):
        raise ValueError(f"got {repo_id!r}; expected owner/name, or {SCHEME}owner/name as a source")


def _client() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise missing("this", "huggingface_hub") from error


def _kept(client: Any, repo_id: str, commit: str, files: Sequence[str], wanted: Sequence[str]) -> Path | None:
    """The client's local folder of a commit; None if the client does not have all files of the commit."""
    try:
        folder = Path(
            client.snapshot_download(repo_id, revision=commit, allow_patterns=[*wanted], local_files_only=True)
        )
    except OSError:  # the client's own error classes, for a commit that is missing or incomplete
        return None
    return folder if all((folder / name).exists() for name in files) else None


def _check_size(source: str, sizes: Mapping[str, int | None], max_bytes: int) -> None:
    unknown = [name for name, size in sizes.items() if size is None]
    if unknown or sum(size or 0 for size in sizes.values()) > max_bytes:
        found = (
            f"{', '.join(unknown)} of unknown size" if unknown else f"{sum(size or 0 for size in sizes.values())} bytes"
        )
        raise ValueError(f"{source}: got {found}; expected a policy of at most {max_bytes} bytes")
