"""Batches of the policy before: what an update makes of one that was collected while the last update ran.

Where runners collect the next batch during an update (`rollout.asynchronous`), the policy that acted in it is one
update older than the one that learns from it. The decoupled objective keeps both apart (Hilton, Cobbe, Schulman 2022,
"Batch size-invariance for policy optimization", arXiv:2110.00641): the step is kept close to the policy at
the update's start, and the difference to the one that acted is an importance weight of each row,

    E[(pi_start / pi_acted) min(r A, clip(r, 1 - eps, 1 + eps) A)],    r = pi / pi_start

with `rho = pi_start / pi_acted` truncated at `RATIO_MAX`. Values and advantages stay as the older critics estimated
them.
"""

from __future__ import annotations

import numpy as np
import torch

from quadriga.policies import distributions
from quadriga.policies.batch import UpdateBatch
from quadriga.policies.context import UpdateContext

RATIO_MAX = 2.0
"""No row weighs more than this many."""


@torch.no_grad()
def rebase(batch: UpdateBatch, context: UpdateContext) -> tuple[np.ndarray, dict[str, float]]:
    """Makes the policy at the update's start the one that the batch's step is measured from; collective.

    Args:
        batch: numpy columns; its `log_probs` and `distributions` are replaced.
        context: of the update, whose policy has not moved yet.

    Returns:
        `rho` float32 [B], and the metric `behavior_kl`: KL from the policy that acted to the one at the start, in nats,
        estimated by the mean of `rho - 1 - log rho`, which is never negative (before truncation).
    """
    module = context.module
    device = context.policy.flat.vector.device
    moved = batch.to(device)
    inputs = torch.as_tensor(context.gradients.inputs(moved))
    columns = moved.tensors()
    log_probs = distributions.log_probs(inputs, module.log_std, columns.actions)
    log_rho = (log_probs - columns.log_probs).double().cpu().numpy()
    batch.log_probs, batch.distributions = log_probs.cpu().numpy(), inputs.cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # reported by the learner as advantages that are not finite
        rho = np.exp(log_rho)
        kl, size = context.sum([float((rho - 1.0 - log_rho).sum()), float(len(batch))])
    return np.minimum(rho, RATIO_MAX).astype(np.float32), {"behavior_kl": kl / size}
