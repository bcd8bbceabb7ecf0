"""Random numbers that belong to rows: what one row draws depends on its seed and on its own draws alone, whoever else
draws beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rfx.robot.state import Array

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd
AHEAD, FEW_ROWS = (
    64,
    128,
)  # numbers of a row that are hashed at once, for up to so many rows: a call takes longer than they do
MANY_BITS = 24  # changes between neighbouring bits that an increment has at least


class Streams:
    """A random stream for each of num rows, with the draws of np.random.Generator; the first axis of every size is the
    rows.

    Row i of seed s is row 0 of seed s + i, as environments are seeded in Gymnasium's vector environments: rows can be
    split in any way.
    Purposes (whole numbers) have streams of their own. Without a seed, every Streams is another.
    Counter-based: the k-th number of a row is a hash of key + k * increment, both its own. Steele, Lea, Flood 2014,
    "Fast Splittable Pseudorandom Number Generators", figures 16 and 17, with the hash that Vigna's splitmix64 takes
    (Stafford's variant 13).
    """

    def __init__(self, num: int, seed: int | None = None, purpose: int = 0):
        self._key, self._increment, self._count = np.zeros((3, num), np.uint64)
        self._rows: slice | Array = slice(None)
        self._ahead: Array | None = (
            None  # of a view: numbers (rows, num) that are hashed, of which so many are drawn, from these counts on
        )
        self._used, self._begun = 0, self._count
        self.purpose = purpose
        self.seed(int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) if seed is None else seed)

    def seed(self, seed: int) -> None:
        """Begin anew, row i as seed + i says."""
        seeds = np.uint64(seed % 2**64) + np.arange(len(self._key), dtype=np.uint64)
        self._key[...] = _mixed(_mixed(seeds + GOLDEN) + np.uint64((2 * self.purpose + 1) * int(GOLDEN) % 2**64))
        self._increment[...] = _mixed(self._key + GOLDEN) | np.uint64(1)
        regular = np.bitwise_count(self._increment ^ (self._increment >> np.uint64(1))) < MANY_BITS
        self._increment[regular] ^= np.uint64(0xAAAAAAAAAAAAAAAA)
        self._count[...] = 0

    def of(self, rows: slice | Array) -> Streams:
        """The streams of these rows, to draw from: a slice, or indices (n,) without repetition, of all rows.

        They hash ahead, so make them anew after seed and where the arrays are loaded.
        """
        some = object.__new__(Streams)
        some.__dict__.update(self.__dict__, _rows=rows, _ahead=np.empty((0, 0), np.uint64), _used=0, _begun=0)
        return some

    def arrays(self) -> dict[str, Array]:
        """Live arrays by name, a row each: all that the next draw depends on."""
        return {"key": self._key, "increment": self._increment, "count": self._count}

    def state_dict(self) -> dict[str, Array]:
        """The arrays as copies."""
        return {name: array.copy() for name, array in self.arrays().items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Go on from what state_dict returned."""
        for name, array in self.arrays().items():
            array[...] = state[name]

    def random(self, size: int | tuple[int, ...], dtype: Any = np.float64) -> Array:
        """Uniform in [0, 1), in steps of 2^-53, or of 2^-24 as float32."""
        if np.dtype(dtype) == np.float32:
            return self._words(size) * np.float32(2.0**-24)
        return (self._bits(size, 1) >> np.uint64(11)).reshape(size) * 2.0**-53

    def uniform(self, low: Any, high: Any, size: int | tuple[int, ...]) -> Array:
        """Uniform in [low, high), which may be arrays."""
        return low + np.subtract(high, low) * self.random(size)

    def integers(self, high: int, size: int | tuple[int, ...]) -> Array:
        """Whole numbers from 0 to below high, int64."""
        return (self.random(size) * high).astype(np.int64)

    def standard_normal(self, size: int | tuple[int, ...]) -> Array:
        """Normal with mean 0 and standard deviation 1, float32: Box and Muller 1958, two from each 64 bits.

        The largest is 6.7.
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
        """Standard Gumbel, float64: what makes the largest of noisy log-probabilities a draw by them."""
        return -np.log(
            np.maximum(-np.log1p(-self.random(size)), 2.0**-54)
        )  # of an exponential one; 0 would be the largest of all

    def _words(self, size: int | tuple[int, ...]) -> Array:
        """24 random bits each, as float32: whole numbers."""
        halves = self._bits(size, 2).view(np.uint32)
        return _cut((halves >> np.uint32(8)).astype(np.float32), size)

    def _bits(self, size: int | tuple[int, ...], share: int) -> Array:
        """64 random bits for every share numbers of a row. (rows, numbers / share, rounded up), uint64, to read alone.

        Raises ValueError for a size that is not a row for each stream.
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
        """The num numbers after count (n,) of each row."""
        bits = count[:, None] + np.arange(1, num + 1, dtype=np.uint64)
        bits *= self._increment[self._rows][:, None]
        bits += self._key[self._rows][:, None]
        return _mixed(bits)


def _mixed(bits: Array) -> Array:
    """Each of bits, hashed in place: every bit of the result depends on all bits before."""
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
    """The first columns of rows that fill the size. An array without gaps."""
    shape = size if isinstance(size, tuple) else (int(size),)
    return np.ascontiguousarray(rows[:, : math.prod(shape[1:])]).reshape(shape)
