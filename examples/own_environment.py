"""An environment of your own, with a cost: a greenhouse that grows faster the warmer it is, and harms above 30 degrees.

What Quadriga needs of it is what gymnasium needs, and the cost of each step in `info["cost"]`.

PYTHONPATH=examples quadriga train examples/own_environment.yaml
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

Observation = np.ndarray[tuple[int], np.dtype[np.float32]]

HARMFUL = 30.0
"""Degrees Celsius."""


class Greenhouse(gymnasium.Env[Observation, Observation]):
    """Two days in steps of a quarter of an hour; the action is the heating's power, from -1 (off) to 1 (all of it).

    Observed are the temperatures inside and outside, and the time of day as an angle's sine and cosine. Outside it is
    10 degrees on average and 8 more or less in the course of the day; the house loses a tenth of the difference in a
    step, and all of the heating makes up for 25 degrees.
    """

    observation_space = Box(-np.inf, np.inf, (4,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._inside = float(self.np_random.uniform(5, 25))
        self._hour = 0.0
        return self._observe(), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        heating = 25.0 * (float(np.clip(action[0], -1.0, 1.0)) + 1.0) / 2.0
        self._inside += 0.1 * (self._outside() + heating - self._inside) + float(self.np_random.normal(0, 0.2))
        self._hour += 0.25
        growth = self._inside / HARMFUL
        return self._observe(), growth, False, False, {"cost": float(self._inside > HARMFUL)}

    def _outside(self) -> float:
        return 10.0 - 8.0 * math.cos(2 * math.pi * self._hour / 24)

    def _observe(self) -> Observation:
        angle = 2 * math.pi * self._hour / 24
        return np.array([self._inside, self._outside(), math.sin(angle), math.cos(angle)], np.float32)


gymnasium.register("Greenhouse-v0", Greenhouse, max_episode_steps=192)
