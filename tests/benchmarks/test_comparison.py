"""What benchmarks say about their measurements."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadriga.platform.statistics import mean_interval

SOURCE = Path(__file__).resolve().parents[2] / "benchmarks" / "comparison.py"
specification = importlib.util.spec_from_file_location("comparison", SOURCE)
comparison = importlib.util.module_from_spec(specification)
specification.loader.exec_module(comparison)

costs = st.lists(st.tuples(st.floats(0.01, 100.0), st.floats(0.01, 100.0)), min_size=1, max_size=9)


def test_ratio_is_the_peers_cost_over_ours():
    ratio = comparison.ratio([1.0, 2.0, 4.0], [6.0, 8.0, 12.0])
    assert ratio.of_medians == 4.0
    assert ratio.paired == (4.0, 3.0, 6.0)


@given(costs)
def test_swapping_the_sides_inverts_the_range_of_the_paired_ratios(rounds):
    ours, peers = zip(*rounds, strict=True)
    there, back = comparison.ratio(ours, peers).paired, comparison.ratio(peers, ours).paired
    assert there.low <= there.median <= there.high
    assert math.isclose(there.low, 1 / back.high) and math.isclose(there.high, 1 / back.low)


def test_unequal_numbers_of_rounds_are_refused():
    with pytest.raises(ValueError, match="2 rounds of ours against 1"):
        comparison.ratio([1.0, 2.0], [3.0])
    with pytest.raises(ValueError, match="no measurements"):
        comparison.ratio([], [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00213, "0.00213"),
        (1.7, "1.70"),
        (23.45, "23.4"),
        (99.96, "100"),
        (1234.4, "1,234"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_are_shown_with_three_digits(value, text):
    assert comparison.short(value) == text


def test_one_measurement_is_shown_without_a_range():
    assert comparison.show_spread(comparison.spread([1.7])) == "1.70"
    assert comparison.show_spread(comparison.spread([1.6, 1.7, 2.0])) == "1.70 (1.60..2.00)"
    assert comparison.show_interval(mean_interval([3.0])) == "3.00"


def test_table_has_a_cell_for_every_header_and_keeps_bars_inside_cells():
    head, alignment, row = comparison.markdown_table(["a", "b"], [["x|y", "1"]]).splitlines()
    assert head.count("|") == alignment.count("|") == 3
    assert row == r"| x\|y | 1 |"


def test_goal_is_reached_at_the_first_step_that_meets_it():
    returns = [math.nan, 100.0, 450.0, 400.0, 500.0]
    assert comparison.first_reached([4, 8, 12, 16, 20], returns, 450.0) == 12
    assert comparison.first_reached([4, 8, 12, 16, 20], returns, 501.0) is None


def test_mean_of_the_end_leaves_out_what_is_not_known():
    assert comparison.last_mean([0.0, 0.0, 4.0, math.nan], 0.5) == 4.0
    assert math.isnan(comparison.last_mean([1.0, math.nan], 0.1))
