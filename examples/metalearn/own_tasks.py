"""A task distribution of your own: straight lines instead of sine waves.

PYTHONPATH=examples/metalearn quadriga meta train examples/metalearn/own_tasks.yaml
"""

from __future__ import annotations

import numpy as np

from quadriga.metalearn.networks import MLP
from quadriga.metalearn.tasks import Loss, Split, Task


class Lines:
    """`f(x) = a x + b` on [-1, 1], a and b uniform in [-slope, slope] and [-1, 1]."""

    loss: Loss = "squared_error"

    def __init__(self, slope: float = 2.0) -> None:
        self._slope = slope
        self.network = MLP((1, 32, 1))

    def sample(self, rng: np.random.Generator, split: Split, shots: int, query_shots: int) -> Task:
        """A line, drawn; `split` makes no difference, for no line is drawn twice."""
        a, b = rng.uniform(-self._slope, self._slope), rng.uniform(-1, 1)
        x = rng.uniform(-1, 1, (shots + query_shots, 1)).astype(np.float32)
        y = (a * x + b).astype(np.float32)
        return Task(x[:shots], y[:shots], x[shots:], y[shots:])

    def check(self, split: Split, shots: int) -> None:
        """Any number of points can be drawn."""


def lines(slope: float = 2.0) -> Lines:
    """The factory that the experiment names; `task.options` are its arguments."""
    return Lines(slope)
