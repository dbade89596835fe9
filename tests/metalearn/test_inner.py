import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadriga.metalearn.inner import SGD, Adam, minibatches


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 8), st.integers(0, 99))
def test_cycling_uses_every_example_once_a_pass(count, batch, steps, seed):
    plan = minibatches(np.random.default_rng(seed), count, batch, steps, replacement=False)
    assert plan.shape == (steps, batch)
    walked = plan.ravel()
    for first in range(0, len(walked) - count + 1, count):
        assert sorted(walked[first : first + count]) == list(range(count))


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 99), st.data())
def test_replacement_repeats_no_example_inside_a_batch(count, steps, seed, data):
    batch = data.draw(st.integers(1, count))
    plan = minibatches(np.random.default_rng(seed), count, batch, steps, replacement=True)
    assert plan.shape == (steps, batch)
    assert all(len(set(row)) == batch for row in plan.tolist())


def test_replacement_needs_as_many_examples_as_a_batch_has():
    with pytest.raises(ValueError, match="batch of 6"):
        minibatches(np.random.default_rng(0), 5, 6, 1, replacement=True)


def test_adam_s_first_step_is_the_gradient_s_sign():
    weights = np.zeros(3, np.float32)
    Adam(3, 0.01).step(weights, np.array([2.0, -1e-3, 0.0], np.float32))
    np.testing.assert_allclose(weights, [-0.01, 0.01, 0.0], rtol=1e-2)


def test_adam_goes_on_from_its_state():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(6, 5)).astype(np.float32)
    whole, first, second = (Adam(5, 0.01) for _ in range(3))
    weights = np.zeros((2, 5), np.float32)
    for gradient in gradients:
        whole.step(weights[0], gradient)
    for gradient in gradients[:3]:
        first.step(weights[1], gradient)
    state = first.state()
    second.load(state)
    first.step(np.zeros(5, np.float32), gradients[0])
    for gradient in gradients[3:]:
        second.step(weights[1], gradient)
    np.testing.assert_array_equal(weights[0], weights[1])


def test_sgd_has_no_state():
    weights = np.ones(2, np.float32)
    SGD(0.5).step(weights, np.array([1.0, 2.0], np.float32))
    np.testing.assert_array_equal(weights, [0.5, 0.0])
    assert SGD(0.5).state() == {}
