"""The dense network: values and gradients against float64 NumPy over odd shapes, as kernels and as plain tinygrad."""

import os
import subprocess
import sys
from pathlib import Path

import network_reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfx.nn import kernels
from rfx.nn.dense import Pass, mlp
from tinygrad import Tensor
from tinygrad.runtime.support.elf import jit_loader

SHAPES = st.tuples(st.integers(1, 230), st.lists(st.integers(1, 70), min_size=2, max_size=5), st.integers(1, 3), st.booleans())
ODD_SHAPES = [(1, [3, 5, 2], 1, True), (97, [130, 100, 33, 17, 3], 2, True), (1000, [48, 256, 256, 13], 2, False), (200, [5, 4], 1, True)]


@pytest.fixture(params=["kernels", "plain"])
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setenv("RFX_PLAIN", "1")
    return request.param


def network(batch, widths, seed=0):
    """Inputs, weights, biases and an output gradient, float32."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((b, a)).astype(np.float32) / np.float32(a**0.5) for a, b in zip(widths, widths[1:])]
    biases = [rng.standard_normal(b).astype(np.float32) for b in widths[1:]]
    x, gradient = (rng.standard_normal((batch, width)).astype(np.float32) for width in (widths[0], widths[-1]))
    return x, weights, biases, gradient


def run(x, weights, biases, gradient, num_heads, train):
    """Output and gradients of input, weights and biases from mlp, its last layer split into heads."""
    cuts = np.array_split(np.arange(len(weights[-1])), num_heads)
    pieces = [[Tensor(a).realize() for a in [*arrays[:-1], *(arrays[-1][rows] for rows in cuts)]] for arrays in (weights, biases)]
    given_x, hidden = Tensor(x).realize(), len(weights) - 1
    with Tensor.train(train):
        output = mlp(given_x, *([*piece[:hidden], piece[hidden:]] for piece in pieces))
        gradients = output.gradient(given_x, *pieces[0], *pieces[1], gradient=Tensor(gradient))
        Tensor.realize(output, *gradients)
    d_x, *rest = (g.numpy() for g in gradients)
    d_weights, d_biases = rest[:len(pieces[0])], rest[len(pieces[0]):]
    return (output.numpy(), d_x, [*d_weights[:hidden], np.concatenate(d_weights[hidden:])],
            [*d_biases[:hidden], np.concatenate(d_biases[hidden:])])


def check(batch, widths, num_heads, train):
    x, weights, biases, gradient = network(batch, widths)
    output, d_x, d_weights, d_biases = run(x, weights, biases, gradient, min(num_heads, widths[-1]), train)
    activations = network_reference.forward(x, weights, biases)
    expected_x, expected_weights, expected_biases = network_reference.backward(activations, weights, gradient)
    for got, expected in zip([output, d_x, *d_weights, *d_biases], [activations[-1], expected_x, *expected_weights, *expected_biases]):
        assert np.abs(got - expected).max() < 5e-6 * max(1.0, np.abs(expected).max())


@settings(max_examples=10, deadline=None, derandomize=True)  # the same shapes every time: their kernels stay in the compiler's cache
@given(SHAPES)
def test_kernels_match_numpy_for_any_shape(shape):
    check(*shape)


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
def test_both_paths_match_numpy(path, shape):
    check(*shape)


def test_hidden_units_saturate_and_stay_in_range(path):
    weight, bias = Tensor([[1.0]]), Tensor([0.0])
    x = np.array([[-1e30], [-20.0], [-9.5], [-1e-6], [0.0], [1e-6], [0.3], [8.9], [9.1], [1e30], [np.inf], [-np.inf]], np.float32)
    out = mlp(Tensor(x), [weight, weight], [bias, bias]).numpy()
    assert np.abs(out).max() <= 1.0
    assert np.abs(out - np.tanh(x.astype(np.float64))).max() < 5e-7
    if path == "kernels":
        assert out[3, 0] == pytest.approx(-1e-6, rel=1e-5)


def test_a_bad_row_spoils_only_itself(path):
    x, weights, biases, _ = network(130, [20, 40, 5])
    args = [Tensor(w) for w in weights], [Tensor(b) for b in biases]
    clean = mlp(Tensor(x), *args).numpy()
    x[77, 3] = np.nan
    spoilt = mlp(Tensor(x), *args).numpy()
    assert np.isnan(spoilt[77]).all()
    assert np.array_equal(np.delete(spoilt, 77, axis=0), np.delete(clean, 77, axis=0))


def test_a_row_does_not_depend_on_its_batch():
    x, weights, biases, _ = network(150, [48, 64, 64, 13])
    args = [Tensor(w) for w in weights], [Tensor(b) for b in biases]
    whole = mlp(Tensor(x), *args).numpy()
    for rows in (slice(0, 1), slice(97, 104), slice(140, 150)):
        assert np.array_equal(mlp(Tensor(x[rows].copy()), *args).numpy(), whole[rows])


@pytest.mark.parametrize("spoil", [lambda x, w, b: (x, [w[1], *w[1:]], b), lambda x, w, b: (x, w, [b[0], b[0], b[2]]),
                                   lambda x, w, b: (x[0], w, b), lambda x, w, b: (x[:, :-1], w, b),
                                   lambda x, w, b: (x, [*w[:2], [w[2], w[1][:, :-1]]], [*b[:2], [b[2], b[1]]])])
def test_layers_that_do_not_fit_are_refused(path, spoil):
    x, weights, biases, _ = network(5, [4, 6, 7, 3])
    x, weights, biases = spoil(Tensor(x), [Tensor(w) for w in weights], [Tensor(b) for b in biases])
    with pytest.raises(ValueError, match=r"got x \(.*expected \(batch, in\)"):
        mlp(x, weights, biases)


@pytest.mark.parametrize("march", ["haswell", "x86-64"])
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other instruction sets of an x86 machine")
def test_narrower_vectors_match_numpy(march, tmp_path):
    """AVX2 and plain SSE: the same tests in a process whose compiler is told so."""
    compiler = tmp_path / "clang"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CC", "clang")} "$@" -march={march}\n')
    compiler.chmod(0o755)
    environment = os.environ | {"CC": str(compiler), "CCACHE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    code = f"import test_dense; [test_dense.check(*shape) for shape in {ODD_SHAPES[:2]}]; print(test_dense.kernels.usable())"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "True" and not done.stderr, done.stderr


def test_kernels_build_for_arm():
    """NEON: what clang makes of the kernels for another machine, tinygrad can load."""
    sizes = Pass(100, (48, 64, 64), (64, 12, 1), 1, 2)
    for kernel in map(sizes.kernel, ("forward", "inference", "backward", "input_gradient", "reduce")):
        command = [os.environ.get("CC", "clang"), "-c", "-x", "c", "-O2", "-fPIC", "-ffreestanding", "-fno-math-errno", "-nostdlib",
                   "-ffixed-x18", "--target=arm64-none-unknown-elf", "-mcpu=apple-m1", "-", "-o", "-"]
        built = subprocess.run(command, input=kernel.source.encode(), capture_output=True)
        assert built.returncode == 0, built.stderr.decode()
        assert jit_loader(built.stdout)


def test_a_kernel_that_does_not_build_is_refused_with_one_line(capsys):
    broken = kernels.Kernel("broken", "this is not C", 1)
    assert not kernels.compile_kernels(broken) and not kernels.compile_kernels(broken)
    assert capsys.readouterr().err.count("rfx: networks run on plain tinygrad") == 1


def test_the_plain_path_says_so_once(monkeypatch, capsys):
    monkeypatch.setenv("RFX_PLAIN", "yes")
    kernels._refuse.cache_clear()
    assert not kernels.usable() and not kernels.usable()
    assert capsys.readouterr().err == "rfx: networks run on plain tinygrad, several times slower on a CPU: RFX_PLAIN is set\n"


def test_threads_are_counted_from_one():
    before = kernels.num_threads()
    with pytest.raises(ValueError, match="got 0 threads, expected at least 1"):
        kernels.set_num_threads(0)
    assert kernels.num_threads() == before >= 1


def test_a_buffer_freed_by_the_devices_own_worker_does_not_stop_it():
    """Garbage collection may run in any thread. In a worker, tinygrad's wait for an idle device would wait for itself."""
    code = """
import rfx.nn.dense, numpy as np
from tinygrad import Device, Tensor
from tinygrad.device import BufferSpec
device = Device["CPU"]
buffer = device.allocator._alloc(4096, BufferSpec())
buffer.mapped_devs.append(device)
Tensor(np.ones(4)).realize(); device.synchronize()
awaited = device.timeline_value
def command(thread_id, *args):  # work that the device is not done with while it frees
    device.allocator._free(buffer)
    device.timeline_signal.value = awaited
device.timeline_value += 1
device.tasks.put([command, 1, 0])
device.tasks.join()
print((Tensor(np.ones(4, np.float32)) + 1).numpy().sum())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "8.0", done.stderr
