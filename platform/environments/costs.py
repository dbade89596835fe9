"""Costs in one place: `info["cost"]`, however an environment reports them."""

from __future__ import annotations

from typing import Any

import gymnasium


class CostInInfo(gymnasium.Wrapper):
    """The cost of every step as `info["cost"]` of a plain five-tuple, 0 where none is reported.

    An environment reports a cost there itself, or as the third of Safety-Gymnasium's six values
    `(observation, reward, cost, terminated, truncated, info)`.
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; see the class."""
        result: tuple[Any, ...] = self.env.step(action)
        if len(result) == 6:
            observation, reward, cost, terminated, truncated, info = result
            info["cost"] = float(cost)
        else:
            observation, reward, terminated, truncated, info = result
            info.setdefault("cost", 0.0)
        return observation, reward, terminated, truncated, info
