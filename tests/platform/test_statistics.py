"""Running moments, intervals and bands."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quadriga.platform.statistics import (
    RunningMoments,
    band,
    bootstrap_interval,
    interquartile_mean,
    mean_interval,
)

FLOATS = st.floats(-1e6, 1e6, allow_nan=False, width=64)
BATCHES = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40), elements=FLOATS)


def assert_same_moments(found: RunningMoments, batch: np.ndarray) -> None:
    assert found.count == len(batch)
    scale = np.abs(batch).max(axis=0) + 1e-100
    assert np.all(np.abs(found.mean - batch.mean(axis=0)) <= 1e-10 * scale)
    assert np.all(np.abs(found.m2 - batch.var(axis=0) * len(batch)) <= 1e-10 * len(batch) * scale**2)


@given(BATCHES, st.lists(st.integers(0, 40), max_size=5))
def test_merged_shards_equal_the_whole(batch: np.ndarray, cuts: list[int]) -> None:
    merged = RunningMoments(batch.shape[1])
    for shard in np.split(batch, sorted(min(cut, len(batch)) for cut in cuts)):
        merged.merge(RunningMoments.from_batch(shard))
    assert_same_moments(merged, batch)


@given(BATCHES)
def test_updates_one_row_at_a_time_equal_the_whole(batch: np.ndarray) -> None:
    moments = RunningMoments(batch.shape[1])
    for row in batch:
        moments.update(row[None])
    assert_same_moments(moments, batch)


@given(BATCHES, BATCHES)
def test_the_order_of_a_merge_does_not_matter(first: np.ndarray, second: np.ndarray) -> None:
    dim = min(first.shape[1], second.shape[1])
    a, b = RunningMoments.from_batch(first[:, :dim]), RunningMoments.from_batch(second[:, :dim])
    ab, ba = a.copy(), b.copy()
    ab.merge(b)
    ba.merge(a)
    np.testing.assert_allclose(ab.mean, ba.mean, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(ab.m2, ba.m2, rtol=1e-10, atol=1e-3)


def test_a_small_spread_far_from_zero_keeps_its_variance() -> None:
    batch = 1e8 + np.random.default_rng(0).normal(size=(20_000, 3))
    moments = RunningMoments(3)
    for shard in np.array_split(batch, 37):
        moments.update(shard)
    np.testing.assert_allclose(moments.variance, batch.var(axis=0), rtol=1e-8)


def test_float32_batches_are_accumulated_in_float64() -> None:
    batch = np.random.default_rng(1).normal(3, 2, size=(1000, 4)).astype(np.float32)
    moments = RunningMoments(4)
    moments.update(batch)
    assert moments.mean.dtype == np.float64
    np.testing.assert_allclose(moments.variance, batch.astype(np.float64).var(axis=0), rtol=1e-12)


def test_merging_leaves_the_other_as_it_is() -> None:
    a, b = RunningMoments.from_batch([[1.0], [3.0]]), RunningMoments.from_batch([[5.0]])
    before = b.state()
    a.merge(b)
    a.update([[100.0]])
    assert (b.count, b.mean, b.m2) == (before["count"], before["mean"], before["m2"])


def test_nothing_seen_is_zero_mean_and_unit_variance() -> None:
    moments = RunningMoments(2)
    moments.update(np.empty((0, 2)))
    moments.merge(RunningMoments(2))
    assert moments.count == 0
    np.testing.assert_array_equal(moments.mean, np.zeros(2))
    np.testing.assert_array_equal(moments.variance, np.ones(2))


def test_state_round_trip_is_bit_exact() -> None:
    moments = RunningMoments.from_batch(np.random.default_rng(2).normal(size=(7, 3)))
    restored = RunningMoments.from_state(pickle.loads(pickle.dumps(moments.state())))
    assert restored.count == moments.count
    assert restored.mean.tobytes() == moments.mean.tobytes()
    assert restored.m2.tobytes() == moments.m2.tobytes()


def test_a_copy_is_independent() -> None:
    moments = RunningMoments.from_batch([[1.0, 2.0]])
    copy = moments.copy()
    copy.update([[3.0, 4.0]])
    assert moments.count == 1
    np.testing.assert_array_equal(moments.mean, [1.0, 2.0])


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 5)])
def test_a_batch_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dim"):
        RunningMoments(3).update(np.zeros(shape))


def test_interval_of_a_known_sample() -> None:
    # t(0.975, 4 degrees of freedom) = 2.776445; standard error = sqrt(2.5 / 5)
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.high == pytest.approx(3 + 2.7764451 * math.sqrt(0.5), rel=1e-7)
    assert interval.low == pytest.approx(3 - 2.7764451 * math.sqrt(0.5), rel=1e-7)
    assert interval.n == 5


@given(st.lists(FLOATS, min_size=2, max_size=30), st.floats(0.01, 0.98))
def test_a_higher_level_gives_a_wider_interval(samples: list[float], level: float) -> None:
    narrow, wide = mean_interval(samples, level), mean_interval(samples, level + 0.01)
    assert wide.low <= narrow.low <= narrow.mean <= narrow.high <= wide.high


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = [low <= 1.5 <= high for _, low, high, _ in (mean_interval(rng.normal(1.5, 2, 4)) for _ in range(4000))]
    assert 0.94 < np.mean(covered) < 0.96


def test_one_sample_has_no_interval_and_no_sample_no_mean() -> None:
    one, none = mean_interval([7.0]), mean_interval([math.nan])
    assert (one.mean, one.n) == (7.0, 1)
    assert math.isnan(one.low) and math.isnan(one.high)
    assert none.n == 0 and math.isnan(none.mean)


def test_samples_that_are_nan_do_not_count() -> None:
    assert mean_interval([1, math.nan, 3]) == mean_interval([1, 3])


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_zero_and_one_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval([1, 2], level)


def test_band_interpolates_curves_on_their_common_steps() -> None:
    found = band([([0, 100, 200], [0, 10, 20]), ([50, 150, 250], [15, 25, 35])])
    np.testing.assert_array_equal(found.steps, [50, 100, 150, 200])
    np.testing.assert_allclose(found.mean, [10, 15, 20, 25])
    assert found.n == 2
    interval = mean_interval([5, 15])
    np.testing.assert_allclose([found.low[0], found.high[0]], [interval.low, interval.high])


def test_band_of_one_curve_is_the_curve_without_an_interval() -> None:
    found = band([([1, 2, 3], [5.0, math.nan, 7.0])])
    np.testing.assert_array_equal(found.steps, [1, 3])
    np.testing.assert_array_equal(found.mean, [5, 7])
    assert np.isnan(found.low).all() and np.isnan(found.high).all()


def test_band_leaves_out_curves_without_points() -> None:
    assert band([([], []), ([1, 2], [math.nan, math.nan])]).n == 0
    assert band([([1, 2], [3, 4]), ([], [])]).n == 1


def test_band_of_curves_that_share_no_step_is_empty() -> None:
    found = band([([0, 1], [0, 1]), ([5, 6], [0, 1])])
    assert found.n == 2 and len(found.steps) == 0


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6)))
def test_interquartile_mean_is_the_mean_without_a_quarter_at_either_end(samples: np.ndarray) -> None:
    expected = scipy.stats.trim_mean(samples, 0.25, axis=None)
    assert interquartile_mean(samples) == pytest.approx(expected, rel=1e-12, abs=1e-9)


def test_interquartile_mean_ignores_outliers_and_shape() -> None:
    assert interquartile_mean([[1e9, 2.0], [4.0, -1e9]]) == 3
    assert math.isnan(interquartile_mean([]))


def test_bootstrap_draws_within_each_stratum() -> None:
    # Every resample of these strata is the same: only mixing them could spread the interval.
    assert bootstrap_interval([[1.0, 1.0, 1.0], [5.0, 5.0, 5.0]])[:3] == (3, 3, 3)


def test_bootstrap_equals_a_plain_loop_over_resamples() -> None:
    rng = np.random.default_rng(3)
    strata = [rng.normal(k, 1 + k, size) for k, size in enumerate((3, 5, 4))]
    found = bootstrap_interval(strata, resamples=20_000, seed=1)
    means = [
        scipy.stats.trim_mean(np.concatenate([rng.choice(each, len(each)) for each in strata]), 0.25)
        for _ in range(3_000)
    ]
    assert found.mean == pytest.approx(scipy.stats.trim_mean(np.concatenate(strata), 0.25))
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.12)
    assert found.n == 12


def test_bootstrap_of_single_seeds_has_no_interval_and_nan_does_not_count() -> None:
    single = bootstrap_interval([[1.0], [3.0], [math.nan]])
    assert (single.mean, single.n) == (2, 2)
    assert math.isnan(single.low) and math.isnan(single.high)
    assert bootstrap_interval([[1.0, math.nan, 2.0]]).n == 2
    assert math.isnan(bootstrap_interval([]).mean)
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval([[1.0, 2.0]], 95)
