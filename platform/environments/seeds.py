"""The seed of every episode, so that any one of them can be played again.

Pure numbers: knows nothing of environments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EpisodeSeeds:
    """A seed for each (environment, episode), independent streams that depend on nothing else.

    Attributes:
        entropy: what the seeds derive from, e.g. `(experiment seed, runner number)`; each at least 0.
    """

    entropy: tuple[int, ...]

    def seed(self, env_index: int, episode: int) -> int:
        """The seed in [0, 2**31) of episode number `episode` (from 0) of environment `env_index`."""
        sequence = np.random.SeedSequence((*self.entropy, env_index, episode))
        return int(sequence.generate_state(1)[0]) & 0x7FFFFFFF
