"""A vector of one native environment as gymnasium's single `Env`, for whoever steps one at a time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from quadriga.platform.environments.native import NativeVectorEnv


class SingleEnv(gymnasium.Env):
    """`vector`, which has one environment and does not reset itself, by itself; renders nothing."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, vector: NativeVectorEnv) -> None:
        self.vector = vector
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new episode."""
        super().reset(seed=seed)
        observations, _ = self.vector.reset(seed=None if seed is None else [seed])
        return observations[0].copy(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step; the cost is in `info`."""
        observations, rewards, terminations, truncations, infos = self.vector.step(np.asarray(action)[None])
        cost = {"cost": float(infos["cost"][0])}
        return observations[0].copy(), float(rewards[0]), bool(terminations[0]), bool(truncations[0]), cost

    def close(self) -> None:
        """Closes the vector."""
        self.vector.close()
