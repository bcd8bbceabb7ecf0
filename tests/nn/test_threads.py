"""Our kernels' threads: every task is run once, whoever else runs, forks or sleeps; and none of it shows before a
kernel is called.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rfx.nn import kernels

COUNT = """
static void count(float* const* b, long task, int thread) {
  b[0][task] += 1.0f;
  b[1][task] = (float)thread;
  for (volatile int i = 0; i < 200; i++);
}
static void count_tasks(float* const* b, Pool* pool) {
  for (long i = 1; i <= TASKS; i++) run(pool, count, b, i);
}
"""


def counting_kernel(num_tasks):
    """A kernel that runs 1, 2, ..., num_tasks tasks, and the arrays it counts in: how often each ran, and by which
    thread last.
    """
    counts, thread = np.zeros((2, num_tasks), np.float32)
    kernel = kernels.Kernel("count_tasks", kernels.program_text(constants={"TASKS": num_tasks}) + COUNT)
    return kernel.bind(counts, thread), counts, thread


@pytest.fixture(params=[1, 2, 7])
def num_threads(request):
    before = kernels.num_threads()
    kernels.set_num_threads(request.param)
    yield request.param
    kernels.set_num_threads(before)


def test_every_task_runs_once(num_threads):
    call, counts, thread = counting_kernel(97)
    for _ in range(20):
        counts[:] = 0.0
        call()
        assert np.array_equal(counts, np.arange(97, 0, -1))
        assert (0 <= thread).all() and (thread < num_threads).all()


def test_several_callers_at_once_do_not_mix_their_tasks(num_threads):
    calls = [counting_kernel(41) for _ in range(4)]

    def repeat(call):
        for _ in range(50):
            call()

    callers = [threading.Thread(target=repeat, args=(call,)) for call, _, _ in calls]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60.0)
    assert all(np.array_equal(counts, 50 * np.arange(41, 0, -1)) for _, counts, _ in calls)


def test_the_other_threads_take_part():
    """Two tasks that each wait, for at most some seconds, until both have begun: with one thread they would not
    meet.
    """
    text = """
static void meet(float* const* b, long task, int thread) {
  __atomic_fetch_add((int*)b[0], 1, __ATOMIC_SEQ_CST);
  for (long i = 0; i < 2000000000L && __atomic_load_n((int*)b[0], __ATOMIC_SEQ_CST) < 2; i++) relax();
  b[1][task] = (float)__atomic_load_n((int*)b[0], __ATOMIC_SEQ_CST);
}
static void meet_twice(float* const* b, Pool* pool) { run(pool, meet, b, 2); }
"""
    before = kernels.num_threads()
    begun, seen = np.zeros(1, np.int32), np.zeros(2, np.float32)
    kernels.set_num_threads(2)
    kernels.Kernel("meet_twice", text).bind(begun, seen)()
    kernels.set_num_threads(before)
    assert seen.tolist() == [2.0, 2.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own():
    call, counts, _ = counting_kernel(17)
    call()
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0 if np.array_equal(counts, 2 * np.arange(17, 0, -1)) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_a_process_ends_while_its_threads_sleep():
    code = (
        "import sys, numpy as np, test_threads; from rfx.nn import kernels; kernels.set_num_threads(4)\n"
        "call, counts, _ = test_threads.counting_kernel(9); call(); print(int(counts.sum()))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "45\n" and done.returncode == 0, done.stderr


def test_threads_are_counted_from_one():
    before = kernels.num_threads()
    with pytest.raises(ValueError, match="got 0 threads, expected at least 1"):
        kernels.set_num_threads(0)
    assert kernels.num_threads() == before >= 1


IMPORT = """
import os, threading
import tinygrad, tinygrad.device
from tinygrad import Device
from tinygrad.helpers import DEV
from tinygrad.runtime import ops_cpu

def state():
    return (dict(os.environ), DEV.value, threading.active_count(), sorted(Device._opened_devices), dict(vars(ops_cpu.CPUAllocator)),
            dict(vars(ops_cpu.CPUProgram)), dict(vars(tinygrad.Tensor)))

before = state()
import rfx, rfx.nn, rfx.nn.dense, rfx.nn.kernels, rfx.nn.networks, rfx.nn.policy
print(before == state())
"""


@pytest.mark.parametrize("device", [None, "PYTHON"])
def test_importing_the_networks_changes_nothing_for_the_process(device):
    """Neither the environment, nor tinygrad's device and classes, nor threads; also where tinygrad was imported
    before.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("DEV", "CC")} | (
        {"DEV": device} if device else {}
    )
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n" and not done.stderr, done.stderr


def test_networks_live_on_the_process_own_device():
    code = "from rfx.nn import MLP; from tinygrad import Tensor; print(MLP(3, 2, [4]).parameters()[0].device, Tensor([1.0]).device)"
    environment = os.environ | {"DEV": "PYTHON", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "PYTHON PYTHON\n", done.stderr
