"""Proximal policy optimization, clipped (Schulman et al. 2017, arXiv:1707.06347, Algorithm 1).

Epochs of minibatches over one batch; the policy stops early once it has moved further than
`target_kl` from the policy that acted, the critics go on. The loss and its gradient are in
`gradients`; what the advantages are made of is none of this module's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from quadriga.policies.batch import Array, UpdateBatch, minibatch_totals, minibatches

if TYPE_CHECKING:
    from quadriga.policies.context import UpdateContext
    from quadriga.policies.experiment import PPOSettings


def update(batch: UpdateBatch, context: UpdateContext, settings: PPOSettings) -> dict[str, float]:
    """One PPO update in place; returns its metrics.

    Collective: every learner calls it with its own rows, none of which may be needed, and all
    take the same steps.

    Args:
        batch: the learner's rows.
        context: parameters, optimizers, gradients and the sums over learners.
        settings: of the update.
    """
    totals = minibatch_totals(batch, settings.minibatch_size, context.sum)
    size = int(totals.sum())
    old_log_std = None if context.module.log_std is None else context.module.log_std.detach().clone()
    policy_moves, policy_epochs = True, 0
    # Sums stay on the learner's device until an epoch ends: reading one waits for the device.
    clipped_rows: Array = 0
    squared_errors: Array = 0
    policy_rows = 0
    for _ in range(settings.epochs):
        divergence: Array = 0
        for total, minibatch in zip(totals, minibatches(batch, len(totals), context.rng), strict=True):
            if policy_moves:
                log_ratio, clipped = context.gradients.policy(
                    minibatch, settings.clip, settings.entropy_coefficient, int(total)
                )
                context.policy.descend(settings.max_grad_norm)
                # Schulman's estimator of KL(old || new), from the actions drawn: (r - 1) - log r.
                divergence = divergence + (_exp(log_ratio) - 1.0 - log_ratio).sum()
                clipped_rows = clipped_rows + clipped.sum()
            squared_errors = squared_errors + context.gradients.critics(minibatch, int(total))
            context.critics.descend(settings.max_grad_norm)
        if policy_moves:
            policy_epochs += 1
            policy_rows += len(batch)
            if settings.target_kl is not None:
                policy_moves = context.sum([float(divergence)])[0] / size <= settings.target_kl
    errors = squared_errors.cpu().numpy() if torch.is_tensor(squared_errors) else squared_errors
    return (
        context.movement(batch, old_log_std)
        | {
            "policy_epochs": float(policy_epochs),
            "clip_fraction": context.sum([float(clipped_rows)])[0] / max(1.0, context.sum([float(policy_rows)])[0]),
        }
        | {
            f"{stream}_value_loss": 0.5 * error / (size * settings.epochs)
            for stream, error in zip(context.streams, context.sum(errors), strict=True)
        }
    )


def _exp(x: Array) -> Array:
    return x.exp() if torch.is_tensor(x) else np.exp(x)
