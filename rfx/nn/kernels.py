"""Our own C kernels: compiled when they are first needed, called on arrays in memory, on threads of our own.

Where kernels cannot run (tensors on another device, no compiler, RFX_PLAIN=1), `usable` is False, says so once, and
callers take their plain tinygrad path.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from tinygrad import Tensor, dtypes
from tinygrad.helpers import diskcache_get, diskcache_put

from rfx.nn.threads import CompiledKernel, Pool, load
from rfx.system import compiler


def _cores() -> int:
    """The cores that this process may use, or the environment variable CPU_COUNT."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(int(os.environ.get("CPU_COUNT") or available or 1), 1)


_num_threads = _cores()
_pool: Pool | None = None  # started by the first call of a kernel
_starting = threading.Lock()


def num_threads() -> int:
    """How many threads kernels run on."""
    return _num_threads


def set_num_threads(count: int) -> None:
    """Run kernels on this many threads from now on; no result depends on it. Raises ValueError below 1."""
    global _num_threads
    if count < 1:
        raise ValueError(f"got {count} threads, expected at least 1")
    _num_threads = int(count)
    if _pool:
        _pool.use(_num_threads)


def _pool_address() -> int:
    global _pool
    if _pool is None:
        with _starting:
            if _pool is None:
                compile_kernels(WORK)
                pool = Pool(load(_binaries[WORK.source]))
                pool.use(_num_threads)
                _pool = pool
    return _pool.address


def _forget_pool() -> None:
    global _pool, _starting
    _pool, _starting = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_forget_pool)


def program_text(
    *files: str | Path, constants: Mapping[str, object], arrays: Mapping[str, Iterable[int]] = MappingProxyType({})
) -> str:
    """C text of constants, arrays of int, and files after each other; a plain file name is one beside this."""
    lines = [f"#define {name} {value}" for name, value in constants.items()]
    lines += [f"static const int {name}[] = {{{', '.join(map(str, values))}}};" for name, values in arrays.items()]
    return "\n".join([*lines, *(_read(Path(__file__).parent / file) for file in files)])


@functools.cache
def _read(path: Path) -> str:
    return path.read_text()


@dataclass(frozen=True)
class Kernel:
    """A C function `name(float* const* buffers, Pool* pool)` in text, which threads.c comes before; it calls nothing
    from elsewhere.
    """

    name: str
    text: str

    @functools.cached_property
    def source(self) -> str:
        """The whole program, which begins with the one function that others see."""
        threads = _read(Path(__file__).with_name("threads.c"))
        return f"{threads}\n{self.text}\nvoid rfx_{self.name}(float* const* buffers, Pool* pool) {{ {self.name}(buffers, pool); }}\n"

    def bind(self, *arrays: np.ndarray) -> Callable[[], None]:
        """The kernel on these arrays, its buffers in order, to be called any number of times; it keeps them alive.

        Arrays of float32 or int32. Raises RuntimeError where the kernel does not build: ask compile_kernels first.
        """
        if wrong := [array.dtype for array in arrays if array.dtype not in (np.float32, np.int32)]:
            raise TypeError(
                f"got arrays of {', '.join(map(str, wrong))} for the kernel {self.name}; expected float32 or int32"
            )
        if not compile_kernels(self):
            raise RuntimeError(f"the kernel {self.name} does not build")
        function, buffers = (
            _loaded(self.source),
            (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays)),
        )
        address = ctypes.addressof(buffers)

        def call(keep: object = (arrays, buffers)) -> None:
            function(address, _pool_address())

        return call


WORK = Kernel("work", _read(Path(__file__).with_name("worker.c")))


@functools.cache
def _loaded(source: str) -> CompiledKernel:
    return load(_binaries[source])


def memory(tensor: Tensor) -> np.ndarray:
    """The memory of a realized tensor on the CPU, as an array that changes with it."""
    view = tensor.uop.buffer.ensure_allocated().as_memoryview(allow_zero_copy=True)
    return np.frombuffer(view, np.int32 if tensor.dtype == dtypes.int32 else np.float32).reshape(tensor.shape)


def usable(*tensors: Tensor) -> bool:
    """Whether kernels can work on these tensors: float32 on the CPU. Says once where that is not for lack of speed."""
    if os.environ.get("RFX_PLAIN", "0") not in ("", "0"):
        return _refuse("RFX_PLAIN is set")
    others = {str(tensor.device) for tensor in tensors} - {"CPU"}
    if others:
        return _refuse(f"the C kernels are for the CPU, and these tensors are on {', '.join(sorted(others))}")
    return all(tensor.dtype == dtypes.float32 for tensor in tensors)


CACHE = "rfx_kernels"  # a table of tinygrad's cache
_binaries: dict[str, bytes | None] = {}  # by source; None where it does not build


def compile_kernels(*kernels: Kernel) -> bool:
    """Compile kernels, those that are not in tinygrad's cache in parallel.

    Returns whether all of them build; says once if not.
    """
    sources, target = (
        dict.fromkeys(kernel.source for kernel in (WORK, *kernels)),
        f"{' '.join(compiler.command())} {compiler.processor()}\n",
    )
    for source in sources.keys() - _binaries.keys():
        if binary := diskcache_get(CACHE, target + source):
            _binaries[source] = binary
    if new := [source for source in sources if source not in _binaries]:
        with ThreadPoolExecutor(
            len(new)
        ) as pool:  # the compiler is a process of its own; the cache, of this thread only
            _binaries.update(zip(new, pool.map(_compile, new)))
        for source in new:
            if _binaries[source] is not None:
                diskcache_put(CACHE, target + source, _binaries[source])
    return all(_binaries[source] is not None for source in sources)


def _compile(source: str) -> bytes | None:
    try:
        return subprocess.run(compiler.command(), input=source.encode(), capture_output=True, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", b"") or b""
        _refuse(f"the C kernels do not build: {error} {told.decode(errors='replace')[:500]}".strip())
        return None


@functools.cache
def _refuse(reason: str) -> bool:
    print(f"rfx: networks run on plain tinygrad, several times slower on a CPU: {reason}", file=sys.stderr)
    return False
