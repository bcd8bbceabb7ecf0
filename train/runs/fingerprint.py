"""A fingerprint of a run's weights, and all that the weights depend on: versions, commit, processor."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from tinygrad import Device

import rfx

PACKAGES = ("numpy", "tinygrad", "ziglang", "gymnasium", "safetensors")
ROOT = Path(__file__).resolve().parents[2]


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and bytes, in the order of names: equal if and only if every bit is equal."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def provenance() -> dict[str, Any]:
    """What the weights depend on, as JSON types.

    It has the versions of Python and of the packages that compute, the commit, tinygrad's device, and the processor's
    model and features.
    """
    return {
        "python": platform.python_version(),
        "rfx": rfx.__version__,
        "mujoco": _version("mujoco-core"),
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "device": Device.DEFAULT,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        **_processor(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this file's checkout, with `+changes` if files differ from it; None outside a checkout."""
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def git(*arguments: str) -> str | None:
    """The output of a git command in this file's checkout; None outside a checkout, and if git fails."""
    if not (ROOT / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> dict[str, Any]:
    """The processor's model name and its instruction sets, among which compiled code may choose."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    fields = {
        key.strip(): value.strip() for key, separator, value in (line.partition(":") for line in lines) if separator
    }
    features = (fields.get("flags") or fields.get("Features") or "").split()
    chosen = sorted(
        name
        for name in features
        if name.startswith(("avx", "sse", "ssse", "fma", "f16c", "bmi", "asimd", "sve", "amx"))
    )
    return {"processor": fields.get("model name", platform.processor()), "features": chosen}
