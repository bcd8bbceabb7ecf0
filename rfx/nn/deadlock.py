"""Prevents a deadlock of tinygrad 0.13.0 in processes that run compiled graphs on the CPU."""

from __future__ import annotations

import functools
import threading

from tinygrad.runtime import ops_cpu


@functools.cache
def avoid_deadlock() -> None:
    """Make tinygrad's worker thread leave the freeing of buffers to the next thread that frees one.

    Only version 0.13.0 is changed. Its _free waits until the device is idle. When Python's garbage collector happens to
    run in the worker thread and frees a compiled graph, the device never becomes idle.
    """
    if not hasattr(ops_cpu, "CPUComputeQueue"):  # since 0.14.0 the worker runs only C, without garbage collection
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
