"""The C compiler for rfx's and tinygrad's kernels: the system's clang, or the one inside the ziglang wheel.

Importing this module changes nothing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import tempfile
from pathlib import Path


def ensure_compiler() -> None:
    """Let tinygrad find a C compiler: if the system has none, set CC to the one inside the ziglang wheel."""
    if "CC" not in os.environ and not shutil.which("clang") and (path := clang()) != "clang":
        os.environ["CC"] = path


def clang() -> str:
    """The compiler to call: CC, the system's clang, or a script that calls the ziglang wheel's clang.

    The script is needed because the wheel's command, `zig clang`, is two words.
    """
    wheel = importlib.util.find_spec("ziglang")
    if "CC" in os.environ or shutil.which("clang") or not (wheel and wheel.origin):
        return os.environ.get("CC", "clang")
    return _script(Path(wheel.origin).with_name("zig"))


@functools.cache
def _script(zig: Path) -> str:
    """Write the script if it does not exist, and return its path.

    Several processes may write it at the same time. The file appears complete, and its name is a hash of its text.
    """
    text = f'#!/bin/sh\nexec {shlex.quote(str(zig))} clang "$@"\n'
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfx"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="rfx-"))
    path = folder / f"clang-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not path.exists():
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(text)
        beside.chmod(0o755)
        beside.replace(path)
    return str(path)


def command() -> list[str]:
    """A command that compiles C from standard input, for this processor, to an object file on standard output."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    # macOS and Windows reserve the register x18
    native = ["-ffixed-x18", "-mcpu=native"] if arm else ["-march=native"]
    return [
        clang(),
        "-c",
        "-x",
        "c",
        "-O2",
        "-fPIC",
        "-ffreestanding",
        "-fno-math-errno",
        "-nostdlib",
        "-fno-ident",
        f"--target={'arm64' if arm else 'x86_64'}-none-unknown-elf",
        *native,
        "-",
        "-o",
        "-",
    ]


@functools.cache
def processor() -> str:
    """A digest of the processor's instruction sets, which `native` stands for.

    Caches need it because several machines may share the disk that a cache is on.
    """
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else [platform.processor()]
    )
    told = sorted(
        {line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))} or set(lines)
    )
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
