"""The few array operations that observations need, for NumPy, tinygrad and torch.

The result has the library of the input. This module imports torch or tinygrad only when an array of that library is
given or asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from rfx.system.compiler import ensure_compiler
from rfx.system.extras import missing

Array = Any  # numpy.ndarray, tinygrad.Tensor or torch.Tensor
LIBRARIES = ("numpy", "tinygrad", "torch")


def library(array: Array) -> str:
    """Name of the library that array belongs to. Raises TypeError for anything but an array of LIBRARIES."""
    if isinstance(array, np.ndarray):
        return "numpy"
    for base in type(array).__mro__:
        root = base.__module__.partition(".")[0]
        if root in LIBRARIES and base.__name__ == "Tensor":
            return root
    raise TypeError(f"got {type(array).__name__}; expected a numpy array, a tinygrad Tensor or a torch Tensor")


def is_installed(name: str) -> bool:
    """Whether the library called name can be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # something blocks the import
        return False


def import_torch() -> Any:
    """The torch module. Raises ImportError that names the extra when it is not installed."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise missing("this", "torch") from error


def tinygrad_tensor() -> Any:
    """tinygrad's Tensor class. Makes sure that tinygrad finds a C compiler."""
    ensure_compiler()
    return importlib.import_module("tinygrad").Tensor


def to_numpy(array: Array) -> np.ndarray:
    """The array as NumPy, without a copy if the library can share its memory."""
    if isinstance(array, np.ndarray):
        return array
    if library(array) == "torch":
        return array.detach().cpu().numpy()
    return array.numpy()


def from_numpy(array: np.ndarray, name: str, device: Any = None) -> Array:
    """A copy of array in the library called name, on device if one is given.

    Raises ValueError for an unknown library.
    """
    if name == "numpy":
        return array.copy()
    if name == "torch":
        return import_torch().tensor(array, device=device)
    if name == "tinygrad":
        return tinygrad_tensor()(array.copy(), device=device).realize()
    raise ValueError(f"got tensors={name!r}; expected one of {', '.join(LIBRARIES)}")


def like(array: np.ndarray, reference: Array) -> Array:
    """Convert array to the library and device of reference."""
    name = library(reference)
    return array if name == "numpy" else from_numpy(array, name, reference.device)


def clone(array: Array) -> Array:
    """A copy with memory of its own."""
    name = library(array)
    if name == "numpy":
        return array.copy()
    return array.clone() if name == "torch" else array.clone().realize()


def stack(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays of one shape and library, stacked along a new axis."""
    name = library(arrays[0])
    if name == "numpy":
        return np.stack(arrays, axis=axis)
    return (
        import_torch().stack(list(arrays), dim=axis)
        if name == "torch"
        else tinygrad_tensor().stack(*arrays, dim=axis).realize()
    )


def concatenate(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays of one library, joined along an axis."""
    name = library(arrays[0])
    if name == "numpy":
        return np.concatenate(arrays, axis=axis)
    return import_torch().cat(list(arrays), dim=axis) if name == "torch" else tinygrad_tensor().cat(*arrays, dim=axis)


def pad_last(array: Array, width: int) -> Array:
    """A copy of array whose last axis is padded with zeros: (..., D) -> (..., width), D <= width."""
    missing = width - array.shape[-1]
    name = library(array)
    if name == "numpy":
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
    if name == "torch":
        return (
            import_torch().nn.functional.pad(array, (0, missing)).clone(memory_format=import_torch().contiguous_format)
        )
    return array.pad((None,) * (array.ndim - 1) + ((0, missing),)).clone().realize()


def kind(array: Array) -> str:
    """The kind of the elements: 'float', 'integer' or 'other'."""
    name = library(array)
    if name == "numpy":
        return {"f": "float", "i": "integer", "u": "integer"}.get(array.dtype.kind, "other")
    text = str(array.dtype).rpartition(".")[2]
    if "bool" in text or "complex" in text:
        return "other"
    return "float" if "float" in text or text == "half" else "integer"


def as_float32(array: Array) -> Array:
    """array with float32 elements; array itself if its elements are float32 already."""
    name = library(array)
    if name == "numpy":
        return array.astype(np.float32, copy=False)
    return array.float()


def to_device(array: Array, device: Any) -> Array:
    """Move array to device; None leaves it where it is.

    If this machine has no CUDA device, a torch array stays where it is, with a warning. Raises ValueError for a NumPy
    array and any device but 'cpu'.
    """
    if device is None:
        return array
    name = library(array)
    if name == "numpy":
        if str(device) != "cpu":
            raise ValueError(
                f"got device {device!r} for numpy arrays; expected None or 'cpu': pass torch or tinygrad "
                "tensors instead"
            )
        return array
    if name == "torch" and str(device).startswith("cuda") and not import_torch().cuda.is_available():
        warnings.warn(
            f"device {device!r} is not available on this machine; the observation stays on {array.device}", stacklevel=3
        )
        return array
    return array.to(device)
