"""The lidar of all robots at once is that of each."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quadriga.platform.environments.safety_lidar import MAX_DISTANCE, NUM_BINS, lidar

coordinates = st.one_of(st.floats(-4, -1e-3), st.floats(1e-3, 4))


def one_bin_after_the_other(offset, height, rotation):
    """By the definition, for one robot and one thing."""
    values = np.zeros(NUM_BINS)
    ahead, left, _ = np.append(offset, -height) @ rotation.reshape(3, 3)
    closeness = max(0.0, MAX_DISTANCE - np.hypot(ahead, left)) / MAX_DISTANCE
    turn = (np.degrees(np.arctan2(left, ahead)) % 360) / (360 / NUM_BINS)
    number = int(turn) % NUM_BINS
    values[number] = closeness
    values[(number + 1) % NUM_BINS] = (turn - int(turn)) * closeness
    values[number - 1] = (1 - (turn - int(turn))) * closeness
    return values


@settings(max_examples=100, deadline=None)
@given(arrays(float, (3, 4, 2), elements=coordinates), st.floats(0, 6), st.floats(0, 0.5))
def test_each_bin_holds_the_closest_thing_of_its_kind(offsets, yaw, height):
    rotation = np.array([np.cos(yaw), -np.sin(yaw), 0, np.sin(yaw), np.cos(yaw), 0, 0, 0, 1.0])
    kinds = np.array([0, 0, 1, 1])
    seen = lidar(offsets, np.full(3, height), np.tile(rotation, (3, 1)), kinds, 2).reshape(3, 2, NUM_BINS)
    for n in range(3):
        for kind in range(2):
            each = [
                one_bin_after_the_other(offsets[n, thing], height, rotation) for thing in np.flatnonzero(kinds == kind)
            ]
            np.testing.assert_allclose(seen[n, kind], np.max(each, axis=0), atol=1e-9)


def test_thing_straight_ahead_fills_the_first_bin():
    level = np.eye(3).reshape(1, 9)
    (seen,) = lidar(np.array([[[1.5, 0.0]]]), np.array([0.1]), level, np.array([0]), 1)
    assert seen[0] == 0.5
    assert seen[NUM_BINS - 1] == 0.5
    assert np.count_nonzero(seen) == 2


def test_direction_that_rounds_to_a_full_turn_is_seen():
    level = np.eye(3).reshape(1, 9)
    (seen,) = lidar(np.array([[[1.5, -1e-17]]]), np.array([0.0]), level, np.array([0]), 1)
    assert seen[0] == 0.5


def test_thing_out_of_range_is_not_seen():
    level = np.eye(3).reshape(1, 9)
    assert not lidar(np.array([[[3.0, 0.1]]]), np.array([0.0]), level, np.array([0]), 1).any()
