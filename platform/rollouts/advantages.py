"""Generalized advantage estimation (Schulman et al. 2016, arXiv:1506.02438) for several value streams.

`delta_t = r_t + gamma * V(s_{t+1}) - V(s_t)` and `A_t = delta_t + gamma * lambda * A_{t+1}`
(equations 11 and 16). Two ends are kept apart: after a termination the next value is 0, after a
time limit it is the value of the last observation of the episode; both end the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ValueStream:
    """One quantity with a critic of its own: what it is, and how far it looks."""

    name: str
    discount: float
    gae_lambda: float
    episodic: bool = True
    """Whether it ends with an episode; if not, the next episode's values and rewards count on."""
    scale: float = 1.0
    """What its rewards are multiplied by; the returns of episodes stay in the environment's unit."""


def generalized_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    dones: np.ndarray,
    discounts: np.ndarray,
    gae_lambdas: np.ndarray,
) -> np.ndarray:
    """Advantages of `K` streams over `T` steps of `N` environments.

    Args:
        rewards: float32 [T, N, K].
        values: float32 [T, N, K], `V(s_t)`.
        next_values: float32 [T, N, K], `V(s_{t+1})` of the same episode: 0 after a termination, the
            value of the episode's last observation after a truncation.
        dones: bool [T, N] or [T, N, K], the episode ended with this step, either way.
        discounts: float32 [K], gamma of each stream.
        gae_lambdas: float32 [K].

    Returns:
        float32 [T, N, K].
    """
    advantages = rewards + discounts * next_values
    advantages -= values
    going_on = ~(dones if dones.ndim == 3 else dones[..., None])
    carry = going_on * (discounts * gae_lambdas).astype(np.float32)
    for t in range(len(advantages) - 2, -1, -1):
        advantages[t] += carry[t] * advantages[t + 1]
    return advantages
