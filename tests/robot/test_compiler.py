"""Which C compiler is called, where nothing, a system's clang, CC or the ziglang wheel is there, and what it makes."""

import os
import struct
import subprocess
from types import SimpleNamespace

import pytest
from tinygrad.runtime.support.elf import jit_loader

from rfx.system import compiler

ELF_MACHINES = {"x86_64": 62, "AMD64": 62, "arm64": 183, "aarch64": 183, "AARCH64": 183}  # /usr/include/elf.h
PROGRAM = b"""
static const float table[] = {2.0f, 3.0f, 5.0f, 7.0f};
float scaled(int i, float x) { return table[i] * __builtin_sqrtf(x); }
void clear(float* x, long num) { for (long i = 0; i < num; i++) x[i] = 0.0f; }
int sum(void) { int sum = 0; for (int i = 0; i < 1000; i++) sum += i; return sum; }
"""


@pytest.fixture
def found(monkeypatch, tmp_path):
    """Decides what is there: found(cc, clang, wheel) names CC, whether the system has clang, and where the wheel is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", "what it was is put back")

    def decide(cc=None, clang=False, wheel=None):
        monkeypatch.delenv("CC", raising=False)
        if cc:
            monkeypatch.setenv("CC", cc)
        monkeypatch.setattr(
            compiler.shutil, "which", lambda name: "/usr/bin/clang" if clang and name == "clang" else None
        )
        monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: wheel if name == "ziglang" else None)

    compiler._script.cache_clear()
    yield decide
    compiler._script.cache_clear()


@pytest.fixture
def wheel(tmp_path):
    """A ziglang wheel whose zig says what it is called with."""
    folder = tmp_path / "a wheel" / "ziglang"
    folder.mkdir(parents=True)
    (folder / "zig").write_text('#!/bin/sh\necho "$0" "$@"\n')
    (folder / "zig").chmod(0o755)
    return SimpleNamespace(origin=str(folder / "__init__.py"))


@pytest.mark.parametrize("with_wheel", [False, True])
def test_what_the_environment_or_the_system_has_comes_first(found, wheel, with_wheel):
    for clang in (False, True):
        found("/opt/my-clang", clang, wheel if with_wheel else None)
        assert compiler.clang() == "/opt/my-clang"
        compiler.ensure_compiler()
        assert os.environ["CC"] == "/opt/my-clang"
    found(None, True, wheel if with_wheel else None)
    assert compiler.clang() == "clang"
    compiler.ensure_compiler()
    assert "CC" not in os.environ


@pytest.mark.parametrize("wheel", [None, SimpleNamespace(origin=None)])
def test_without_any_it_is_clang_that_is_missed(found, wheel):
    found(None, False, wheel)
    assert compiler.clang() == "clang"
    compiler.ensure_compiler()
    assert "CC" not in os.environ


def test_the_wheels_compiler_is_called_by_a_script(found, wheel, tmp_path):
    found(None, False, wheel)
    script = compiler.clang()
    assert script.startswith(str(tmp_path / "cache" / "rfx" / "clang-"))
    zig = str(tmp_path / "a wheel" / "ziglang" / "zig")
    assert subprocess.run([script, "-c", "a b"], capture_output=True, text=True).stdout == f"{zig} clang -c a b\n"
    compiler.ensure_compiler()
    assert os.environ["CC"] == script


@pytest.mark.parametrize("machine", ELF_MACHINES)
def test_it_compiles_for_the_processor_from_stdin_to_stdout(monkeypatch, machine):
    monkeypatch.setattr(compiler.platform, "machine", lambda: machine)
    command = compiler.command()
    if ELF_MACHINES[machine] == 183:
        command[command.index("-mcpu=native")] = "-mcpu=apple-m1"  # there is none of this machine
        assert "-ffixed-x18" in command
    elif ELF_MACHINES[os.uname().machine] == 183:
        command[command.index("-march=native")] = "-march=haswell"
    built = subprocess.run(command, input=PROGRAM, capture_output=True)
    assert built.returncode == 0 and not built.stderr, built.stderr
    assert built.stdout[:4] == b"\x7fELF" and struct.unpack_from("<HH", built.stdout, 16) == (
        1,
        ELF_MACHINES[machine],
    )  # relocatable
    assert b"scaled" in built.stdout and b"clang" not in built.stdout
    assert b"sqrtf" not in built.stdout and b"memset" not in built.stdout, "nothing from elsewhere is called"
    assert jit_loader(built.stdout), "it runs wherever in memory it lies"
    assert ELF_MACHINES[machine] == 183 or struct.pack("<I", 999 * 500) in built.stdout, (
        "the compiler added up the numbers from 0 to 999"
    )
