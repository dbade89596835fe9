"""Fitting the critics by themselves, for update rules whose policy takes a single step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quadriga.policies.batch import Array, UpdateBatch, minibatch_totals, minibatches

if TYPE_CHECKING:
    from quadriga.policies.context import UpdateContext


def fit_critics(
    batch: UpdateBatch, context: UpdateContext, *, epochs: int, minibatch_size: int, max_grad_norm: float | None
) -> dict[str, float]:
    """Regresses the critics on the value targets, in epochs of minibatches as PPO does; returns their losses.

    Collective.

    Args:
        batch: the learner's rows.
        context: the critics and their optimizer.
        epochs: passes over the batch.
        minibatch_size: rows, over all learners.
        max_grad_norm: the gradient is scaled to at most this; `None` clips nothing.
    """
    totals = minibatch_totals(batch, minibatch_size, context.sum)
    squared_errors: Array = 0
    for _ in range(epochs):
        for total, minibatch in zip(totals, minibatches(batch, len(totals), context.rng), strict=True):
            squared_errors = squared_errors + context.gradients.critics(minibatch, int(total))
            context.critics.descend(max_grad_norm)
    errors = squared_errors.cpu().numpy() if torch.is_tensor(squared_errors) else squared_errors
    return {
        f"{stream}_value_loss": 0.5 * float(error) / (int(totals.sum()) * epochs)
        for stream, error in zip(context.streams, context.sum(errors), strict=True)
    }
