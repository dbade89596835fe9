"""What second-order update rules share: gradients over a whole batch, `H^-1 g`, and the line search.

Trust region policy optimization (Schulman et al. 2015, arXiv:1502.05477, appendix C) and what
builds on it step along `H^-1 g`, with `H` the Fisher matrix F plus `damping` times the identity, and walk
back along that step until what the quadratic model promised holds for the policy itself. Vectors
are float64 [n] in the order of the policy's flat parameters, and sums over all learners' rows: so
every learner takes the same decisions and the same step. Which step, and what holds, is decided
by `trpo` and `cpo`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from quadriga.policies import distributions
from quadriga.policies.batch import Array, UpdateBatch
from quadriga.policies.critics import fit_critics

if TYPE_CHECKING:
    from quadriga.policies.context import UpdateContext
    from quadriga.policies.experiment import CPOSettings, TRPOSettings

TOLERANCE = 1e-12
"""Conjugate gradient ends at this squared norm of the residual relative to the right-hand side's."""


def conjugate_gradient(
    product: Callable[[np.ndarray], np.ndarray], b: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Solves `H x = b` for symmetric positive definite `H` (Hestenes & Stiefel 1952).

    Args:
        product: `H v` for `v` [n].
        b: [n].
        iterations: at most this many products.

    Returns:
        `x` [n] and the residual `b - H x` [n]; zero where `b` is.
    """
    x, residual, direction = np.zeros_like(b), b.copy(), b.copy()
    squared = float(residual @ residual)
    enough = TOLERANCE * squared
    for _ in range(iterations):
        if squared <= enough:
            break
        image = product(direction)
        curvature = float(direction @ image)
        if curvature <= 0:  # rounding, where the matrix is singular and undamped
            break
        step = squared / curvature
        x += step * direction
        residual -= step * image
        before, squared = squared, float(residual @ residual)
        direction = residual + (squared / before) * direction
    return x, residual


@dataclass(frozen=True)
class Trial:
    """A policy that a line search looks at, over all learners' rows.

    Attributes:
        improvement: of the surrogate `mean(r A)`, `r = pi / pi_old`.
        cost_change: of the cost's surrogate `mean(r A_C)`; 0 if the batch has no cost advantages.
        kl: mean `KL(pi_old || pi)`, nats.
        entropy: mean, nats.
    """

    improvement: float
    cost_change: float
    kl: float
    entropy: float


@dataclass(frozen=True)
class SearchResult:
    """Where a line search ended: the policy that stands, how many trials it took, and whether one was accepted."""

    trial: Trial
    steps: int
    accepted: bool

    def metrics(self) -> dict[str, float]:
        """Under the names of `quadriga.platform.metrics`."""
        return {
            "kl": self.trial.kl,
            "entropy": self.trial.entropy,
            "surrogate_improvement": self.trial.improvement,
            "line_search_steps": float(self.steps),
            "step_accepted": float(self.accepted),
        }


class TrustRegion:
    """The policy's neighborhood in a batch: gradients, curvature, and the policies along a step.

    Collective: every learner makes one of its own rows, none of which may be needed, and calls the same methods.
    """

    def __init__(self, batch: UpdateBatch, context: UpdateContext, settings: TRPOSettings | CPOSettings) -> None:
        self.batch, self.context, self.settings = batch, context, settings
        self.size = int(context.sum([float(len(batch))])[0])
        module, flat = context.module, context.policy.flat
        self._old_log_std = None if module.log_std is None else module.log_std.detach().clone()
        self._old_parameters = flat.vector.detach().clone()
        drawn = batch
        if settings.fisher_fraction < 1.0:
            units = len(batch) // batch.unit
            count = math.ceil(settings.fisher_fraction * units)
            drawn = batch.take(np.sort(context.rng.permutation(units)[:count]))
        self._fisher_size = float(context.sum([float(len(drawn))])[0])
        context.fisher.linearize(drawn.observations, drawn.memory)

    def gradient(self, advantages: Array) -> np.ndarray:
        """Gradient of the surrogate `mean(r A)` at the acting policy, for advantages [B]."""
        batch = replace(self.batch, advantages=advantages)
        self.context.gradients.policy(batch, math.inf, 0.0, self.size)
        return -self.context.sum(self.context.policy.flat.gradient.double().cpu().numpy())

    def product(self, vector: np.ndarray) -> np.ndarray:
        """`H v = F v + damping v`, F the mean over rows."""
        fisher = self.context.sum(self.context.fisher.product(vector)) / self._fisher_size
        return fisher + self.settings.damping * vector

    def solve(self, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`x = H^-1 b` by conjugate gradient, and the residual `b - H x`."""
        return conjugate_gradient(self.product, b, self.settings.cg_iterations)

    def search(self, step: np.ndarray, accepts: Callable[[Trial], bool]) -> SearchResult:
        """Backtracks from the whole step until `accepts`; the old policy stands if nothing is accepted."""
        for count in range(1, self.settings.line_search_steps + 1):
            self._move(self.settings.line_search_decay ** (count - 1) * step)
            trial = self._trial()
            if accepts(trial):  # a NaN is in no relation to anything, and so never accepted
                return SearchResult(trial, count, True)
        self.context.policy.flat.vector.data.copy_(self._old_parameters)
        return SearchResult(self._standing(), self.settings.line_search_steps, False)

    def fit_critics(self) -> dict[str, float]:
        """As `critics.fit_critics`, as the settings say."""
        return fit_critics(
            self.batch,
            self.context,
            epochs=self.settings.critic_epochs,
            minibatch_size=self.settings.critic_minibatch_size,
            max_grad_norm=self.settings.critic_max_grad_norm,
        )

    def _move(self, step: np.ndarray) -> None:
        old = self._old_parameters
        self.context.policy.flat.vector.data.copy_(old + torch.from_numpy(step).to(old))

    @torch.no_grad()
    def _standing(self) -> Trial:
        """The acting policy."""
        entropy = distributions.entropy(self.batch.tensors().distributions, self._old_log_std) * len(self.batch)
        return Trial(0.0, 0.0, 0.0, float(self.context.sum([float(entropy)])[0]) / self.size)

    @torch.no_grad()
    def _trial(self) -> Trial:
        """The policy in the module's parameters."""
        module, batch = self.context.module, self.batch.tensors()
        inputs = torch.as_tensor(self.context.gradients.inputs(self.batch))
        # (r - 1) A is what r A gains on A.
        growth = (distributions.log_probs(inputs, module.log_std, batch.actions) - batch.log_probs).expm1()
        terms = [
            growth @ batch.advantages,
            growth.new_zeros(()) if batch.cost_advantages is None else growth @ batch.cost_advantages,
            distributions.kl_divergence(batch.distributions, self._old_log_std, inputs, module.log_std).sum(),
            distributions.entropy(inputs, module.log_std) * len(batch),
        ]
        return Trial(*(float(total) / self.size for total in self.context.sum(torch.stack(terms).cpu().numpy())))
