"""The batch that an update rule works on: columns on the learner's device, advantages already weighed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from quadriga.platform.rollouts.columns import sequence_length
from quadriga.policies.recurrent import Memory

Array = Any  # numpy.ndarray on a CPU, torch.Tensor on a GPU: the same code runs on both.


@dataclass
class UpdateBatch:
    """`B` local steps; arrays as in `ColumnBatch`, but with one advantage a step.

    Attributes:
        observations: float32 [B, obs_dim], normalized.
        actions: float32 [B, act_dim] or int64 [B].
        log_probs: float32 [B], under the policy that acted.
        distributions: float32 [B, dist_dim], of the policy that acted.
        advantages: float32 [B], `sum_k w_k A_k`.
        value_targets: float32 [K, B].
        cost_advantages: float32 [B], A_C alone, for a rule that holds the cost limit itself; else `None`.
        memory: of a recurrent policy, whose rows are sequences; else `None`.
    """

    observations: Array
    actions: Array
    log_probs: Array
    distributions: Array
    advantages: Array
    value_targets: Array
    cost_advantages: Array | None = None
    memory: Memory | None = None

    def __len__(self) -> int:
        return len(self.log_probs)

    @property
    def unit(self) -> int:
        """Rows that stay together: 1, or the length of a sequence."""
        return 1 if self.memory is None else sequence_length(len(self), self.memory.states)

    def take(self, index: Array) -> UpdateBatch:
        """The units of `index`, a slice (views) or an integer array (copies)."""
        memory, unit = None, self.unit
        if self.memory is not None:
            sequences, index = index, _rows_of(index, unit)
            memory = Memory(self.memory.resets[index], self.memory.states[sequences])
        return UpdateBatch(
            self.observations[index],
            self.actions[index],
            self.log_probs[index],
            self.distributions[index],
            self.advantages[index],
            self.value_targets[:, index],
            None if self.cost_advantages is None else self.cost_advantages[index],
            memory,
        )

    def tensors(self) -> UpdateBatch:
        """The same memory as torch tensors."""
        if torch.is_tensor(self.log_probs):
            return self
        return self._mapped(lambda column: torch.from_numpy(np.ascontiguousarray(column)))

    def to(self, device: torch.device) -> UpdateBatch:
        """Numpy arrays for the CPU, tensors for any other device."""
        if device.type == "cpu":
            return self
        return self.tensors()._mapped(lambda column: column.to(device, non_blocking=True))

    def _mapped(self, change: Callable[[Array], Array]) -> UpdateBatch:
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "memory"}
        memory = None if self.memory is None else Memory(*map(change, self.memory))
        changed = {name: None if column is None else change(column) for name, column in columns.items()}
        return UpdateBatch(**changed, memory=memory)


def _rows_of(sequences: Array, length: int) -> Array:
    """The rows of whole sequences."""
    if isinstance(sequences, slice):
        return slice(*(None if edge is None else edge * length for edge in (sequences.start, sequences.stop)))
    within = torch.arange(length, device=sequences.device) if torch.is_tensor(sequences) else np.arange(length)
    return (sequences[:, None] * length + within).reshape(-1)


def minibatches(batch: UpdateBatch, count: int, rng: np.random.Generator) -> Iterator[UpdateBatch]:
    """`count` minibatches of nearly equal size over one shuffled pass; the batch is permuted once, then sliced."""
    order: Array = rng.permutation(len(batch) // batch.unit)
    if torch.is_tensor(batch.log_probs):
        order = torch.from_numpy(order).to(batch.log_probs.device)
    shuffled = batch.take(order)
    edges = minibatch_edges(len(order), count)
    for low, high in itertools.pairwise(edges):
        yield shuffled.take(slice(low, high))


def minibatch_totals(batch: UpdateBatch, minibatch_size: int, total: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Rows of each minibatch over all learners, int [minibatches]: the divisors of their means.

    Args:
        batch: of this learner; not all learners may be without rows.
        minibatch_size: rows over all learners; sequences stay whole, and no minibatch is empty on all learners.
        total: sums float64 [n] over all learners; collective.
    """
    rows, units = total(np.array([len(batch), len(batch) // batch.unit], np.float64))
    count = min(math.ceil(rows / minibatch_size), int(units))
    while True:
        edges = np.array(minibatch_edges(len(batch) // batch.unit, count)) * batch.unit
        totals = np.round(total(np.diff(edges))).astype(int)
        filled = int(np.count_nonzero(totals))
        if filled == count:
            return totals
        count = filled  # learners cut at the same shares of theirs: more cuts than one has units can all miss


def minibatch_edges(size: int, count: int) -> list[int]:
    """Where `count` minibatches of nearly equal size begin and end."""
    return [size * part // count for part in range(count + 1)]
