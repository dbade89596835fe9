from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quadriga.platform.rollouts.advantages import generalized_advantages


def by_definition(
    rewards: np.ndarray, values: np.ndarray, next_values: np.ndarray, dones: np.ndarray, gamma: float, lam: float
) -> np.ndarray:
    """`A_t = sum_l (gamma lambda)^l delta_{t+l}` up to the end of the episode, one environment and stream."""
    advantages = np.zeros(len(rewards))
    for t in range(len(rewards)):
        weight = 1.0
        for step in range(t, len(rewards)):
            advantages[t] += weight * (rewards[step] + gamma * next_values[step] - values[step])
            weight *= gamma * lam
            if dones[step]:
                break
    return advantages


@given(
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(1, 3),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_advantages_equal_their_definition(steps: int, envs: int, streams: int, ends: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.standard_normal((3, steps, envs, streams)).astype(np.float32)
    dones = rng.random((steps, envs)) < ends
    gammas, lambdas = rng.uniform(0.5, 1, (2, streams)).astype(np.float32)
    result = generalized_advantages(rewards, values, next_values, dones, gammas, lambdas)
    for n in range(envs):
        for k in range(streams):
            columns = (column[:, n, k] for column in (rewards, values, next_values))
            expected = by_definition(*columns, dones[:, n], gammas[k], lambdas[k])
            np.testing.assert_allclose(result[:, n, k], expected, rtol=1e-4, atol=1e-4)


def test_inputs_are_left_as_they_are() -> None:
    rewards, values, next_values = np.ones((3, 4, 1, 1), np.float32)
    generalized_advantages(rewards, values, next_values, np.zeros((4, 1), bool), np.ones(1), np.ones(1))
    assert (rewards == 1).all() and (values == 1).all() and (next_values == 1).all()
