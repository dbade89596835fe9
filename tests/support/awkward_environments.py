"""Environments that crash or hang their process, end in NaN, or have half of the bounds.

By id `awkward_environments:Name-v0`; importable in Ray workers as well.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from faulty_environments import Marked, Ramp


class Hanging(Marked):
    """Never answers again once the file `mark` exists, in its third step; removes the file first."""

    def go_wrong(self, result: tuple) -> tuple:
        while True:
            time.sleep(3600)


class Crashing(Ramp):
    """Kills its own process in every reset as long as the file `mark` exists."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = Path(mark)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        if self.mark.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(seed=seed, options=options)


class NaNAtTheEnd(Ramp):
    """The observation after the last of ten steps is NaN; that step terminates the episode, or only ends it."""

    def __init__(self, terminated: bool) -> None:
        super().__init__()
        self.terminated = terminated

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, ended, _, info = super().step(action)
        if ended:
            observation = np.full_like(observation, np.nan)
        return observation, reward, ended and self.terminated, ended, info


class HalfBounded(Ramp):
    """An action that may be anything from 0 on."""

    action_space = gym.spaces.Box(np.zeros(1, np.float32), np.full(1, np.inf, np.float32))


for name in ("Hanging", "Crashing", "NaNAtTheEnd", "HalfBounded"):
    gym.register(f"{name}-v0", entry_point=f"awkward_environments:{name}", max_episode_steps=50)
