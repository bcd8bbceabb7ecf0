"""`import rfx` is quick and brings in no heavy library; every exported name is there and documented."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

import rfx


def test_import_is_quick_and_light():
    code = "import sys, rfx; print([m for m in ('torch', 'tinygrad', 'mujoco', 'numpy') if m in sys.modules])"

    def cpu_s(code: str) -> float:
        """CPU time, which others on the machine hardly change, of the process that runs code."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout in (
            "",
            "[]\n",
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    cpu_s(code)  # writes the bytecode
    ours, bare = ([cpu_s(each) for _ in range(5)] for each in (code, "pass"))
    assert min(ours) < 3.0 * min(bare)  # 1.2 times the interpreter's own start; with numpy it is five times


def test_every_name_is_exported_and_listed():
    assert set(rfx.__all__) <= set(dir(rfx))
    for name in rfx.__all__:
        if name != "Go2":  # needs the extra go2
            assert getattr(rfx, name) is not None


def test_every_public_name_says_what_it_is():
    import rfx.nn

    documented = [
        getattr(module, name)
        for module in (rfx, rfx.nn)
        for name in module.__all__
        if name not in ("Go2", "__version__")
    ]
    for value in documented:
        if not isinstance(value, rfx.RobotConfig):
            assert value.__doc__ and not value.__doc__.startswith(f"{value.__name__}("), (
                f"{value} has no docstring of its own"
            )
        if isinstance(value, type) and value.__module__.startswith("rfx."):
            for name, method in vars(value).items():
                if callable(method) and not name.startswith("_"):
                    assert method.__doc__, f"{value.__name__}.{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Polcy"):
        rfx.Polcy
