"""Trust region policy optimization (Schulman et al. 2015, arXiv:1502.05477, section 6 and appendix C).

    max_theta  L(theta) = mean(r A)     s.t.  mean KL(pi_old || pi_theta) <= delta

With `g` the surrogate's gradient and `H` the Hessian of the KL the step is

    x = sqrt(2 delta / (v^T H v)) v,    v = H^-1 g  by conjugate gradient

and is shortened until the surrogate improves and the KL is within delta. Gradients, products with
`H` and the search are in `natural_gradient`; what A is made of is none of this module's business.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from quadriga.policies.batch import UpdateBatch
from quadriga.policies.natural_gradient import Trial, TrustRegion

if TYPE_CHECKING:
    from quadriga.policies.context import UpdateContext
    from quadriga.policies.experiment import TRPOSettings


def update(batch: UpdateBatch, context: UpdateContext, settings: TRPOSettings) -> dict[str, float]:
    """One TRPO update in place; returns its metrics.

    Collective: every learner calls it with its own rows, none of which may be needed, and all
    take the same step.

    Args:
        batch: the learner's rows.
        context: parameters, gradients, curvature and the sums over learners.
        settings: of the update.
    """
    region = TrustRegion(batch, context, settings)
    g = region.gradient(batch.advantages)
    v, residual = region.solve(g)

    def accepts(trial: Trial) -> bool:
        return trial.improvement > 0 and trial.kl <= settings.target_kl

    result = region.search(natural_step(v, g - residual, settings.target_kl), accepts)
    norm = float(np.linalg.norm(g))
    metrics = {"cg_residual": float(np.linalg.norm(residual)) / norm if norm else 0.0}  # NaN where the gradient is
    return metrics | result.metrics() | region.fit_critics()


def natural_step(v: np.ndarray, image: np.ndarray, delta: float) -> np.ndarray:
    """`sqrt(2 delta / (v^T H v)) v`, given `image = H v`; zero where v is."""
    curvature = float(v @ image)
    return math.sqrt(2.0 * delta / curvature) * v if curvature > 0 else np.zeros_like(v)
