"""Sets tinygrad up for rfx: the CPU as its device, and a C compiler for it. Import this before tinygrad."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import tempfile
from pathlib import Path


def choose_device() -> None:
    """Make the CPU tinygrad's device unless the environment variable DEV names another.

    tinygrad alone would try one GPU driver after the other (0.3 s), and take a GPU where there is one: for networks as small as a
    policy, called once a control step, the CPU is faster.
    """
    os.environ.setdefault("DEV", "CPU")


def ensure_compiler() -> None:
    """Point tinygrad at clang: the system's if there is one, else the one inside the ziglang wheel.

    tinygrad calls the environment variable CC as one executable, so `zig clang` needs a script of its own. Any number of processes may
    write it at once: it appears complete, under a name made from its text, or not at all.
    """
    wheel = importlib.util.find_spec("ziglang")
    if "CC" in os.environ or shutil.which("clang") or not (wheel and wheel.origin):
        return
    script = f'#!/bin/sh\nexec {shlex.quote(str(Path(wheel.origin).with_name("zig")))} clang "$@"\n'
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfx"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="rfx-"))
    path = folder / f"clang-{hashlib.sha256(script.encode()).hexdigest()[:12]}"
    if not path.exists():
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(script)
        beside.chmod(0o755)
        beside.replace(path)
    os.environ["CC"] = str(path)


choose_device()
ensure_compiler()
