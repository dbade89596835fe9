"""Choosing one token: the nucleus is the smallest set that is large enough, and numbers choose by its distribution."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from quadriga.codegen import nucleus

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=200)
GRID = (np.arange(400) + 0.5) / 400


def pick(logits, temperature, top_p, numbers):
    rows = torch.tensor(np.array([logits], np.float32)).expand(len(numbers), -1)
    return nucleus.choose(rows, temperature, top_p, torch.tensor(np.asarray(numbers))).tolist()


def plain(logits, temperature, top_p):
    """The nucleus by sorting everything: token to probability."""
    p = np.exp(np.array(logits, np.float64) / temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    keep = order[: int(np.searchsorted(np.cumsum(p[order]), top_p * (1 - 1e-12)) + 1)]
    return {int(n): p[n] / p[keep].sum() for n in keep}


@given(logits=LOGITS, temperature=st.sampled_from([0.2, 0.8, 1.0, 3.0]), top_p=st.sampled_from([0.3, 0.9, 0.95, 1.0]))
def test_tokens_come_as_often_as_the_nucleus_says(logits, temperature, top_p):
    expected = plain(logits, temperature, top_p)
    found = pick(logits, temperature, top_p, GRID)
    counts = np.bincount(found, minlength=len(logits)) / len(GRID)
    # float32 logits may put a token at the edge on the other side.
    edge = min(expected.values())
    for token, share in enumerate(counts):
        assert abs(share - expected.get(token, 0.0)) <= 2 / len(GRID) + 2 * edge


def test_a_nucleus_wider_than_the_first_candidates_is_exact():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 0.3, 5000).astype(np.float32)
    expected = plain(logits, 1.0, 0.9)
    assert len(expected) > 1000
    found = pick(logits, 1.0, 0.9, rng.random(3000))
    inside = [token in expected for token in found]
    assert np.mean(inside) > 0.999
    assert len(set(found)) > 1500


def test_temperature_zero_takes_the_most_probable():
    assert pick([1.0, 3.0, 2.0], 0, 0.5, [0.0, 0.5, 0.999]) == [1, 1, 1]


def test_the_extremes_of_the_random_numbers_stay_inside():
    below_one = np.nextafter(1.0, 0.0)
    for top_p in (0.5, 0.95, 1.0):
        for token in pick([0.0, 1.0, -30.0, 0.5], 0.2, top_p, [0.0, below_one]):
            assert token in plain([0.0, 1.0, -30.0, 0.5], 0.2, top_p)


def test_log_probabilities_add_up_to_one():
    logits = torch.randn(3, 50)
    total = sum(nucleus.log_probability(logits, torch.full((3,), token)).exp() for token in range(50))
    assert torch.allclose(total, torch.ones(3, dtype=torch.float64), atol=1e-6)


def test_streams_are_the_same_for_a_key_and_others_for_another():
    first = nucleus.uniforms(0, "HumanEval/1", 3, 100)
    assert np.array_equal(first[:50], nucleus.uniforms(0, "HumanEval/1", 3, 50))
    for key in ((1, "HumanEval/1", 3), (0, "HumanEval/2", 3), (0, "HumanEval/1", 4), (0, "HumanEval/13", 0)):
        assert not np.isclose(first, nucleus.uniforms(*key, 100)).any()
