"""Environments that go wrong, by id `faulty_environments:Name-v0`; importable in Ray workers as well."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np


class Ramp(gym.Env):
    """Ten steps an episode; the reward is the number of the step, the cost 1 where the action is positive."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, length: int = 10) -> None:
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.total = 0, 0.0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        self.total += float(action[0])
        info = {"cost": float(action[0] > 0)}
        return self._observe(), float(self.steps), self.steps >= self.length, False, info

    def _observe(self) -> np.ndarray:
        return np.array([self.steps / self.length, np.tanh(self.total)], np.float32)


class Tempting(Ramp):
    """Pays 1 for a positive action, which costs 1 as well: the best policy spends exactly its limit."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, info["cost"], terminated, truncated, info


class Marked(Ramp):
    """A ramp that goes wrong once the file `mark` exists, in its third step; removes the file first."""

    def __init__(self, mark: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mark = Path(mark)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        result = super().step(action)
        if self.steps == 3:
            try:
                self.mark.unlink()
            except FileNotFoundError:  # not asked for, or another process was first
                return result
            return self.go_wrong(result)
        return result

    def go_wrong(self, result: tuple) -> tuple:
        raise RuntimeError("the physics exploded")


class Killed(Marked):
    """Kills its own process."""

    def go_wrong(self, result: tuple) -> tuple:
        os.kill(os.getpid(), signal.SIGKILL)
        return result


class NaNReward(Marked):
    """Rewards NaN."""

    def go_wrong(self, result: tuple) -> tuple:
        return (result[0], float("nan"), *result[2:])


for name in ("Ramp", "Tempting", "Marked", "Killed", "NaNReward"):
    gym.register(f"{name}-v0", entry_point=f"faulty_environments:{name}", max_episode_steps=50)
