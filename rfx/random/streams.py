"""Random numbers for each row: a row's numbers depend only on its seed and its own draws, not on other rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rfx.robot.state import Array

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd
# With at most FEW_ROWS rows, AHEAD numbers of each row are hashed at once: a call costs more than the hashing.
AHEAD, FEW_ROWS = 64, 128
MANY_BITS = 24  # minimum number of changes between neighbouring bits of an increment


class Streams:
    """One random stream for each of num rows, with methods like np.random.Generator's.

    The first axis of every size is the rows. Row i of seed s equals row 0 of seed s + i, as in Gymnasium's vector
    environments, so rows can be split over several Streams in any way. Each purpose (a whole number) has its own
    streams. Without a seed, every Streams is different.

    The generator is counter-based: the k-th number of a row is a hash of key + k * increment, and each row has its own
    key and increment. Source: Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators", figures 16 and
    17, with the hash of Vigna's splitmix64 (Stafford's variant 13).
    """

    def __init__(self, num: int, seed: int | None = None, purpose: int = 0):
        self._key, self._increment, self._count = np.zeros((3, num), np.uint64)
        self._rows: slice | Array = slice(None)
        # Only a view (`of`) hashes ahead. _ahead holds the hashed numbers (rows, num), which begin after the counts
        # _begun; _used of them are drawn already.
        self._ahead: Array | None = None
        self._used, self._begun = 0, self._count
        self.purpose = purpose
        self.seed(int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) if seed is None else seed)

    def seed(self, seed: int) -> None:
        """Restart all streams. Row i takes seed + i."""
        seeds = np.uint64(seed % 2**64) + np.arange(len(self._key), dtype=np.uint64)
        self._key[...] = _mixed(_mixed(seeds + GOLDEN) + np.uint64((2 * self.purpose + 1) * int(GOLDEN) % 2**64))
        self._increment[...] = _mixed(self._key + GOLDEN) | np.uint64(1)
        regular = np.bitwise_count(self._increment ^ (self._increment >> np.uint64(1))) < MANY_BITS
        self._increment[regular] ^= np.uint64(0xAAAAAAAAAAAAAAAA)
        self._count[...] = 0

    def of(self, rows: slice | Array) -> Streams:
        """A view of the streams of some rows, to draw from. rows: a slice, or indices (n,) without repetition.

        A view hashes ahead, so make a new view after `seed` and after the arrays are loaded.
        """
        some = object.__new__(Streams)
        some.__dict__.update(self.__dict__, _rows=rows, _ahead=np.empty((0, 0), np.uint64), _used=0, _begun=0)
        return some

    def arrays(self) -> dict[str, Array]:
        """The live arrays by name, with one entry per row. The next draw depends on nothing else."""
        return {"key": self._key, "increment": self._increment, "count": self._count}

    def state_dict(self) -> dict[str, Array]:
        """Copies of the arrays."""
        return {name: array.copy() for name, array in self.arrays().items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Restore what state_dict returned."""
        for name, array in self.arrays().items():
            array[...] = state[name]

    def random(self, size: int | tuple[int, ...], dtype: Any = np.float64) -> Array:
        """Uniform in [0, 1), in steps of 2^-53, or of 2^-24 as float32."""
        if np.dtype(dtype) == np.float32:
            return self._words(size) * np.float32(2.0**-24)
        return (self._bits(size, 1) >> np.uint64(11)).reshape(size) * 2.0**-53

    def uniform(self, low: Any, high: Any, size: int | tuple[int, ...]) -> Array:
        """Uniform in [low, high); low and high may be arrays."""
        return low + np.subtract(high, low) * self.random(size)

    def integers(self, high: int, size: int | tuple[int, ...]) -> Array:
        """Whole numbers from 0 to high - 1, int64."""
        return (self.random(size) * high).astype(np.int64)

    def standard_normal(self, size: int | tuple[int, ...]) -> Array:
        """Normal with mean 0 and standard deviation 1, float32: Box and Muller 1958, two numbers from each 64 bits.

        The largest possible number is 6.7.
        """
        pairs = self._bits(size, 2)
        out = np.empty((*pairs.shape, 2), np.float32)
        radius = (pairs >> np.uint64(32)).astype(np.float32)
        radius += np.float32(1.0)
        radius *= np.float32(2.0**-32)
        np.log(radius, out=radius)
        radius *= np.float32(-2.0)
        np.sqrt(radius, out=radius)
        angle = (pairs & np.uint64(0xFFFFFFFF)).astype(np.float32)
        angle *= np.float32(2.0 * math.pi * 2.0**-32)
        np.multiply(radius, np.cos(angle), out=out[:, :, 0])
        np.multiply(radius, np.sin(angle), out=out[:, :, 1])
        return _cut(out.reshape(len(out), -1), size)

    def gumbel(self, size: int | tuple[int, ...]) -> Array:
        """Standard Gumbel, float64.

        The index of the largest of log-probabilities plus Gumbel noise is a draw with these probabilities.
        """
        # -log of an exponential number is a Gumbel number. An exponential 0 would give infinity; it counts as 2^-54
        return -np.log(np.maximum(-np.log1p(-self.random(size)), 2.0**-54))

    def _words(self, size: int | tuple[int, ...]) -> Array:
        """Whole numbers of 24 random bits each, as float32."""
        halves = self._bits(size, 2).view(np.uint32)
        return _cut((halves >> np.uint32(8)).astype(np.float32), size)

    def _bits(self, size: int | tuple[int, ...], share: int) -> Array:
        """64 random bits for every share numbers of a row: (rows, numbers / share, rounded up), uint64, read-only.

        Callers must not write to the result. Raises ValueError unless size has one row for each stream.
        """
        shape = size if isinstance(size, tuple) else (int(size),)
        count = self._count[self._rows]
        if shape[0] != len(count):
            raise ValueError(f"got a draw of shape {shape}; expected {len(count)} rows, one for each stream")
        width = -(-math.prod(shape[1:]) // share)
        if self._ahead is None:
            bits = self._hashed(count, width)
        else:
            if self._used + width > self._ahead.shape[1] or (count != self._begun + np.uint64(self._used)).any():
                num = max(width, AHEAD) if len(count) <= FEW_ROWS else width
                self._ahead, self._begun, self._used = self._hashed(count, num), count.copy(), 0
            bits = self._ahead[:, self._used : self._used + width]
            self._used += width
        self._count[self._rows] = count + np.uint64(width)
        return bits

    def _hashed(self, count: Array, num: int) -> Array:
        """The num numbers after the first count (n,) numbers of each row."""
        bits = count[:, None] + np.arange(1, num + 1, dtype=np.uint64)
        bits *= self._increment[self._rows][:, None]
        bits += self._key[self._rows][:, None]
        return _mixed(bits)


def _mixed(bits: Array) -> Array:
    """Hash each number of bits in place. Every bit of the result depends on all bits of the input."""
    shifted = bits >> np.uint64(30)
    bits ^= shifted
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(bits, np.uint64(27), out=shifted)
    bits ^= shifted
    bits *= np.uint64(0x94D049BB133111EB)
    np.right_shift(bits, np.uint64(31), out=shifted)
    bits ^= shifted
    return bits


def _cut(rows: Array, size: int | tuple[int, ...]) -> Array:
    """The first columns of rows, as many as size needs, in a contiguous array of shape size."""
    shape = size if isinstance(size, tuple) else (int(size),)
    return np.ascontiguousarray(rows[:, : math.prod(shape[1:])]).reshape(shape)
