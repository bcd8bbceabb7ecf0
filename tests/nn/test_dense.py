"""The dense network: values and gradients against float64 NumPy over odd shapes, in C and in plain tinygrad."""

import os
import re
import subprocess
import sys
from pathlib import Path

import network_reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinygrad import Tensor
from tinygrad.runtime import ops_cpu
from tinygrad.runtime.support.elf import jit_loader

from rfx.nn import kernels
from rfx.nn.dense import Inference, Pass, Training, mlp
from rfx.nn.threads import MAX_THREADS
from rfx.system import compiler

SHAPES = st.tuples(st.integers(1, 230), st.lists(st.integers(1, 70), min_size=2, max_size=5), st.integers(1, 3))
ODD_SHAPES = [(1, [3, 5, 2], 1), (97, [130, 100, 33, 17, 3], 2), (1000, [48, 256, 256, 13], 2), (200, [5, 4], 1)]


@pytest.fixture(params=["kernels", "plain"])
def path(request):
    return request.param


def network(batch, widths, seed=0):
    """Inputs, weights, biases and an output gradient, float32."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((b, a)).astype(np.float32) / np.float32(a**0.5) for a, b in zip(widths, widths[1:])]
    biases = [rng.standard_normal(b).astype(np.float32) for b in widths[1:]]
    x, gradient = (rng.standard_normal((batch, width)).astype(np.float32) for width in (widths[0], widths[-1]))
    return x, weights, biases, gradient


def heads(arrays, num_heads):
    """Arrays of layers, the last split into as many heads as it has rows for."""
    return [
        *arrays[:-1],
        *(np.ascontiguousarray(rows) for rows in np.array_split(arrays[-1], min(num_heads, len(arrays[-1])))),
    ]


def run_plain(x, weights, biases, gradient, activation="tanh"):
    """Output and gradients of weights and biases from mlp."""
    num_hidden = len(weights) - 1
    pieces = [[Tensor(a).realize() for a in arrays] for arrays in (weights, biases)]
    output = mlp(Tensor(x), *([*piece[:num_hidden], piece[num_hidden:]] for piece in pieces), activation)
    gradients = [g.numpy() for g in output.gradient(*pieces[0], *pieces[1], gradient=Tensor(gradient))]
    return output.numpy(), gradients[: len(weights)], gradients[len(weights) :]


def run_kernels(x, weights, biases, gradient, num_hidden, activation="tanh"):
    """The same from the kernels, whose output is some columns of a wider array.

    The inference kernel gives the same output, to the bit.
    """
    wide, d_wide = (np.full((len(x), gradient.shape[1] + 3), 7.0, np.float32) for _ in range(2))
    output, d_output = wide[:, 2:-1], d_wide[:, 2:-1]
    d_output[...] = gradient
    d_weights, d_biases = ([np.full_like(a, np.nan) for a in arrays] for arrays in (weights, biases))
    network = Training(x, weights, biases, num_hidden, output, d_output, d_weights, d_biases, activation)
    network.forward()
    network.backward()
    inferred = np.empty_like(gradient)
    Inference(x, weights, biases, num_hidden, inferred, activation)()
    assert np.array_equal(inferred, output) and (wide[:, [0, 1, -1]] == 7.0).all()
    return output, d_weights, d_biases


def check(batch, widths, num_heads, path="kernels", activation="tanh"):
    x, weights, biases, gradient = network(batch, widths)
    num_hidden, pieces = len(weights) - 1, [heads(arrays, num_heads) for arrays in (weights, biases)]
    if path == "plain":
        pieces[0][num_hidden:], pieces[1][num_hidden:] = weights[-1:], biases[-1:]
        output, d_weights, d_biases = run_plain(x, *pieces, gradient, activation)
    else:
        output, d_weights, d_biases = run_kernels(x, *pieces, gradient, num_hidden, activation)
    activations = network_reference.forward(x, weights, biases, activation)
    _, expected_weights, expected_biases = network_reference.backward(activations, weights, gradient, activation)
    d_weights, d_biases = ([*d[:num_hidden], np.concatenate(d[num_hidden:])] for d in (d_weights, d_biases))
    for got, expected in zip([output, *d_weights, *d_biases], [activations[-1], *expected_weights, *expected_biases]):
        assert np.abs(got - expected).max() < 5e-6 * max(1.0, np.abs(expected).max())


def outputs(x, weights, biases, path="kernels", activation="tanh"):
    """The output of a network with one head."""
    if path == "plain":
        return mlp(Tensor(x), [Tensor(w) for w in weights], [Tensor(b) for b in biases], activation).numpy()
    out = np.empty((len(x), len(weights[-1])), np.float32)
    Inference(x, weights, biases, len(weights) - 1, out, activation)()
    return out


@settings(
    max_examples=5, deadline=None, derandomize=True
)  # the same shapes every time: their kernels stay in the compiler's cache
@given(SHAPES)
def test_kernels_match_numpy_for_any_shape(shape):
    check(*shape)


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
def test_both_paths_match_numpy(path, shape):
    check(*shape, path)


@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_both_paths_match_numpy_for_every_activation(path, activation):
    check(97, [130, 100, 33, 17, 3], 2, path, activation)


@pytest.mark.parametrize("activation", network_reference.ACTIVATIONS)
def test_the_gradients_to_compare_with_are_the_slopes_of_the_output(activation):
    """Central differences of float64, along a random direction of all weights and biases."""
    x, weights, biases, gradient = network(50, [7, 20, 11, 3])
    rng, step = np.random.default_rng(1), 1e-6
    ways = [[rng.standard_normal(a.shape) for a in arrays] for arrays in (weights, biases)]

    def moved(by):
        pieces = ([a + by * way for a, way in zip(arrays, way)] for arrays, way in zip((weights, biases), ways))
        return (network_reference.forward(x, *pieces, activation)[-1] * gradient).sum()

    activations = network_reference.forward(x, weights, biases, activation)
    _, d_weights, d_biases = network_reference.backward(activations, weights, gradient, activation)
    slope = sum((d * way).sum() for d, way in zip([*d_weights, *d_biases], [*ways[0], *ways[1]]))
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_elu_and_relu_hold_over_all_numbers(path, activation):
    one, none = np.array([[1.0]], np.float32), np.array([0.0], np.float32)
    x = np.array(
        [[-np.inf], [-1e30], [-90.0], [-20.0], [-1e-6], [0.0], [1e-6], [0.3], [90.0], [1e30], [np.inf]], np.float32
    )
    out = outputs(x, [one, one], [none, none], path, activation)
    np.testing.assert_allclose(
        out, network_reference.ACTIVATIONS[activation][0](x.astype(np.float64)), rtol=1e-7, atol=4e-7
    )
    run = run_plain if path == "plain" else lambda *arrays: run_kernels(*arrays[:-1], 1, arrays[-1])
    finite = np.ascontiguousarray(x[2:9])
    _, d_weights, _ = run(
        finite, [one, one], [none, none], np.ones_like(finite), activation
    )  # exp(90) is not a float32
    slope = network_reference.ACTIVATIONS[activation][1](out[2:9].astype(np.float64))
    np.testing.assert_allclose(d_weights[0], [[(slope * finite).sum()]], rtol=1e-6)


def test_hidden_units_saturate_and_stay_in_range(path):
    weight, bias = np.array([[1.0]], np.float32), np.array([0.0], np.float32)
    x = np.array(
        [[-1e30], [-20.0], [-9.5], [-1e-6], [0.0], [1e-6], [0.3], [8.9], [9.1], [1e30], [np.inf], [-np.inf]], np.float32
    )
    out = outputs(x, [weight, weight], [bias, bias], path)
    assert np.abs(out).max() <= 1.0
    assert np.abs(out - np.tanh(x.astype(np.float64))).max() < 5e-7
    if path == "kernels":
        assert out[3, 0] == pytest.approx(-1e-6, rel=1e-5)


@pytest.mark.parametrize("activation", network_reference.ACTIVATIONS)
def test_a_bad_row_spoils_only_itself(path, activation):
    x, weights, biases, _ = network(130, [20, 40, 5])
    clean = outputs(x, weights, biases, path, activation)
    x[77, 3] = np.nan
    spoilt = outputs(x, weights, biases, path, activation)
    assert np.isnan(spoilt[77]).all()
    assert np.array_equal(np.delete(spoilt, 77, axis=0), np.delete(clean, 77, axis=0))


def test_a_row_does_not_depend_on_its_batch():
    x, weights, biases, _ = network(150, [48, 64, 64, 13])
    whole = outputs(x, weights, biases)
    for rows in (slice(0, 1), slice(97, 104), slice(140, 150)):
        assert np.array_equal(outputs(x[rows].copy(), weights, biases), whole[rows])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x, w, b: (x, [w[1], *w[1:]], b),
        lambda x, w, b: (x, w, [b[0], b[0], b[2]]),
        lambda x, w, b: (x[0], w, b),
        lambda x, w, b: (x[:, :-1].copy(), w, b),
    ],
)
def test_layers_that_do_not_fit_are_refused(path, spoil):
    x, weights, biases, _ = network(5, [4, 6, 7, 3])
    x, weights, biases = spoil(x, weights, biases)
    message = (
        f"got x {x.shape}, weights {[w.shape for w in weights]} and biases {[b.shape for b in biases]}; expected (batch, in), and for each "
        "layer (out, in) and (out,), in being the out of the layer before it"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        outputs(x, weights, biases, path)


def test_a_layer_without_a_bias_is_refused(path):
    x, weights, biases, _ = network(5, [4, 6, 7, 3])
    with pytest.raises(ValueError):
        outputs(x, weights, biases[:-1], path)


def test_arrays_that_a_kernel_would_read_or_write_beyond_are_refused():
    x, weights, biases, _ = network(5, [4, 6, 3])
    for spoilt_x, out in (
        (x, np.empty((5, 4), np.float32)),
        (x, np.empty((6, 3), np.float32)),
        (x[:0], np.empty((0, 3), np.float32)),
    ):
        with pytest.raises(ValueError, match="expected rows, and as many outputs"):
            Inference(spoilt_x, weights, biases, 1, out)
    with pytest.raises(ValueError, match="got arrays with gaps"):
        Inference(np.ones((5, 8), np.float32)[:, ::2], weights, biases, 1, np.empty((5, 3), np.float32))
    with pytest.raises(TypeError, match="got arrays of float64 for the kernel inference"):
        Inference(x.astype(np.float64), weights, biases, 1, np.empty((5, 3), np.float32))
    apart, uneven = np.empty((5, 6), np.float32)[:, ::2], np.ndarray((5, 3), np.float32, bytearray(80), strides=(14, 4))
    for gaps in (apart, uneven):
        with pytest.raises(
            ValueError, match="^got arrays with gaps; expected contiguous ones, out at least within its rows$"
        ):
            Inference(x, weights, biases, 1, gaps)
    gradients = [np.empty_like(w) for w in weights], [np.empty_like(b) for b in biases]
    with pytest.raises(ValueError, match="got gradients"):
        Training(
            x, weights, biases, 1, *(np.empty((5, 3), np.float32) for _ in range(2)), gradients[0][:1], gradients[1]
        )


def test_heads_come_side_by_side_in_tinygrad_too():
    x, weights, biases, _ = network(5, [4, 6, 7])
    pieces = [[Tensor(arrays[0]), [Tensor(a) for a in heads(arrays, 3)[1:]]] for arrays in (weights, biases)]
    np.testing.assert_allclose(
        mlp(Tensor(x), *pieces).numpy(), network_reference.forward(x, weights, biases)[-1], atol=1e-6
    )


@pytest.mark.parametrize("batch", [1, 30, 500])
def test_memory_of_a_pass_is_whole_and_begins_on_a_cache_line(batch):
    x, weights, biases, _ = network(batch, [4, 6, 3])
    sizes = Pass.of(x, weights, biases, 1, np.empty((batch, 3), np.float32), 24)
    for _ in range(4):
        memory = sizes.scratch()
        assert memory.ctypes.data % 64 == 0 and memory.dtype == np.float32 and memory.flags.c_contiguous
        assert memory.shape == (sizes.packed_size + MAX_THREADS * sizes.tile_space,)


def test_both_kernels_of_training_are_compiled_at_once(monkeypatch):
    told, compile_kernels = [], kernels.compile_kernels
    monkeypatch.setattr(
        kernels, "compile_kernels", lambda *of: told.append([kernel.name for kernel in of]) or compile_kernels(*of)
    )
    x, weights, biases, gradient = network(5, [4, 6, 3])
    Training(
        x,
        weights,
        biases,
        1,
        *(np.empty_like(gradient) for _ in range(2)),
        [np.empty_like(w) for w in weights],
        [np.empty_like(b) for b in biases],
    )
    assert told[0] == ["forward", "backward"]


@pytest.mark.parametrize("march", ["haswell", "x86-64"])
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="other instruction sets of an x86 machine")
def test_narrower_vectors_match_numpy(march, tmp_path):
    """AVX2 and plain SSE: the same tests in a process whose compiler is told so."""
    script = tmp_path / "clang"
    script.write_text(f'#!/bin/sh\nexec {compiler.clang()} "$@" -march={march}\n')
    script.chmod(0o755)
    environment = os.environ | {"CC": str(script), "PYTHONPATH": os.pathsep.join(sys.path)}
    code = f"import test_dense; [test_dense.check(*shape) for shape in {ODD_SHAPES[:2]}]; print(test_dense.kernels.usable())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "True" and not done.stderr, done.stderr


def test_kernels_build_for_arm():
    """NEON: what clang makes of the kernels for another machine, tinygrad can load."""
    sizes = Pass(batch=100, piece_inputs=(48, 64, 64), piece_outputs=(64, 12, 1), num_hidden=1, out_stride=13, rows=96)
    for kernel in (kernels.WORK, *map(sizes.kernel, ("forward", "inference", "backward"))):
        command = [
            compiler.clang(),
            "-c",
            "-x",
            "c",
            "-O2",
            "-fPIC",
            "-ffreestanding",
            "-fno-math-errno",
            "-nostdlib",
            "-ffixed-x18",
            "--target=arm64-none-unknown-elf",
            "-mcpu=apple-m1",
            "-",
            "-o",
            "-",
        ]
        built = subprocess.run(command, input=kernel.source.encode(), capture_output=True)
        assert built.returncode == 0, built.stderr.decode()
        assert jit_loader(built.stdout)


def test_a_kernel_that_does_not_build_is_refused_with_one_line(capsys):
    broken = kernels.Kernel("broken", "this is not C")
    assert not kernels.compile_kernels(broken) and not kernels.compile_kernels(broken)
    assert capsys.readouterr().err.count("rfx: networks run on plain tinygrad") == 1


def test_the_plain_path_says_so_once(monkeypatch, capsys):
    monkeypatch.setenv("RFX_PLAIN", "yes")
    kernels._refuse.cache_clear()
    assert not kernels.usable() and not kernels.usable()
    assert (
        capsys.readouterr().err
        == "rfx: networks run on plain tinygrad, several times slower on a CPU: RFX_PLAIN is set\n"
    )


@pytest.mark.skipif(not hasattr(ops_cpu, "CPUComputeQueue"), reason="tinygrad 0.13.0 is like that")
def test_a_buffer_freed_by_the_devices_own_worker_does_not_stop_it():
    """Garbage collection may run in any thread.

    In a worker, tinygrad's wait for an idle device would wait for itself.
    """
    code = """
import numpy as np
from rfx.nn import MLP
from tinygrad import Device, Tensor
from tinygrad.device import BufferSpec
policy = MLP(3, 2, [4]); policy(Tensor(np.ones((1, 3), np.float32)))
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
