"""The batch that an update rule works on: columns on the learner's device, advantages already weighed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

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
    """

    observations: Array
    actions: Array
    log_probs: Array
    distributions: Array
    advantages: Array
    value_targets: Array
    cost_advantages: Array | None = None

    def __len__(self) -> int:
        return len(self.log_probs)

    def take(self, index: Array) -> UpdateBatch:
        """The steps of `index`, a slice (views) or an integer array (copies)."""
        return UpdateBatch(
            self.observations[index],
            self.actions[index],
            self.log_probs[index],
            self.distributions[index],
            self.advantages[index],
            self.value_targets[:, index],
            None if self.cost_advantages is None else self.cost_advantages[index],
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
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return UpdateBatch(**{name: None if column is None else change(column) for name, column in columns.items()})


def minibatches(batch: UpdateBatch, count: int, rng: np.random.Generator) -> Iterator[UpdateBatch]:
    """`count` minibatches of nearly equal size over one shuffled pass; the batch is permuted once, then sliced."""
    order: Array = rng.permutation(len(batch))
    if torch.is_tensor(batch.log_probs):
        order = torch.from_numpy(order).to(batch.log_probs.device)
    shuffled = batch.take(order)
    edges = minibatch_edges(len(batch), count)
    for low, high in itertools.pairwise(edges):
        yield shuffled.take(slice(low, high))


def minibatch_totals(rows: int, minibatch_size: int, total: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Rows of each minibatch over all learners, int [minibatches]: the divisors of their means.

    Args:
        rows: of this learner.
        minibatch_size: over all learners.
        total: sums float64 [n] over all learners; collective.
    """
    count = math.ceil(total(np.array([rows], np.float64))[0] / minibatch_size)
    return np.round(total(np.diff(minibatch_edges(rows, count)))).astype(int)


def minibatch_edges(size: int, count: int) -> list[int]:
    """Where `count` minibatches of nearly equal size begin and end."""
    return [size * part // count for part in range(count + 1)]
