"""Running normalization of observations. Training measures the statistics; the robot uses them unchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx.observation import arrays
from rfx.observation.arrays import Array
from rfx.settings.terms import nearest

if TYPE_CHECKING:
    from rfx.robot.mirror import Mirror

# The statistics clip each value to EXTREME standard deviations from the mean. A constant column counts as having the
# standard deviation CONSTANT_STD. The reason: a simulation that is about to break gives rows of 1e8, and one such row
# would leave its column near zero for millions of rows. When a constant column begins to vary, each batch widens its
# limits up to EXTREME-fold. Fewer than ENOUGH_ROWS rows do not tell what is extreme, so they are not clipped.
EXTREME, CONSTANT_STD, ENOUGH_ROWS = 100.0, 0.01, 100
# Relative to the mean: 8 float32 steps or more. A smaller standard deviation is rounding.
RESOLUTION = 1e-6
SMALLEST_MEAN = 1e-6  # a smaller mean counts as this much when it is multiplied by the resolution


class ObservationNormalizer:
    """Normalizes the first state_dim entries of the state to zero mean and unit variance, clipped to +-clip.

    The mean and variance are running statistics. mean and var are float64, (state_dim,); count is the number of rows
    seen. Before the first update, normalizing only clips.

    The smaller of eps and the variance is added to the variance, so that small observations are scaled too. A column is
    constant if its variance is at most eps and its standard deviation is at most resolution times its mean. A constant
    column is centred but not scaled. Folders of an earlier rfx have an infinite resolution: then a variance of at most
    eps is enough. Raises ValueError for a state_dim, clip or eps that is not positive and finite, or a resolution that
    is not positive.
    """

    def __init__(self, state_dim: int, clip: float = 10.0, eps: float = 1e-8, resolution: float = RESOLUTION):
        if isinstance(state_dim, bool) or not isinstance(state_dim, (int, np.integer)) or state_dim < 1:
            raise ValueError(f"got state_dim {state_dim!r}; expected a positive integer")
        for name, value in (("clip", clip), ("eps", eps)):
            if not _is_number(value) or not 0.0 < value < math.inf:
                raise ValueError(f"got {name} {value!r}; expected a positive finite number")
        if not _is_number(resolution) or not resolution > 0.0:
            raise ValueError(f"got resolution {resolution!r}; expected a positive number")
        self.state_dim, self.clip, self.eps = int(state_dim), float(clip), float(eps)
        self.resolution = float(resolution)
        self.count = 0
        self._set(np.zeros(self.state_dim), np.ones(self.state_dim))

    def _set(self, mean: np.ndarray, var: np.ndarray) -> None:
        self.mean, self.var = mean, var
        self._mean32 = mean.astype(np.float32)
        constant = self._constant(mean, var)
        spread = np.where(constant, 1.0, var + np.minimum(var, self.eps))
        self._scale32 = (1.0 / np.sqrt(spread)).astype(np.float32)

    def _constant(self, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
        """Which columns of these statistics were constant, apart from rounding."""
        return var <= np.minimum(self.eps, np.square(self.resolution * np.maximum(np.abs(mean), SMALLEST_MEAN)))

    def update(self, obs: Array | Mapping[str, Array]) -> None:
        """Add rows to the statistics: (B, state_dim) or wider, or an observation dictionary. B may be 1.

        Extreme values are clipped to EXTREME standard deviations from the mean. Raises ValueError for another shape or
        a row that is not finite; the statistics then stay as they were.
        Source: Chan, Golub, LeVeque 1979, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances,
        equation 2.1.
        """
        rows = arrays.to_numpy(self._state(obs))[:, : self.state_dim].astype(np.float64)
        num_rows = len(rows)
        if num_rows == 0:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(rows).all() and self.count + num_rows >= ENOUGH_ROWS:
                np.clip(rows, *self._limits(rows), out=rows)
            batch_mean = rows.mean(axis=0)
            rows -= batch_mean
            batch_var = np.einsum("ij,ij->j", rows, rows) / num_rows
        if not (np.isfinite(batch_mean).all() and np.isfinite(batch_var).all()):
            columns = np.flatnonzero(~(np.isfinite(batch_mean) & np.isfinite(batch_var))).tolist()
            raise ValueError(
                f"got values in columns {columns} that are not finite, or too large; expected finite observations"
            )
        delta = batch_mean - self.mean
        total = self.count + num_rows
        squares = self.var * self.count + batch_var * num_rows + np.square(delta) * (self.count * num_rows / total)
        self._set(self.mean + delta * (num_rows / total), squares / total)
        self.count = total

    @property
    def mean_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean that `normalize` subtracts, and the factor that it multiplies by before it clips.

        Two arrays (state_dim,), float32.
        """
        return self._mean32.copy(), self._scale32.copy()

    def symmetrize(self, mirror: Mirror) -> None:
        """Make the statistics symmetric, so that normalizing and mirroring commute.

        The new statistics are those of the rows seen and of their mirror images together.
        """
        mean, image = self.mean, mirror.observation(self.mean)
        self._set(0.5 * (mean + image), 0.5 * (self.var + mirror.permuted(self.var)) + 0.25 * np.square(mean - image))

    def _limits(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value of each column that enters the statistics without clipping.

        With fewer than ENOUGH_ROWS rows seen before, the limits come from rows (B, state_dim) itself: the center is the
        median, and the spread is the distance from the median that one value in a hundred exceeds.
        """
        if self.count >= ENOUGH_ROWS:
            center, spread = self.mean, np.sqrt(self.var)
        else:
            center = np.median(rows, axis=0)
            spread = np.quantile(np.abs(rows - center), 0.99, axis=0)
        reach = EXTREME * np.where(self._constant(center, np.square(spread)), CONSTANT_STD, spread)
        return center - reach, center + reach

    def normalize(self, obs: Array | Mapping[str, Array], out: np.ndarray | None = None) -> Any:
        """Normalize an observation. The result has the array library of obs.

        obs is a state (B, D) with D >= state_dim, or an observation dictionary. The first state_dim columns are
        normalized; the padding after them is kept. In a dictionary, images are scaled to [0, 1] too: integers are
        divided by 255, and floating-point images must already lie in [0, 1]. Language and all other entries stay as
        they are. The result is a new array, or out (NumPy only; out may be obs itself).
        Raises ValueError for another shape, TypeError for a value that is not an array.
        """
        if isinstance(obs, Mapping):
            result = dict(obs)
            result["state"] = self.normalize(self._state(obs), out=out)
            if "images" in obs:
                result["images"] = _unit_images(obs["images"])
            return result
        state = self._state(obs)
        if not isinstance(state, np.ndarray):
            mean, scale = arrays.like(self._mean32, state), arrays.like(self._scale32, state)
            head = ((state[:, : self.state_dim] - mean) * scale).clip(-self.clip, self.clip)
            return (
                head
                if state.shape[1] == self.state_dim
                else arrays.concatenate((head, state[:, self.state_dim :]), axis=1)
            )
        if out is None:
            out = np.empty(state.shape, np.float32)
        elif out.shape != state.shape:
            raise ValueError(f"got out of shape {out.shape}; expected {state.shape}, as the observation")
        head = np.subtract(state[:, : self.state_dim], self._mean32, out=out[:, : self.state_dim], casting="same_kind")
        head *= self._scale32
        np.maximum(head, -self.clip, out=head)  # np.clip takes as long as all the rest for one row
        np.minimum(head, self.clip, out=head)
        if out is not state and state.shape[1] > self.state_dim:
            out[:, self.state_dim :] = state[:, self.state_dim :]
        return out

    def to_dict(self) -> dict[str, Any]:
        """The statistics as JSON types: state_dim, clip, eps, resolution if finite, mean, var, count."""
        resolution = {"resolution": self.resolution} if math.isfinite(self.resolution) else {}
        return {
            "state_dim": self.state_dim,
            "clip": self.clip,
            "eps": self.eps,
            **resolution,
            "mean": self.mean.tolist(),
            "var": self.var.tolist(),
            "count": self.count,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ObservationNormalizer:
        """Make the normalizer that to_dict described; data is not changed. Raises ValueError naming a wrong entry."""
        expected = ("state_dim", "clip", "eps", "mean", "var", "count")
        if not isinstance(data, Mapping):
            raise ValueError(
                f"got {type(data).__name__} for a normalizer; expected a mapping with {', '.join(expected)}"
            )
        for key in data:
            if key not in (*expected, "resolution"):
                raise ValueError(f"a normalizer has no entry {key!r}: {nearest(str(key), expected)}")
        if missing := [key for key in expected if key not in data]:
            raise ValueError(f"a normalizer needs {', '.join(missing)}")
        for key in ("mean", "var"):
            values = data[key]
            if not isinstance(values, list) or not all(_is_number(value) and math.isfinite(value) for value in values):
                raise ValueError(f"got {key} that is not a list of finite numbers in a normalizer")
            if len(values) != data["state_dim"]:
                raise ValueError(
                    f"got {len(values)} entries of {key} in a normalizer; expected state_dim, {data['state_dim']!r}"
                )
        if min(data["var"], default=0.0) < 0.0:
            raise ValueError(f"got a variance of {min(data['var'])} in a normalizer; expected none below zero")
        count = data["count"]
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**63:
            raise ValueError(f"got count {count!r} in a normalizer; expected an integer from 0 to 2**63")
        normalizer = cls(data["state_dim"], data["clip"], data["eps"], data.get("resolution", math.inf))
        normalizer._set(np.array(data["mean"], np.float64), np.array(data["var"], np.float64))
        normalizer.count = count
        return normalizer

    def _state(self, obs: Array | Mapping[str, Array]) -> Array:
        if isinstance(obs, Mapping):
            if "state" not in obs:
                raise ValueError(
                    f"got an observation with {', '.join(map(repr, obs)) or 'nothing'}; expected an entry 'state'"
                )
            obs = obs["state"]
        arrays.library(obs)
        if obs.ndim != 2 or obs.shape[1] < self.state_dim:
            raise ValueError(f"got a state of shape {tuple(obs.shape)}; expected (batch, {self.state_dim} or wider)")
        return obs


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _unit_images(images: Array) -> Array:
    """Images scaled to [0, 1], float32. Raises ValueError for floating-point images outside [0, 1]."""
    if arrays.kind(images) == "integer":
        return arrays.as_float32(images) / 255.0
    images = arrays.as_float32(images)
    low, high = float(images.min()), float(images.max())
    if not (0.0 <= low and high <= 1.0):
        raise ValueError(
            f"got floating-point images from {low:g} to {high:g}; expected [0, 1], or integers from 0 to 255"
        )
    return images
