"""pass@k from counts: the unbiased estimator and its uncertainty over problems. Pure functions.

Chen et al. 2021, "Evaluating Large Language Models Trained on Code", eq. 1:

    pass@k = E over problems of [1 - C(n - c, k) / C(n, k)]

with `n` samples of a problem of which `c` are correct. Estimating it as `1 - (1 - c/n)^k` is biased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000


class PassAtK(NamedTuple):
    """An estimate with its 95% bootstrap interval over `problems` problems; NaN limits for one problem."""

    estimate: float
    low: float
    high: float
    problems: int


def pass_at_k(n: int, c: int, k: int) -> float:
    """The probability that at least one of `k` samples is correct, of `n` of which `c` are.

    In integers, so that the one division at the end is the only rounding.

    Raises:
        ValueError: not `0 <= c <= n` and `1 <= k <= n`.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    draws = math.comb(n, k)
    return (draws - math.comb(n - c, k)) / draws


def estimate(counts: Sequence[tuple[int, int]], k: int, *, level: float = 0.95, seed: int = 0) -> PassAtK:
    """The mean of pass@k over problems, with a percentile bootstrap over them.

    Args:
        counts: `(n, c)` of each problem.
        k: at most the smallest `n`.
        level: of the interval.
        seed: of the bootstrap, so that the same counts give the same interval.

    Raises:
        ValueError: no problem, or `k` larger than some `n`.
    """
    if not counts:
        raise ValueError("no problem to estimate pass@k from")
    return bootstrap(np.array([pass_at_k(n, c, k) for n, c in counts]), level=level, seed=seed)


def bootstrap(values: NDArray[np.float64], *, level: float = 0.95, seed: int = 0) -> PassAtK:
    """The mean of `values` [problems] with a percentile bootstrap over them; NaN limits for one value."""
    if len(values) == 1:
        return PassAtK(float(values[0]), float("nan"), float("nan"), 1)
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[random.integers(0, len(values), (RESAMPLES // 10, len(values)))].mean(axis=1)  # in parts: memory
            for _ in range(10)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return PassAtK(float(values.mean()), float(low), float(high), len(values))
