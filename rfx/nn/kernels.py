"""Our own C kernels: compiled at first use, called on arrays in memory, run on our own threads.

Where kernels cannot run (tensors on another device, no compiler, RFX_PLAIN=1), `usable` returns False and says so once.
Callers then use plain tinygrad.
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
    """Number of cores that this process may use, or the environment variable CPU_COUNT."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(int(os.environ.get("CPU_COUNT") or available or 1), 1)


_num_threads = _cores()
_pool: Pool | None = None  # the first call of a kernel starts it
_starting = threading.Lock()


def num_threads() -> int:
    """Number of threads that kernels run on."""
    return _num_threads


def set_num_threads(count: int) -> None:
    """Run kernels on count threads from now on; results do not depend on it. Raises ValueError below 1."""
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
    """Join constants, arrays of int and files into one C text; a plain file name means a file beside this module."""
    lines = [f"#define {name} {value}" for name, value in constants.items()]
    lines += [f"static const int {name}[] = {{{', '.join(map(str, values))}}};" for name, values in arrays.items()]
    return "\n".join([*lines, *(_read(Path(__file__).parent / file) for file in files)])


@functools.cache
def _read(path: Path) -> str:
    return path.read_text()


@dataclass(frozen=True)
class Kernel:
    """A C function `name(float* const* buffers, Pool* pool)` in text.

    threads.c is put before the text. The function calls nothing else.
    """

    name: str
    text: str

    @functools.cached_property
    def source(self) -> str:
        """The whole program; it begins with the one public function."""
        threads = _read(Path(__file__).with_name("threads.c"))
        return f"{threads}\n{self.text}\nvoid rfx_{self.name}(float* const* buffers, Pool* pool) {{ {self.name}(buffers, pool); }}\n"

    def bind(self, *arrays: np.ndarray) -> Callable[[], None]:
        """Return a function that runs the kernel on these arrays, its buffers in order.

        The function may be called any number of times, and keeps the arrays alive. Arrays are float32 or int32. Raises
        RuntimeError if the kernel does not build: call compile_kernels first.
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
    """View of a realized CPU tensor's memory as an array."""
    view = tensor.uop.buffer.ensure_allocated().as_memoryview(allow_zero_copy=True)
    return np.frombuffer(view, np.int32 if tensor.dtype == dtypes.int32 else np.float32).reshape(tensor.shape)


def usable(*tensors: Tensor) -> bool:
    """Whether kernels can work on these tensors, which must be float32 on the CPU.

    Says so once if RFX_PLAIN or a tensor's device is the reason why not.
    """
    if os.environ.get("RFX_PLAIN", "0") not in ("", "0"):
        return _refuse("RFX_PLAIN is set")
    others = {str(tensor.device) for tensor in tensors} - {"CPU"}
    if others:
        return _refuse(f"the C kernels are for the CPU, and these tensors are on {', '.join(sorted(others))}")
    return all(tensor.dtype == dtypes.float32 for tensor in tensors)


CACHE = "rfx_kernels"  # table in tinygrad's cache
_binaries: dict[str, bytes | None] = {}  # binary by source; None if the source does not build


def compile_kernels(*kernels: Kernel) -> bool:
    """Compile kernels in parallel, unless they are in tinygrad's cache.

    Returns whether all of them build; says so once if not.
    """
    sources, target = (
        dict.fromkeys(kernel.source for kernel in (WORK, *kernels)),
        f"{' '.join(compiler.command())} {compiler.processor()}\n",
    )
    for source in sources.keys() - _binaries.keys():
        if binary := diskcache_get(CACHE, target + source):
            _binaries[source] = binary
    if new := [source for source in sources if source not in _binaries]:
        # The compiler runs as a separate process; only this thread may use the cache.
        with ThreadPoolExecutor(len(new)) as pool:
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
