"""Where environments went: counted once, kept as text, and added up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadriga.platform.environments.planes import BINS, Plane, Visits
from quadriga.platform.environments.registry import make_vector_env
from quadriga.platform.environments.settings import EnvironmentSettings
from quadriga.platform.errors import UserError

PLANE = Plane(("position", "velocity"), (-1.0, 0.0), (1.0, 4.0))


@given(seed=st.integers(0, 1000), rows=st.integers(0, 50))
def test_every_place_is_counted_once_and_text_keeps_the_counts(seed: int, rows: int) -> None:
    places = np.random.default_rng(seed).normal(0, 3, (rows, 3, 2))
    visits = Visits.count(PLANE, places)
    assert visits.counts.sum() == 3 * rows
    again = Visits.decode((visits + visits).encode())
    assert again.plane == PLANE
    np.testing.assert_array_equal(again.counts, 2 * visits.counts)


def test_a_place_is_counted_where_it_is_and_one_beyond_the_plane_at_its_edge() -> None:
    counts = Visits.count(PLANE, np.array([[-1.0, 0.0], [0.999, 3.999], [0.01, 2.01], [-7.0, 9.0]])).counts
    found = sorted(map(tuple, np.argwhere(counts).tolist()))
    assert found == [(0, 0), (0, BINS - 1), (BINS // 2, BINS // 2), (BINS - 1, BINS - 1)]


@pytest.mark.parametrize("text", ["", "nothing", '[["a","b"],[0,0],[1,1]] xyz', "[] eJwDAAAAAAE="])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="visits: not the counts of a plane"):
        Visits.decode(text)


@pytest.mark.parametrize("id", ["SparseMountainCar-v0", "SparseSafetyPointGoal1-v0", "SafetyPointGoal1-v0"])
def test_an_environment_with_a_plane_stands_in_it(id: str) -> None:
    env = make_vector_env(EnvironmentSettings(id=id), 3)
    env.reset()
    for _ in range(5):
        env.step(np.ones((3, *env.single_action_space.shape), np.float32))
    places = env.in_plane()[:, :2]
    assert places.shape == (3, 2)
    assert (places > env.plane.low).all()
    assert (places < env.plane.high).all()
