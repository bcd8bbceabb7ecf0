"""The C compiler, for our kernels and for tinygrad's: the system's clang, or the one inside the ziglang wheel.

Nothing happens when this is imported.
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
    """Let tinygrad find a C compiler on the CPU: where the system has none, CC becomes the one inside the ziglang
    wheel.
    """
    if "CC" not in os.environ and not shutil.which("clang") and (path := clang()) != "clang":
        os.environ["CC"] = path


def clang() -> str:
    """The compiler to call: CC, the system's clang, or a script that calls the ziglang wheel's, since `zig clang` are
    two words.
    """
    wheel = importlib.util.find_spec("ziglang")
    if "CC" in os.environ or shutil.which("clang") or not (wheel and wheel.origin):
        return os.environ.get("CC", "clang")
    return _script(Path(wheel.origin).with_name("zig"))


@functools.cache
def _script(zig: Path) -> str:
    """The script, written once.

    Any number of processes may write it at once: it appears complete, under a name made from its text.
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
    """Compiles C from standard input, for this processor, to an object file on standard output."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    native = (
        ["-ffixed-x18", "-mcpu=native"] if arm else ["-march=native"]
    )  # x18 is not a program's own on macOS and Windows
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
    """What `native` means here: the processor's instruction sets, as a digest.

    Caches may lie on a disk that several machines share.
    """
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else [platform.processor()]
    )
    told = sorted(
        {line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))} or set(lines)
    )
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
