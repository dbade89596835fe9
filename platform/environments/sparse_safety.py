"""Safety-Gymnasium's Goal tasks that pay on arrival only: what a safe agent must find without being led to it.

Everything but the reward is the task's (`safety_navigation`): layouts, physics, lidars, costs, and the next goal after
each arrival.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadriga.platform.environments.safety_navigation import SafetyNavigationEnv
from quadriga.platform.environments.safety_tasks import find_task

PREFIX = "Sparse"


class SparseGoalEnv(SafetyNavigationEnv):
    """1 for every goal reached, else 0; `name` is `Sparse` and the id of a Goal task."""

    def __init__(self, num_envs: int, *, name: str, **kwargs: Any) -> None:
        task = find_task(name.removeprefix(PREFIX))
        assert task is not None and task.goal == "Goal"
        super().__init__(task, num_envs, name=name, **kwargs)

    def _reward(self, distances: NDArray[np.float64], touched: NDArray[np.uint8]) -> None:
        super()._reward(distances, touched)
        self.exact_rewards[:] = self.goals_met
