"""What surrounds a kernel: how many cores it runs on, its text, its arrays, where it is kept when it is compiled, and
where it is not used.
"""

import ctypes
import gc
import mmap
import os
import subprocess

import numpy as np
import pytest
from tinygrad import Tensor, dtypes

from rfx.nn import kernels, threads
from rfx.nn.kernels import Kernel
from rfx.nn.threads import MAX_THREADS, Pool, _Pool
from rfx.system import compiler

ADD = "static void add(float* const* b, Pool* pool) { for (int i = 0; i < NUM; i++) b[0][i] += STEP; }"


def adding_kernel(num=3, step="2.0f"):
    """A kernel that adds step to each of num numbers."""
    return Kernel("add", kernels.program_text(constants={"NUM": num, "STEP": step}) + "\n" + ADD)


@pytest.fixture
def forget(monkeypatch):
    """Kernels that this process compiled are forgotten, and what was said once may be said again."""
    kernels._loaded.cache_clear()
    kernels._refuse.cache_clear()
    monkeypatch.setattr(kernels, "_binaries", {})
    yield
    kernels._loaded.cache_clear()
    kernels._refuse.cache_clear()


@pytest.mark.parametrize(
    ("given", "affinity", "count", "expected"),
    [
        ("3", {0}, 8, 3),
        (None, {0, 5}, 8, 2),
        (None, None, 8, 8),
        (None, None, None, 1),
        ("0", {0, 1}, 8, 1),
        ("-4", {0, 1}, 8, 1),
        ("", {0, 1, 2}, 8, 3),
    ],
)
def test_the_cores_are_those_that_the_process_may_use(monkeypatch, given, affinity, count, expected):
    """CPU_COUNT goes first; then the cores it is bound to, where the system tells; then all there are; and one where
    nothing is known.
    """
    monkeypatch.delenv("CPU_COUNT", raising=False)
    if given is not None:
        monkeypatch.setenv("CPU_COUNT", given)
    if affinity is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda pid: affinity if pid == 0 else set(range(50)), raising=False
        )
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert kernels._cores() == expected


def test_text_is_constants_then_arrays_then_files(tmp_path):
    (tmp_path / "own.c").write_text("own")
    text = kernels.program_text(
        tmp_path / "own.c", "worker.c", constants={"A": 1, "B": "2.0f"}, arrays={"size": [3, 4], "none": ()}
    )
    worker = (kernels.Path(kernels.__file__).parent / "worker.c").read_text()
    assert (
        text
        == "#define A 1\n#define B 2.0f\nstatic const int size[] = {3, 4};\nstatic const int none[] = {};\nown\n"
        + worker
    )


def test_a_kernel_works_on_its_arrays_and_keeps_them():
    numbers = np.zeros(3, np.float32)
    call, view = adding_kernel().bind(np.frombuffer(memory := bytearray(12), np.float32)), memoryview(memory)
    gc.collect()
    call()
    call()
    assert np.frombuffer(view, np.float32).tolist() == [4.0, 4.0, 4.0]
    bound = adding_kernel().bind(numbers)
    bound()
    assert numbers.tolist() == [2.0, 2.0, 2.0]


def test_arrays_of_another_type_are_named():
    with pytest.raises(TypeError, match="^got arrays of float64, int64 for the kernel add; expected float32 or int32$"):
        adding_kernel().bind(np.zeros(3), np.zeros(3, np.float32), np.zeros(3, np.int64), np.zeros(3, np.int32))


def test_memory_is_the_tensors_own():
    for values, dtype in (([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtypes.float32), ([[1, 2], [3, 4]], dtypes.int32)):
        tensor = Tensor(values, dtype=dtype).contiguous().realize()
        memory = kernels.memory(tensor)
        assert memory.tolist() == values and memory.dtype == (np.int32 if dtype == dtypes.int32 else np.float32)
        memory[1, 0] = 9
        assert tensor.numpy()[1, 0] == 9


def test_kernels_are_for_float32_on_the_cpu(monkeypatch, capsys, forget):
    floats, half, elsewhere = Tensor([1.0]), Tensor([1.0], dtype=dtypes.float16), Tensor([1.0], device="PYTHON")
    for plain in (None, "", "0"):
        if plain is None:
            monkeypatch.delenv("RFX_PLAIN", raising=False)
        else:
            monkeypatch.setenv("RFX_PLAIN", plain)
        assert kernels.usable(floats, floats) and kernels.usable() and not kernels.usable(floats, half)
    assert not capsys.readouterr().err
    assert not kernels.usable(floats, elsewhere) and not kernels.usable(elsewhere)
    assert capsys.readouterr().err == (
        "rfx: networks run on plain tinygrad, several times slower on a CPU: the C kernels are for the CPU, and these "
        "tensors are on PYTHON\n"
    )
    monkeypatch.setenv("RFX_PLAIN", "1")
    assert not kernels.usable(floats)
    assert (
        capsys.readouterr().err
        == "rfx: networks run on plain tinygrad, several times slower on a CPU: RFX_PLAIN is set\n"
    )


def test_a_compiled_kernel_is_kept_for_other_processes_of_this_processor(monkeypatch, forget):
    compiled, compile_one = [], kernels._compile
    monkeypatch.setattr(kernels, "_compile", lambda source: compiled.append(source) or compile_one(source))
    unique, processor = adding_kernel(step=f"{os.getpid()}.0f"), compiler.processor()
    assert kernels.compile_kernels(unique) and [unique.source] == [
        source for source in compiled if source != kernels.WORK.source
    ]
    compiled.clear()
    assert kernels.compile_kernels(unique, unique) and not compiled  # this process has it
    kernels._binaries.clear()
    assert kernels.compile_kernels(unique) and not compiled  # as another would find it
    kernels._binaries.clear()
    monkeypatch.setattr(compiler, "processor", lambda: f"not {processor}")
    assert kernels.compile_kernels(unique) and compiled


@pytest.mark.parametrize("reason", ["no such file", "this is not C"])
def test_what_does_not_build_is_said_once_and_not_kept(monkeypatch, capsys, tmp_path, forget, reason):
    broken = Kernel("add", f"{reason} {os.getpid()}; " + "int x; " * 200)
    if reason == "no such file":
        monkeypatch.setenv("CC", str(tmp_path / "none"))
    for _ in range(2):
        assert not kernels.compile_kernels(adding_kernel(), broken)
    said = capsys.readouterr().err
    assert said.startswith(
        "rfx: networks run on plain tinygrad, several times slower on a CPU: the C kernels do not build: "
    )
    assert (
        said.endswith(f"No such file or directory: '{tmp_path / 'none'}'\n")
        if reason == "no such file"
        else "error: " in said
    )
    assert len(said) < 1500 and said.count("rfx: networks run") == 1
    with pytest.raises(RuntimeError, match="^the kernel add does not build$"):
        broken.bind(np.zeros(3, np.float32))
    if reason == "this is not C":
        assert kernels.compile_kernels(adding_kernel())


@pytest.mark.parametrize(("counts", "threads"), [([1], 0), ([2, 1, 3], 2), ([4, 4, 2], 3), ([1000], MAX_THREADS - 1)])
def test_a_pool_starts_the_threads_that_it_lacks(monkeypatch, counts, threads):
    """Each works for good, as one of its number; that of the caller is 0."""
    begun, made = [], []
    monkeypatch.setattr(
        "rfx.nn.threads.threading.Thread",
        lambda target, args, name, daemon: (
            made.append((name, daemon)) or type("Now", (), {"start": lambda self: target(*args)})()
        ),
    )
    pool = Pool(lambda number, address: begun.append((number, address)))
    for count in counts:
        pool.use(count)
        assert _Pool.from_address(pool.address).threads == min(count, MAX_THREADS)
    assert begun == [(number, pool.address) for number in range(1, threads + 1)]
    assert made == [(f"rfx-kernels-{number}", True) for number in range(1, threads + 1)]


def test_a_pool_brings_the_functions_that_kernels_call():
    """Of pthreads, by address: kernels are made of no libraries."""
    pool, functions = Pool(lambda number, address: None), ctypes.CDLL(None)
    told, names = (
        _Pool.from_address(pool.address),
        {
            "lock": "pthread_mutex_lock",
            "unlock": "pthread_mutex_unlock",
            "wait": "pthread_cond_wait",
            "wake_all": "pthread_cond_broadcast",
            "yield": "sched_yield",
        },
    )
    for field, name in names.items():
        assert getattr(told, field) == ctypes.cast(getattr(functions, name), ctypes.c_void_p).value != 0


def test_the_number_of_threads_is_a_whole_number():
    before = kernels.num_threads()
    kernels.set_num_threads(np.int64(1))
    assert type(kernels.num_threads()) is int and kernels.num_threads() == 1
    kernels.set_num_threads(before)


@pytest.mark.parametrize(
    ("system", "machine"),
    [("linux", "x86_64"), ("linux", "aarch64"), ("linux", "ARM64"), ("darwin", "arm64"), ("darwin", "x86_64")],
)
def test_code_gets_into_memory_as_the_system_wants(monkeypatch, system, machine):
    """macOS wants memory for code that is asked for as such, and its protection lifted by the thread that writes; ARM
    its caches told.
    """
    done, apple, arm = [], system == "darwin", machine.lower() in ("arm64", "aarch64")
    binary = subprocess.run(
        compiler.command(), input=b"void nothing(float* const* b, void* pool) {}", capture_output=True, check=True
    ).stdout

    class Code(mmap.mmap):
        def __new__(cls, place, size, flags, protection):
            done.append(("map", size, bool(flags & 0x0800), protection))
            return super().__new__(cls, place, size, flags, protection)

        def write(self, data):
            done.append(("write", len(data)))
            return super().write(data)

    class Library:
        def __init__(self, name):
            self.name = name

        def pthread_jit_write_protect_np(self, protected):
            done.append(("protect", self.name, protected))

        def __getitem__(self, name):
            return lambda begin, end: done.append((name, self.name, begin.value, end.value))

    monkeypatch.setattr(threads.sys, "platform", system)
    monkeypatch.setattr(threads.platform, "machine", lambda: machine)
    monkeypatch.setattr(threads.mmap, "mmap", Code)
    monkeypatch.setattr(threads.ctypes, "CDLL", Library)
    function, code = threads.load(binary), threads._code[-1]
    size, begin = len(code), ctypes.addressof(ctypes.c_char.from_buffer(code))
    assert type(code) is Code and function.restype is None and function.argtypes == (ctypes.c_void_p, ctypes.c_void_p)
    protect = [[("protect", None, protected)] if apple else [] for protected in (0, 1)]
    tell = [("__clear_cache", None if apple else "libgcc_s.so.1", begin, begin + size)] if arm else []
    every = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    assert done == [("map", size, apple, every), *protect[0], ("write", size), *protect[1], *tell]
