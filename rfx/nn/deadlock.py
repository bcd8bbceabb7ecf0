"""Keeps tinygrad 0.13.0 from waiting for itself, in processes that run compiled graphs on the CPU."""

from __future__ import annotations

import functools
import threading

from tinygrad.runtime import ops_cpu


@functools.cache
def avoid_deadlock() -> None:
    """Let buffers that 0.13.0's own worker thread frees wait for the next thread that frees one.

    Other versions are left alone.

    Its _free waits until the device is idle, and where Python's garbage collector happens to run in the worker and
    meets a compiled graph, that is never.
    """
    if not hasattr(ops_cpu, "CPUComputeQueue"):  # from 0.14.0 on the worker runs C alone, where no garbage is collected
        return
    free, deferred = ops_cpu.CPUAllocator._free, []

    def safe_free(allocator, buffer, options=None):
        if isinstance(threading.current_thread(), ops_cpu.CPUWorker):
            deferred.append((buffer, options))
            return
        while deferred:
            free(allocator, *deferred.pop())
        free(allocator, buffer, options)

    ops_cpu.CPUAllocator._free = safe_free
