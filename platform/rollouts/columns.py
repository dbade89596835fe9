"""What a rollout hands to a learner: columns of numbers, one row a step.

A `ColumnBatch` crosses the object store once, as a few contiguous arrays. It knows nothing of
episodes, environments or Ray; advantages are already in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from quadriga.platform.environments.planes import Visits
from quadriga.platform.statistics import RunningMoments


@dataclass
class ColumnBatch:
    """`B` steps with `K` value streams (reward, cost, intrinsic, ...); steps of all environments mixed.

    Attributes:
        observations: float32 [B, obs_dim], normalized as the acting policy saw them.
        actions: float32 [B, act_dim], as drawn from the distribution (not clipped); int64 [B] if discrete.
        log_probs: float32 [B], of the actions under the acting policy.
        distributions: float32 [B, dist_dim], the acting policy's parameters: means, or logits.
        advantages: float32 [K, B], generalized advantage estimates.
        value_targets: float32 [K, B], advantages plus values.
        bonuses: float32 [B], intrinsic rewards that are not in any stream yet; this and what follows only with a bonus.
        bonus_advantages: float32 [B], their generalized advantages by discount and lambda of the stream that carries
            them, of values that are 0.
        bonus_baselines: float32 [B], what is to be added for every unit of a constant value.
        states: float32 [B, obs_dim], raw observations.
        next_states: float32 [B, obs_dim], the raw observation after the step, of the same episode.
        resets: bool [B], an episode begins with this step; this and what follows only of a policy with a memory, whose
            rows are `S` sequences of one length, one after the other.
        initial_states: float32 [S, state_dim], what the networks remember at the beginning of each sequence.
    """

    observations: np.ndarray
    actions: np.ndarray
    log_probs: np.ndarray
    distributions: np.ndarray
    advantages: np.ndarray
    value_targets: np.ndarray
    bonuses: np.ndarray | None = None
    bonus_advantages: np.ndarray | None = None
    bonus_baselines: np.ndarray | None = None
    states: np.ndarray | None = None
    next_states: np.ndarray | None = None
    resets: np.ndarray | None = None
    initial_states: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.log_probs)

    def split(self, parts: int) -> list[ColumnBatch]:
        """`parts` batches of nearly equal size, in order; sequences stay whole."""
        if parts == 1:
            return [self]
        length = sequence_length(len(self), self.initial_states)
        edges = np.linspace(0, len(self) // length, parts + 1).astype(int)
        batches = [self.rows(slice(low * length, high * length)) for low, high in itertools.pairwise(edges)]
        if self.initial_states is not None:
            for batch, (low, high) in zip(batches, itertools.pairwise(edges), strict=True):
                batch.initial_states = np.ascontiguousarray(self.initial_states[low:high])
        return batches

    def rows(self, index: slice | np.ndarray) -> ColumnBatch:
        """The steps that `index` selects; what was remembered before them is not among their columns."""
        return ColumnBatch(
            **{
                name: np.ascontiguousarray(_select(name, column, index))
                for name in _NAMES
                if name != "initial_states" and (column := getattr(self, name)) is not None
            }
        )

    @staticmethod
    def concatenate(batches: Sequence[ColumnBatch]) -> ColumnBatch:
        """All steps of `batches` in one, in order; always a writable copy."""
        return ColumnBatch(
            **{
                name: np.concatenate([getattr(batch, name) for batch in batches], axis=1 if name in _STREAMED else 0)
                for name in _NAMES
                if getattr(batches[0], name) is not None
            }
        )


def sequence_length(rows: int, initial_states: np.ndarray | None) -> int:
    """Rows that stay together: the length of a sequence; 1 of a policy without a memory, and without rows."""
    return rows // len(initial_states) if initial_states is not None and len(initial_states) else 1


_STREAMED = ("advantages", "value_targets")
_NAMES = tuple(column.name for column in fields(ColumnBatch))


def _select(name: str, column: np.ndarray, index: slice | np.ndarray) -> np.ndarray:
    return column[:, index] if name in _STREAMED else column[index]


@dataclass
class EpisodeRecords:
    """The episodes that ended in a rollout: undiscounted return and cost, length in steps; each [episodes]."""

    returns: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.returns)

    def add(self, episode_return: float, cost: float, length: int) -> None:
        """Appends one episode."""
        self.returns.append(episode_return)
        self.costs.append(cost)
        self.lengths.append(length)

    @classmethod
    def joined(cls, parts: Iterable[EpisodeRecords]) -> EpisodeRecords:
        """The episodes of all parts, in order, as a new record."""
        whole = cls()
        for part in parts:
            whole.returns += part.returns
            whole.costs += part.costs
            whole.lengths += part.lengths
        return whole

    def last(self, count: int) -> EpisodeRecords:
        """The latest `count` episodes."""
        return EpisodeRecords(self.returns[-count:], self.costs[-count:], self.lengths[-count:])


@dataclass
class Rollout:
    """What one runner returns from one request.

    Attributes:
        shards: the columns, cut for the learners; `ColumnBatch` in the driver, object references from an actor.
        env_steps: environment steps taken (steps that a raising environment lost are not among them).
        cost_sum: cost over these steps.
        episodes: the episodes that ended.
        visits: where the environments went, of tasks with a plane.
        moments: of the raw observations, for the shared normalizer; `None` if it is off.
        environment_failures: environments that raised and were built anew.
        error: why the rollout cannot be used (one line), with the environment's traceback below; else `None`.
    """

    shards: list
    env_steps: int
    cost_sum: float
    episodes: EpisodeRecords
    moments: RunningMoments | None
    visits: Visits | None = None
    environment_failures: int = 0
    error: str | None = None
