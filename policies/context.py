"""What an update rule works with: parameters and their optimizers, gradients, curvature, and sums over learners.

An update rule is a function of a batch and an `UpdateContext`; `update_rules` lists them. Which
batch it gets, and what becomes of its metrics, is the learner's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from quadriga.policies import distributions
from quadriga.policies.adam import FlatAdam
from quadriga.policies.batch import UpdateBatch
from quadriga.policies.fisher import Fisher
from quadriga.policies.gradients import Gradients
from quadriga.policies.module import ActorCriticModule
from quadriga.policies.networks import FlatParameters


class Descent:
    """Parameters that move together: their flat vector, their optimizer, and the sum over learners."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], learning_rate: float) -> None:
        self.flat = FlatParameters(parameters)
        self.optimizer = FlatAdam(self.flat, learning_rate)
        self.distributed = False

    def minimize(self, loss: torch.Tensor, max_norm: float | None = None) -> None:
        """One step down `loss` [], this learner's part of a sum over all, by autograd."""
        self.flat.gradient.zero_()
        loss.backward()
        self.descend(max_norm)

    def descend(self, max_norm: float | None) -> None:
        """One optimizer step from the gradients, summed over learners, their norm clipped."""
        gradient = self.flat.gradient
        if self.distributed:
            torch.distributed.all_reduce(gradient)
        if max_norm is not None:
            clip_norm(gradient, max_norm)
        self.optimizer.apply()


@dataclass
class UpdateContext:
    """What an update rule works with.

    Attributes:
        module: the policy and its critics.
        gradients: fills the gradients of a minibatch.
        fisher: curvature of the policy, for second-order rules.
        policy: the policy's parameters and optimizer.
        critics: the critics' parameters and optimizer.
        streams: names of the value streams, in the order of the critics.
        rng: of this learner and iteration.
        distributed: whether there are other learners.
        excess_cost: see `Objective`.
    """

    module: ActorCriticModule
    gradients: Gradients
    fisher: Fisher
    policy: Descent
    critics: Descent
    streams: tuple[str, ...]
    rng: np.random.Generator
    distributed: bool
    excess_cost: float | None = None

    def sum(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Sums float64 [n] over all learners; collective."""
        tensor = torch.as_tensor(np.asarray(values, np.float64))
        if self.distributed:
            device = self.policy.flat.vector.device
            tensor = tensor.to(device)
            torch.distributed.all_reduce(tensor)
        return tensor.cpu().numpy()

    @torch.no_grad()
    def movement(self, batch: UpdateBatch, old_log_std: torch.Tensor | None) -> dict[str, float]:
        """The metrics `kl`, to the policy that acted (with `old_log_std`), and `entropy`; collective, in nats."""
        batch, log_std = batch.tensors(), self.module.log_std
        inputs = self.module.distribution_inputs(batch.observations, batch.memory)
        kl = distributions.kl_divergence(batch.distributions, old_log_std, inputs, log_std).sum()
        entropy = distributions.entropy(inputs, log_std) * len(batch)
        total_kl, total_entropy, size = self.sum([float(kl), float(entropy), float(len(batch))])
        return {"kl": total_kl / size, "entropy": total_entropy / size}


def clip_norm(gradient: torch.Tensor, max_norm: float) -> None:
    """Scales `gradient` [n] in place to an Euclidean norm of at most `max_norm`."""
    if gradient.device.type == "cpu":
        array = gradient.numpy()
        norm = math.sqrt(array.dot(array))
        if norm > max_norm:
            array *= max_norm / norm
    else:
        gradient *= (max_norm / torch.linalg.vector_norm(gradient)).clamp(max=1.0)
