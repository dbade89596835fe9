"""Sine waves: the paper's regression tasks (Nichol, Achiam, Schulman 2018, section 4.1; Finn et al. 2017).

`f(x) = a sin(x + b)` with amplitude a ~ U[0.1, 5] and phase b ~ U[0, 2 pi] on [-5, 5]. As in the published
code, a training task is its values on a grid; a test task is learned from a few points drawn uniformly
and judged on the grid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quadriga.metalearn.networks import MLP
from quadriga.metalearn.tasks import Loss, Split, Task
from quadriga.platform.errors import UserError

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, 2 * np.pi)
SPAN = 5.0
GRID = 50

Column = NDArray[np.float32]


class Wave(NamedTuple):
    """One wave."""

    amplitude: float
    phase: float

    def __call__(self, x: Column) -> Column:
        """Values, of the shape of `x`."""
        return (self.amplitude * np.sin(x + self.phase)).astype(np.float32)


class SineWaves:
    """The distribution of waves.

    Args:
        hidden: sizes of the network's hidden layers.
        activation: of the network.
    """

    loss: Loss = "squared_error"

    def __init__(self, hidden: tuple[int, ...] = (64, 64), activation: str = "tanh") -> None:
        self.network = MLP((1, *hidden, 1), "relu" if activation == "relu" else "tanh")
        self.grid: Column = np.linspace(-SPAN, SPAN, GRID, dtype=np.float32)[:, None]

    def wave(self, rng: np.random.Generator) -> Wave:
        """A wave, drawn."""
        return Wave(float(rng.uniform(*AMPLITUDE)), float(rng.uniform(*PHASE)))

    def sample(self, rng: np.random.Generator, split: Split, shots: int, query_shots: int) -> Task:
        """Training: `shots + query_shots` points of the grid, split at random. Test: `shots` points, and the grid."""
        wave = self.wave(rng)
        if split == "train":
            x = self.grid[rng.permutation(GRID)[: shots + query_shots]]
            return Task(x[:shots], wave(x[:shots]), x[shots:], wave(x[shots:]))
        x = rng.uniform(-SPAN, SPAN, (shots, 1)).astype(np.float32)
        return Task(x, wave(x), self.grid, wave(self.grid))

    def check(self, split: Split, shots: int) -> None:
        if split == "train" and shots > GRID:
            raise UserError(f"inner.shots: a sine task has {GRID} points, got {shots}")
