"""A task of memory, by id `recall_environment:Recall-v0`: say at the end what was shown in the beginning."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Recall(gym.Env):
    """Shows +1 or -1 once, then nothing for some steps; in the last one the action that names it pays 1, the other -1.

    The last observation is the same whatever was shown, so no policy without a memory has a mean return other than 0.
    """

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int = 6) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.shown = 0, int(self.np_random.integers(2))
        return np.array([2 * self.shown - 1, 0], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        asked = self.steps == self.length - 1
        ended = self.steps == self.length
        reward = (1.0 if action == self.shown else -1.0) if ended else 0.0
        return np.array([0, float(asked)], np.float32), reward, ended, False, {"cost": 0.0}


gym.register("Recall-v0", entry_point="recall_environment:Recall")
