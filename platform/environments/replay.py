"""The actions of the episodes in progress, from which their environments can be brought back.

A deterministic environment is where its seed and its actions put it, whatever is inside it. So a
snapshot in the middle of an episode needs no support from the environment. This module keeps
the actions; it knows nothing of environments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_REPLAY = 100_000
"""Steps of an episode that are kept; a longer one cannot be replayed."""


class ActionLog:
    """The actions since each environment's episode began.

    One array `[capacity, num_envs, *shape]` for all environments, so that a step costs one row
    copy; rows that no episode reaches back to any more are dropped when it is full.
    """

    def __init__(self, num_envs: int, like: NDArray, max_replay: int = MAX_REPLAY) -> None:
        """An empty log.

        Args:
            num_envs: how many environments.
            like: `[0, *shape]`, an episode without a step: the shape and type of an action.
            max_replay: steps of an episode that are kept.
        """
        self._max_replay = max_replay
        self._rows = np.zeros((1024, num_envs, *like.shape[1:]), like.dtype)
        self._count = 0
        self._starts = [0] * num_envs

    def record(self, actions: NDArray) -> None:
        """Adds one step: `actions [num_envs, *shape]`."""
        if self._count == len(self._rows):
            self._make_room()
        self._rows[self._count] = actions
        self._count += 1

    def begin(self, index: int) -> None:
        """An episode of environment `index` begins: forgets its actions up to here."""
        self._starts[index] = self._count

    def episode(self, index: int) -> NDArray | None:
        """The actions `[steps, *shape]` of the episode in progress, or `None` if it is longer than is kept."""
        start = self._starts[index]
        if self._count - start > self._max_replay:
            return None
        return self._rows[start : self._count, index].copy()

    def restore(self, episodes: Sequence[NDArray]) -> None:
        """Holds exactly `episodes`, one array `[steps, *shape]` for each environment."""
        self._count = max(len(episode) for episode in episodes)
        self._starts = [self._count - len(episode) for episode in episodes]
        capacity = max(len(self._rows), self._count)
        self._rows = np.zeros((capacity, *self._rows.shape[1:]), self._rows.dtype)
        for index, episode in enumerate(episodes):
            self._rows[self._starts[index] : self._count, index] = episode

    def _make_room(self) -> None:
        # An episode that has grown too long starts before the first row from here on.
        first = min(max(start, self._count - self._max_replay) for start in self._starts)
        kept = self._rows[first : self._count]
        capacity = len(self._rows) * (2 if len(kept) > len(self._rows) // 2 else 1)
        rows = np.zeros((capacity, *self._rows.shape[1:]), self._rows.dtype)
        rows[: len(kept)] = kept
        self._rows = rows
        self._count -= first
        self._starts = [start - first for start in self._starts]
