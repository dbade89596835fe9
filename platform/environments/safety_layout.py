"""Where things stand at the beginning of an episode, and where the next goal appears.

The places that Safety-Gymnasium 1.0.0 draws, number for number, from the same `RandomState`: a layout is
built thing by thing, each of which is tried up to 100 times and must keep its distance from those
before it; a layout that does not work out is begun anew.

`RandomState.uniform(a, b)` is `a + (b - a) * random_sample()` to the last bit. So random numbers are
drawn in blocks here, and afterwards the state is put where one by one would have brought it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TRIES_PER_THING = 100
TRIES_PER_LAYOUT = 10_000
TRIES_PER_GOAL = 10_000
TRIES_ONE_BY_ONE = 4
"""After so many, the remaining tries for a thing are judged together: only where it is crowded are there many."""
BLOCK = 512


class NoPlace(RuntimeError):
    """No layout, or no place for the goal, was found in the number of tries that there are."""


class Draws:
    """Uniform numbers of a `RandomState`, taken in blocks; `close` leaves it as if they had been drawn singly."""

    def __init__(self, random: np.random.RandomState) -> None:
        self._random = random
        self._state = random.get_state(legacy=False)
        self._before = 0
        self._position = 0
        self._values = random.random_sample(BLOCK)

    def peek(self, count: int) -> NDArray[np.float64]:
        """The next `count` numbers, which are not yet taken."""
        if self._position + count > len(self._values):
            self._before += self._position
            fresh = self._random.random_sample(max(BLOCK, count))
            self._values = np.concatenate([self._values[self._position :], fresh])
            self._position = 0
        return self._values[self._position : self._position + count]

    def take(self, count: int) -> None:
        """Takes `count` numbers that have been looked at."""
        self._position += count

    def close(self) -> None:
        """Puts the generator behind the last number taken."""
        self._random.set_state(self._state)
        self._random.random_sample(self._before + self._position)


class LayoutSampler:
    """Draws layouts and goals of one task."""

    def __init__(self, extent: float, keepouts: NDArray[np.float64]) -> None:
        """A sampler.

        Args:
            extent: places are drawn from [-extent, extent]^2, less a thing's keepout.
            keepouts: radius in meters of the robot and of each thing, float64 `[1 + things]`.
        """
        self._low = [-extent + keepout for keepout in keepouts.tolist()]
        self._span = [(extent - keepout) - low for keepout, low in zip(keepouts.tolist(), self._low, strict=True)]
        self._apart = keepouts[None, :] + keepouts[:, None]
        self._apart_rows = self._apart.tolist()

    def layout(self, random: np.random.RandomState) -> NDArray[np.float64]:
        """The place of the robot and of each thing, float64 `[1 + things, 2]` in meters.

        Raises:
            NoPlace: no layout works out.
        """
        draws = Draws(random)
        try:
            for _ in range(TRIES_PER_LAYOUT):
                places = self._attempt(draws)
                if places is not None:
                    return places
        finally:
            draws.close()
        raise NoPlace("no layout of the things was found")

    def goal(
        self, random: np.random.RandomState, goal: int, others: NDArray[np.intp], places: NDArray[np.float64]
    ) -> tuple[float, float]:
        """A place for the goal.

        Args:
            random: where numbers are drawn from.
            goal: the goal's number in a layout.
            others: the numbers in a layout of what it must keep away from.
            places: where these are, float64 `[others, 2]`.

        Raises:
            NoPlace: all tries were in the way of something.
        """
        low, span = self._low[goal], self._span[goal]
        apart = self._apart[goal, others].tolist()
        in_the_way = [(x, y, limit) for (x, y), limit in zip(places.tolist(), apart, strict=True)]
        draws = Draws(random)
        try:
            for _ in range(TRIES_PER_GOAL):
                u, v = draws.peek(2).tolist()
                draws.take(2)
                x, y = low + span * u, low + span * v
                if _is_free(x, y, in_the_way):
                    return x, y
        finally:
            draws.close()
        raise NoPlace("no place for the goal was found")

    def _attempt(self, draws: Draws) -> NDArray[np.float64] | None:
        count = len(self._low)
        places = np.empty((count, 2))
        placed: list[tuple[float, float]] = []
        for thing in range(count):
            low, span = self._low[thing], self._span[thing]
            in_the_way = [(x, y, limit) for (x, y), limit in zip(placed, self._apart_rows[thing], strict=False)]
            numbers = draws.peek(2 * TRIES_PER_THING)
            first = numbers[: 2 * TRIES_ONE_BY_ONE].tolist()
            for n in range(0, 2 * TRIES_ONE_BY_ONE, 2):
                x, y = low + span * first[n], low + span * first[n + 1]
                if _is_free(x, y, in_the_way):
                    draws.take(n + 2)
                    break
            else:
                tried = low + span * numbers[2 * TRIES_ONE_BY_ONE :].reshape(-1, 2)
                dx = tried[:, 0, None] - places[:thing, 0]
                dy = tried[:, 1, None] - places[:thing, 1]
                free = (np.sqrt(dx * dx + dy * dy) >= self._apart[thing, :thing]).all(axis=1)
                n = int(free.argmax())
                if not free[n]:
                    draws.take(2 * TRIES_PER_THING)
                    return None
                draws.take(2 * (TRIES_ONE_BY_ONE + n + 1))
                x, y = tried[n].tolist()
            placed.append((x, y))
            places[thing] = x, y
        return places


def _is_free(x: float, y: float, in_the_way: list[tuple[float, float, float]]) -> bool:
    for other_x, other_y, limit in in_the_way:
        dx, dy = x - other_x, y - other_y
        if math.sqrt(dx * dx + dy * dy) < limit:
            return False
    return True
