"""The threads that our kernels share (threads.c), and the loading of compiled code into memory."""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
import threading
from collections.abc import Callable

from tinygrad.runtime.support.elf import jit_loader

MAX_THREADS = 64  # a kernel runs on at most this many threads: only these have scratch memory

CompiledKernel = Callable[[int, int], None]  # takes the addresses of its buffers and of the pool
_code: list[mmap.mmap] = []  # compiled kernels; they are never freed


class _Pool(ctypes.Structure):
    """The first fields of Pool in threads.c; the other fields start as zero."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("lock", "unlock", "wait", "wake_all", "yield")),
        ("threads", ctypes.c_long),
        ("mutex", ctypes.c_char * 128),
        ("condition", ctypes.c_char * 128),
    ]


class Pool:
    """Threads that sleep until a kernel has tasks for them.

    Each thread runs work, the kernel in worker.c, forever.
    """

    def __init__(self, work: CompiledKernel):
        # Mapped memory starts on a page, so it is aligned to cache lines.
        self._work, self._num_started, self._memory = work, 0, mmap.mmap(-1, mmap.PAGESIZE)
        self._fields, library = _Pool.from_buffer(self._memory), ctypes.CDLL(None)
        self.address = ctypes.addressof(self._fields)
        names = (
            "pthread_mutex_lock",
            "pthread_mutex_unlock",
            "pthread_cond_wait",
            "pthread_cond_broadcast",
            "sched_yield",
        )
        for (field, _), name in zip(_Pool._fields_, names):
            setattr(self._fields, field, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
        library.pthread_mutex_init(ctypes.c_void_p(self.address + _Pool.mutex.offset), None)
        library.pthread_cond_init(ctypes.c_void_p(self.address + _Pool.condition.offset), None)

    def use(self, num_threads: int) -> None:
        """Let kernels run on num_threads threads, including the calling one. Call this while no kernel runs."""
        num_threads = min(num_threads, MAX_THREADS)
        self._fields.threads = num_threads
        for i in range(self._num_started + 1, num_threads):
            threading.Thread(target=self._work, args=(i, self.address), name=f"rfx-kernels-{i}", daemon=True).start()
        self._num_started = max(self._num_started, num_threads - 1)


def load(binary: bytes) -> CompiledKernel:
    """Load the function at the beginning of an object file into memory.

    ctypes lets other Python threads run during its calls.
    """
    image, apple = jit_loader(binary), sys.platform == "darwin"
    code = mmap.mmap(
        -1,
        len(image),
        mmap.MAP_ANON | mmap.MAP_PRIVATE | (0x0800 if apple else 0),  # MAP_JIT
        mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
    )
    if apple:
        ctypes.CDLL(None).pthread_jit_write_protect_np(0)
    code.write(image)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    if apple:
        ctypes.CDLL(None).pthread_jit_write_protect_np(1)
    if platform.machine().lower() in ("arm64", "aarch64"):  # their instruction cache does not see new code
        flush = ctypes.CDLL(None if apple else "libgcc_s.so.1")["__clear_cache"]
        flush(ctypes.c_void_p(address), ctypes.c_void_p(address + len(image)))
    _code.append(code)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)
