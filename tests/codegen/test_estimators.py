"""pass@k is unbiased, stable, and knows how sure it is."""

import math
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadriga.codegen.estimators import estimate, pass_at_k

counts = st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(counts)
def test_equals_the_exact_fraction(numbers):
    n, c, k = numbers
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


def test_is_the_share_of_draws_that_hold_a_correct_sample():
    correct = [True, False, False, True, False]
    draws = list(combinations(correct, 2))
    assert pass_at_k(5, 2, 2) == pytest.approx(sum(map(any, draws)) / len(draws))


@given(counts)
def test_more_draws_or_more_correct_samples_never_lower_it(numbers):
    n, c, k = numbers
    assert k == n or pass_at_k(n, c, k) <= pass_at_k(n, c, k + 1) + 1e-12
    assert c == n or pass_at_k(n, c, k) <= pass_at_k(n, c + 1, k) + 1e-12


def test_stays_exact_where_binomials_overflow():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01, rel=1e-9)


@pytest.mark.parametrize("numbers", [(0, 0, 1), (5, 6, 1), (5, -1, 1), (5, 1, 0), (5, 1, 6)])
def test_impossible_counts_are_refused(numbers):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(*numbers)


def test_the_interval_holds_the_estimate_and_is_the_same_every_time():
    counts = [(10, c) for c in (0, 2, 5, 9, 10, 1, 3)]
    first, second = estimate(counts, 5), estimate(counts, 5)
    assert first == second
    assert 0 <= first.low < first.estimate < first.high <= 1


def test_problems_that_agree_leave_no_doubt_and_one_problem_has_no_interval():
    assert estimate([(4, 4)] * 9, 2)[:3] == (1.0, 1.0, 1.0)
    assert math.isnan(estimate([(4, 2)], 1).low)


def test_no_problem_is_refused():
    with pytest.raises(ValueError, match="no problem"):
        estimate([], 1)
