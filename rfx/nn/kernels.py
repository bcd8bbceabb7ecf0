"""Our own C kernels as tinygrad programs on the CPU.

A `Kernel` is what `Tensor.custom_kernel` takes as fxn; tinygrad schedules it like any other. Where kernels cannot run (another device,
no compiler, RFX_PLAIN=1), `usable` is False, says so once, and callers take their plain tinygrad path.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import rfx.nn.compiler  # noqa: F401  (before tinygrad)
from tinygrad import Device, Tensor, UOp, dtypes
from tinygrad.helpers import CPU_COUNT, all_int, diskcache_get, diskcache_put
from tinygrad.runtime.ops_cpu import CPUAllocator, CPUWorker
from tinygrad.uop.ops import KernelInfo, Ops

_num_threads = CPU_COUNT.value  # the cores this process may use, or the environment variable CPU_COUNT


def _free_outside_workers(free=CPUAllocator._free, deferred: list = []) -> None:  # noqa: B006  (one list, on purpose)
    """Keep tinygrad 0.13.0 from waiting for itself: its _free waits until the device is idle, and where Python's garbage collector
    happens to run in the device's own worker thread and meets a compiled graph, that is never. Such buffers are freed by the next
    thread that frees one.
    """
    def safe_free(allocator, buffer, options=None):
        if isinstance(threading.current_thread(), CPUWorker):
            deferred.append((buffer, options))
            return
        while deferred:
            free(allocator, *deferred.pop())
        free(allocator, buffer, options)

    CPUAllocator._free = safe_free


_free_outside_workers()


def num_threads() -> int:
    """How many threads new kernels run on."""
    return _num_threads


def set_num_threads(count: int) -> None:
    """Run kernels made from now on with this many threads; no result depends on it. Raises ValueError below 1."""
    global _num_threads
    if count < 1:
        raise ValueError(f"got {count} threads, expected at least 1")
    _num_threads = int(count)


def program_text(*files: str | Path, constants: Mapping[str, object], arrays: Mapping[str, Iterable[int]] = MappingProxyType({})) -> str:
    """C text of constants, arrays of int, and files after each other; a plain file name is one beside this."""
    lines = [f"#define {name} {value}" for name, value in constants.items()]
    lines += [f"static const int {name}[] = {{{', '.join(map(str, values))}}};" for name, values in arrays.items()]
    return "\n".join([*lines, *(_read(Path(__file__).parent / file) for file in files)])


@functools.cache
def _read(path: Path) -> str:
    return path.read_text()


@dataclass(frozen=True)
class Kernel:
    """A C function `name(float* const* buffers, int thread)` in text, called once for each thread, all at the same time.

    buffers are the data of num_buffers tensors, in the order in which custom_kernel gets them. Kernels share no state and call nothing.
    """

    name: str
    text: str
    num_buffers: int
    threads: int = 1

    @functools.cached_property
    def source(self) -> str:
        """text, and the function that tinygrad calls."""
        buffers = [f"b{i}" for i in range(self.num_buffers)]
        parameters = [f"float* {buffer}" for buffer in buffers] + ["int core_id"] * (self.threads > 1)
        thread = "core_id" if self.threads > 1 else "0"
        return f"""{self.text}
void rfx_{self.name}({', '.join(parameters)}) {{
  float* const buffers[] = {{{', '.join(buffers)}}};
  {self.name}(buffers, {thread});
}}
"""

    def __call__(self, *buffers: UOp) -> UOp:
        """The program as a node of tinygrad's graph, which compiles when something first needs its result, if it has not been yet."""
        assert len(buffers) == self.num_buffers, f"{self.name} got {len(buffers)} buffers, takes {self.num_buffers}"
        # a variable called core_id makes tinygrad launch the program once per thread
        thread = [UOp.variable("core_id", 0, self.threads - 1, dtypes.int)] if self.threads > 1 else []
        sink = UOp.sink(*buffers, *thread, arg=KernelInfo(name=f"rfx_{self.name}"))
        stages = [sink, UOp(Ops.DEVICE, arg="CPU"), UOp(Ops.LINEAR, src=tuple(sink.toposort())), UOp(Ops.SOURCE, arg=self.source)]
        if binary := _binaries.get(self.source):
            stages.append(UOp(Ops.BINARY, arg=binary))
        return UOp(Ops.PROGRAM, src=tuple(stages))


def usable(*tensors: Tensor) -> bool:
    """Whether kernels can work on these tensors: float32 on the CPU, none empty. Says once where that is not for lack of speed."""
    if os.environ.get("RFX_PLAIN", "0") not in ("", "0"):
        return _refuse("RFX_PLAIN is set")
    others = {str(tensor.device) for tensor in tensors} - {"CPU"}
    if others:
        return _refuse(f"the C kernels are for the CPU, and these tensors are on {', '.join(sorted(others))}")
    return all(tensor.dtype == dtypes.float32 and all_int(tensor.shape) and 0 not in tensor.shape for tensor in tensors)


_binaries: dict[str, bytes | None] = {}  # by source; None where it does not build


def compile_kernels(*kernels: Kernel) -> bool:
    """Compile kernels, those that are not in tinygrad's cache in parallel. Returns whether all of them build; says once if not."""
    sources = dict.fromkeys(kernel.source for kernel in kernels)
    compiler = Device["CPU"].renderer.compiler
    for source in sources.keys() - _binaries.keys():
        binary = diskcache_get(compiler.cachekey, source) if compiler.cachekey else None
        if binary is not None:
            _binaries[source] = binary
    new = [source for source in sources if source not in _binaries]
    if new:
        with ThreadPoolExecutor(len(new)) as pool:  # the compiler is a process of its own; the cache, of this thread only
            _binaries.update(zip(new, pool.map(_compile, new)))
        for source in new:
            if compiler.cachekey and _binaries[source] is not None:
                diskcache_put(compiler.cachekey, source, _binaries[source])
    return all(_binaries[source] is not None for source in sources)


def _compile(source: str) -> bytes | None:
    try:
        return Device["CPU"].renderer.compiler.compile(source)
    except Exception as error:  # noqa: BLE001  (no compiler, one that fails, or a CPU backend that takes no C)
        _refuse(f"the C kernels do not build: {error}")
        return None


@functools.cache
def _refuse(reason: str) -> bool:
    print(f"rfx: networks run on plain tinygrad, several times slower on a CPU: {reason}", file=sys.stderr)
    return False
