"""Action distributions as functions of their parameters, in torch: log-probability, entropy, KL.

Parameters are means [B, act_dim] with a shared `log_std` [act_dim], or logits [B, actions] with
`log_std=None`. The numpy actor draws from the same distributions.
"""

from __future__ import annotations

import torch

from quadriga.platform.rollouts.actors import LOG_2PI


def log_probs(inputs: torch.Tensor, log_std: torch.Tensor | None, actions: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [B] of actions float32 [B, act_dim] or int64 [B]."""
    if log_std is None:
        return torch.log_softmax(inputs, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    z = (actions - inputs) * torch.exp(-log_std)
    return -0.5 * (z.square() + LOG_2PI).sum(-1) - log_std.sum()


def entropy(inputs: torch.Tensor, log_std: torch.Tensor | None) -> torch.Tensor:
    """Mean entropy [] in nats (differential for a Gaussian); 0 of logits without rows."""
    if log_std is None:
        log_p = torch.log_softmax(inputs, -1)
        return -(log_p.exp() * log_p).sum(-1).sum() / max(1, len(inputs))
    return (log_std + 0.5 * (1.0 + LOG_2PI)).sum()


def kl_divergence(
    old_inputs: torch.Tensor, old_log_std: torch.Tensor | None, inputs: torch.Tensor, log_std: torch.Tensor | None
) -> torch.Tensor:
    """KL(old || new) [B] in nats."""
    if log_std is None or old_log_std is None:
        old_log_p, log_p = torch.log_softmax(old_inputs, -1), torch.log_softmax(inputs, -1)
        return (old_log_p.exp() * (old_log_p - log_p)).sum(-1)
    ratio = torch.exp(2.0 * (old_log_std - log_std))
    shift = (old_inputs - inputs) * torch.exp(-log_std)
    return (log_std - old_log_std + 0.5 * (ratio + shift.square() - 1.0)).sum(-1)
