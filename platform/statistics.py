"""Statistics that several rooms share: running moments, means with intervals, bands over several seeds.

Pure functions and one small class on numpy arrays; nothing here knows where the numbers come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class RunningMoments:
    """Count, mean and sum of squared deviations of vectors seen in batches, over any number of processes.

    Batches and whole accumulators are combined by the pairwise rule of Chan, Golub & LeVeque
    (1979), "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", eq. 2.1:
    with `delta = mean_B - mean_A` and `n = n_A + n_B`,

        mean = mean_A + delta * n_B / n
        M2   = M2_A + M2_B + delta^2 * n_A * n_B / n

    so that merged shards equal the whole up to rounding, whatever their sizes.

    Attributes:
        count: vectors seen.
        mean: float64 [dim]; zeros before the first vector.
        m2: float64 [dim], sum of squared deviations from the mean.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean: Array = np.zeros(dim)
        self.m2: Array = np.zeros(dim)

    @classmethod
    def from_batch(cls, batch: ArrayLike) -> RunningMoments:
        """The moments of one batch, any real dtype [n, dim].

        Raises:
            ValueError: `batch` has not two axes.
        """
        values = np.asarray(batch, dtype=np.float64)
        if values.ndim != 2:
            raise ValueError(f"expected a batch [n, dim], got shape {values.shape}")
        moments = cls(values.shape[1])
        if len(values):
            moments.count = len(values)
            moments.mean = values.mean(axis=0)
            deviations = values - moments.mean
            moments.m2 = np.einsum("nd,nd->d", deviations, deviations)
        return moments

    def update(self, batch: ArrayLike) -> None:
        """Adds a batch, any real dtype [n, dim].

        Raises:
            ValueError: `batch` is not [n, dim] of this accumulator's `dim`.
        """
        self.merge(self.from_batch(batch))

    def merge(self, other: RunningMoments) -> None:
        """Adds everything that `other` has seen; `other` is left as it is.

        Raises:
            ValueError: the two have different `dim`.
        """
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"moments of {self.mean.size} and of {other.mean.size} dimensions cannot be merged")
        if other.count == 0:
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / total)
        self.m2 = self.m2 + other.m2 + delta * delta * (self.count * (other.count / total))
        self.count = total

    @property
    def variance(self) -> Array:
        """Population variance, float64 [dim]; ones before the first vector, so that dividing by it is harmless."""
        return self.m2 / self.count if self.count else np.ones_like(self.m2)

    def copy(self) -> RunningMoments:
        """An independent copy."""
        return self.from_state(self.state())

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything, as arrays: `count` int64 [], `mean` and `m2` float64 [dim]."""
        return {"count": np.asarray(self.count, dtype=np.int64), "mean": self.mean.copy(), "m2": self.m2.copy()}

    @classmethod
    def from_state(cls, state: Mapping[str, ArrayLike]) -> RunningMoments:
        """The accumulator that `state` was taken from."""
        moments = cls(0)
        moments.count = int(np.asarray(state["count"]))
        moments.mean = np.array(state["mean"], dtype=np.float64)
        moments.m2 = np.array(state["m2"], dtype=np.float64)
        return moments


class Interval(NamedTuple):
    """A mean and its confidence interval; `low` and `high` are NaN where one sample or none gives no interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(samples: ArrayLike, level: float = 0.95) -> Interval:
    """The mean of independent samples [n] with Student's two-sided t interval; NaN samples do not count.

    Raises:
        ValueError: `level` is not inside (0, 1).
    """
    values = np.asarray(samples, dtype=np.float64).ravel()
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean, low, high = _student(values[:, None], level)
    return Interval(float(mean[0]), float(low[0]), float(high[0]), len(values))


def interquartile_mean(samples: ArrayLike) -> float:
    """The mean of the middle half of all samples, whatever their axes; NaN of none.

    A quarter of them, rounded down, is left out at either end (Agarwal et al. 2021, arXiv:2108.13264, as `rliable`
    has it: `scipy.stats.trim_mean` with 0.25).
    """
    values = np.sort(np.asarray(samples, dtype=np.float64), axis=None)
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean()) if len(values) else math.nan


def bootstrap_interval(
    strata: Sequence[ArrayLike], level: float = 0.95, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The interquartile mean of all samples with its percentile interval by stratified bootstrap.

    A stratum holds the seeds of one task: each resample draws as many from every stratum as it has, with replacement,
    so that tasks keep their weight (Agarwal et al. 2021, section 4.1). NaN samples do not count; strata without any
    are left out, and a stratum of one sample has no spread to draw from.

    Args:
        strata: samples [n_i] a stratum.
        level: of the interval.
        resamples: how many times to draw.
        seed: of the drawing; the same samples always get the same interval.

    Raises:
        ValueError: `level` is not inside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    known = [values[~np.isnan(values)] for values in (np.asarray(each, np.float64).ravel() for each in strata)]
    known = [values for values in known if len(values)]
    n = sum(map(len, known))
    center = interquartile_mean(np.concatenate(known)) if known else math.nan
    if n == len(known):
        return Interval(center, math.nan, math.nan, n)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([values[rng.integers(len(values), size=(resamples, len(values)))] for values in known], 1)
    drawn.sort(axis=1)
    cut = n // 4
    means = drawn[:, cut : n - cut].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(center, float(low), float(high), n)


class Band(NamedTuple):
    """Mean and pointwise confidence interval of several curves, all float64 [points]; `n` curves."""

    steps: Array
    mean: Array
    low: Array
    high: Array
    n: int


def band(curves: Sequence[tuple[ArrayLike, ArrayLike]], level: float = 0.95) -> Band:
    """The mean of several runs' curves with Student's t interval at every step.

    The curves are interpolated linearly on all their steps inside the range that every one of
    them covers: outside it, curves would drop out of the mean and make it jump. Points whose
    value is NaN are left out; curves without any point do not count.

    Args:
        curves: `(steps [points], values [points])` a run, steps increasing.
        level: of the interval.

    Raises:
        ValueError: `level` is not inside (0, 1).
    """
    known = []
    for steps, values in curves:
        x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
        present = ~(np.isnan(x) | np.isnan(y))
        if present.any():
            known.append((x[present], y[present]))
    if not known:
        empty = np.empty(0)
        return Band(empty, empty, empty, empty, 0)
    first, last = max(x[0] for x, _ in known), min(x[-1] for x, _ in known)
    grid = np.unique(np.concatenate([x for x, _ in known]))
    grid = grid[(grid >= first) & (grid <= last)]
    mean, low, high = _student(np.stack([np.interp(grid, x, y) for x, y in known]), level)
    return Band(grid, mean, low, high, len(known))


def _student(samples: Array, level: float) -> tuple[Array, Array, Array]:
    """Mean and t interval over the first axis of [n, points]."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    mean = samples.mean(axis=0)
    n = len(samples)
    if n < 2:
        unknown = np.full_like(mean, np.nan)
        return mean, unknown, unknown
    from scipy.special import stdtrit

    half = stdtrit(n - 1, (1 + level) / 2) * samples.std(axis=0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half
