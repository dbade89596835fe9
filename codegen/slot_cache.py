"""A key-value cache of fixed slots, allocated once: the sequences of a batch may begin and end at different times.

A `transformers` cache. Each slot holds one sequence from its first position on; who sits in which
slot, and for how long, is the decoder's business (`quadriga.codegen.decoding`).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class Frame:
    """Which part of the cache the next forward pass is about; one object for all layers.

    Attributes:
        row: the slot that a prompt is read into, or `None` for a step of all rows.
        rows: int64 [B], the slots of a step.
        positions: int64 [B], where each one's new token stands.
        span: one more than the largest of them.
    """

    def __init__(self) -> None:
        self.row: int | None = None
        self.rows = self.positions = torch.empty(0, dtype=torch.long)
        self.span = 0


class SlotLayer(CacheLayerMixin):
    """One layer: keys and values [slots, heads, capacity, dim], made when the first prompt shows their shapes."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, slots: int, capacity: int, frame: Frame) -> None:
        super().__init__()
        self._slots, self._capacity, self._frame = slots, capacity, frame

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = key_states.new_empty(self._slots, key_states.shape[1], self._capacity, key_states.shape[3])
        self.values = value_states.new_empty(self._slots, value_states.shape[1], self._capacity, value_states.shape[3])
        # What has never been written is masked, and 0 times NaN would be NaN.
        self.keys.zero_()
        self.values.zero_()
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        frame = self._frame
        if frame.row is not None:
            length = key_states.shape[2]
            self.keys[frame.row, :, :length] = key_states[0]
            self.values[frame.row, :, :length] = value_states[0]
            return key_states, value_states
        count = len(frame.rows)
        self.keys[frame.rows, :, frame.positions] = key_states[:, :, 0]
        self.values[frame.rows, :, frame.positions] = value_states[:, :, 0]
        return self.keys[:count, :, : frame.span], self.values[:count, :, : frame.span]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self._capacity

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of slot `source` into slot `target`."""
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]


class SlotCache(Cache):
    """The cache of a whole model."""

    def __init__(self, layers: int, slots: int, capacity: int) -> None:
        """Allocates nothing yet.

        Args:
            layers: of the model.
            slots: sequences at once.
            capacity: tokens of each.
        """
        self.frame = Frame()
        super().__init__(layers=[SlotLayer(slots, capacity, self.frame) for _ in range(layers)])

    def read_into(self, row: int) -> None:
        """The next pass reads a prompt into slot `row`."""
        self.frame.row = row

    def step(self, positions: torch.Tensor, span: int) -> None:
        """The next pass adds one token to each of the slots `0..B-1`, at `positions` (int64 [B])."""
        frame = self.frame
        frame.row, frame.positions, frame.span = None, positions, span
        if len(frame.rows) != len(positions):
            frame.rows = torch.arange(len(positions), device=positions.device)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of slot `source` into slot `target`, in all layers."""
        for layer in self.layers:
            layer.copy(source, target, length)
