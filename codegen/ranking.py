"""Choosing one of n samples without knowing the answers, and how often the chosen one is right. Pure functions.

Chen et al. 2021, section 3.3 and figure 7. With samples ordered by a score, the sample with the
highest of a random subset of k is sample i (of `b` better ones and `e` equal ones, itself among them) with probability

    [C(n - b, k) - C(n - b - e, k)] / C(n, k) / e

so the curve over k is exact: nothing is drawn. The paper's rankings are here as scores; agreement
of outputs depends on which samples are in the subset, so its subsets are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadriga.codegen.estimators import PassAtK, bootstrap, pass_at_k

Array = NDArray[np.float64]
SUBSETS = 200
RANKINGS = {
    "random": "any of them",
    "mean-logprob": "highest mean log-probability of a token",
    "sum-logprob": "highest log-probability of the whole sample",
    "back-translation": "under which a docstring model finds the problem's docstring most probable",
    "agreement": "whose outputs on generated inputs most others share",
    "oracle": "a right one if there is one",
}


@dataclass(frozen=True)
class Candidates:
    """The samples of one problem.

    Attributes:
        correct: bool [n], whether each passes the tests.
        scores: float [n] by ranking.
        agreement: float [n, n], the share of inputs on which two samples have the same output; `None` if not known.
    """

    correct: NDArray[np.bool_]
    scores: dict[str, Array]
    agreement: Array | None = None


def chosen_is_right(correct: NDArray[np.bool_], scores: Array, k: int) -> float:
    """The probability that the best-scored of `k` random samples is correct; equal scores are drawn among.

    Args:
        correct: bool [n].
        scores: float [n], higher is better.
        k: at most n.
    """
    n = len(correct)
    total, better, result = math.comb(n, k), 0, 0.0
    for value in sorted(set(scores.tolist()), reverse=True):
        equal = scores == value
        count = int(equal.sum())
        ways = math.comb(n - better, k) - math.comb(n - better - count, k)
        result += ways / total * float(correct[equal].mean())
        better += count
    return result


def agreement_matrix(outputs: Sequence[Sequence[str] | None]) -> Array:
    """The share of inputs on which two samples have the same output: float [n, n], 0 on the diagonal.

    Args:
        outputs: of each sample, one text an input; `None` for a sample that gave none, which agrees with nobody.
    """
    matrix = np.zeros((len(outputs), len(outputs)))
    for i, first in enumerate(outputs):
        for j, second in enumerate(outputs[:i]):
            if first and second:
                matrix[i, j] = matrix[j, i] = np.mean([a == b for a, b in zip(first, second, strict=True)])
    return matrix


def most_agreed_is_right(candidates: Candidates, k: int, seed: int) -> float:
    """As `chosen_is_right` for agreement within the subset; ties go to the mean log-probability."""
    matrix = candidates.agreement
    assert matrix is not None
    n = len(candidates.correct)
    tie = candidates.scores.get("mean-logprob", np.zeros(n))
    if k == n:
        subsets = [np.arange(n)]
    else:
        random = np.random.default_rng((seed, n, k))
        subsets = [random.choice(n, k, replace=False) for _ in range(SUBSETS)]
    right = 0.0
    for subset in subsets:
        shared = matrix[np.ix_(subset, subset)].sum(1).round(9)
        best = subset[shared == shared.max()]
        right += chosen_is_right(candidates.correct[best], tie[best], len(best))
    return right / len(subsets)


def value(ranking: str, candidates: Candidates, k: int, seed: int = 0) -> float:
    """How often the sample that `ranking` chooses of `k` is right."""
    n, c = len(candidates.correct), int(candidates.correct.sum())
    if ranking == "random":
        return c / n
    if ranking == "oracle":
        return pass_at_k(n, c, k)
    if ranking == "agreement":
        return most_agreed_is_right(candidates, k, seed)
    return chosen_is_right(candidates.correct, candidates.scores[ranking], k)


def curve(ranking: str, problems: Sequence[Candidates], ks: Sequence[int], seed: int = 0) -> dict[int, float]:
    """The mean of `value` over problems, by k."""
    return {k: float(np.mean([value(ranking, each, k, seed) for each in problems])) for k in ks}


def gain(ranking: str, problems: Sequence[Candidates], k: int, seed: int = 0) -> PassAtK:
    """How much more often it is right than a random choice, with a 95% bootstrap interval over problems, paired."""
    differences = [value(ranking, each, k, seed) - value("random", each, k) for each in problems]
    return bootstrap(np.array(differences))
