"""Constrained policy optimization (Achiam, Held, Tamar, Abbeel 2017, arXiv:1705.10528).

Each update solves the linear-quadratic model of the paper's equation 11 for one constraint,

    max_x  g^T x     s.t.  c + b^T x <= 0,    1/2 x^T H x <= delta

`g` is the gradient of the reward's surrogate, `b` that of the cost's, `H` the Hessian of the KL, `c` the
cost's excess over its limit. With the paper's names (section 6.1; its Theorem 2 in the appendix
minimizes, which turns the sign of r)

    q = g^T H^-1 g     r = g^T H^-1 b     s = b^T H^-1 b     A = q - r^2/s     B = 2 delta - c^2/s

the solution is `x = (1/lambda*) H^-1 (g - nu* b)`. Where no x in the trust region satisfies the constraint,
the step is the paper's equation 14, `x = -sqrt(2 delta / s) H^-1 b`, which lowers the cost as fast as it can be.

**Units.** `c` must be in the units of `b^T x`. For an episode of L steps the difference of two policies'
undiscounted costs is `J_C(pi') - J_C(pi) = E[sum of L advantages A_C of pi under pi']` (Kakade & Langford
2002), to first order L times the change of the per-step mean `mean(r A_C)` whose gradient `b` is. So
`J_C - d + L b^T x <= 0` is divided by L: `c = (J_C - d) / L`, with L the mean length of the iteration's
episodes, as in the code of Ray, Achiam, Amodei 2019. What remains is that A_C is discounted.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quadriga.policies.batch import UpdateBatch
from quadriga.policies.natural_gradient import Trial, TrustRegion

if TYPE_CHECKING:
    from quadriga.policies.context import UpdateContext
    from quadriga.policies.experiment import CPOSettings

NO_CHANGE = 1e-8
"""The cost's gradient counts as zero if no step in the trust region changes the cost by more than this a step."""


class Case(enum.IntEnum):
    """How the constraint's half-space lies to the trust region, numbered as in the code of Ray et al. 2019."""

    RECOVERY = 0
    """No step in the trust region satisfies the constraint: lower the cost, whatever the reward does."""
    VIOLATED = 1
    """The policy violates the constraint, and some step in the trust region does not."""
    PARTLY_FEASIBLE = 2
    """The policy satisfies the constraint, and some step in the trust region does not."""
    FEASIBLE = 3
    """Every step in the trust region satisfies the constraint."""
    NO_COST_GRADIENT = 4
    """To first order no step changes the cost: all that is left is to raise the reward."""


@dataclass(frozen=True)
class Solution:
    """`x = along_g H^-1 g + along_b H^-1 b`, and the dual variables.

    Attributes:
        case: which of the paper's cases it is.
        lam: lambda*, of the trust region; 0 where it is slack, at the edge of recovery, where it has no
            bound, and in recovery, where it is not part of the step.
        nu: nu*, of the constraint; 0 where it is slack. In recovery the length of the step.
        along_g: `1 / lambda*`.
        along_b: `-nu* / lambda*`.
    """

    case: Case
    lam: float
    nu: float
    along_g: float
    along_b: float


def solve(q: float, r: float, s: float, c: float, delta: float) -> Solution:
    """The problem of equation 11 in closed form, from its scalars (names as above).

    The best step of the trust region alone is `H^-1 g / lambda`, `lambda = sqrt(q / (2 delta))`. If it satisfies the
    constraint it is the solution. If not, the constraint is active: the solution lies in the hyperplane
    `c + b^T x = 0`, whose point of least norm is `-(c/s) H^-1 b`. What the trust region has left of it, `B`, goes
    along `H^-1 g - (r/s) H^-1 b`, which stays in the plane and whose squared norm is `A`:

        x = -(c/s) H^-1 b + sqrt(B/A) (H^-1 g - (r/s) H^-1 b)

    That is `(1/lambda*) H^-1 (g - nu* b)` with the paper's `lambda* = sqrt(A/B)` and
    `nu* = (lambda* c + r) / s`, written so that nothing is divided by `lambda*`, which vanishes where
    g and b are parallel.

    Args:
        q: `g^T H^-1 g >= 0`.
        r: `g^T H^-1 b`, with `r^2 <= q s`.
        s: `b^T H^-1 b >= 0`.
        c: excess of the cost; positive where the constraint is violated.
        delta: size of the trust region, > 0.
    """
    lam = math.sqrt(q / (2.0 * delta))
    reach = math.sqrt(2.0 * delta * s)  # the most that a step can change b^T x
    if reach <= NO_CHANGE:
        return Solution(Case.NO_COST_GRADIENT, lam, 0.0, _inverse(lam), 0.0)
    if c > reach:
        nu = math.sqrt(2.0 * delta / s)
        return Solution(Case.RECOVERY, 0.0, nu, 0.0, -nu)
    case = Case.FEASIBLE if c < -reach else Case.PARTLY_FEASIBLE if c < 0 else Case.VIOLATED
    if case is Case.FEASIBLE or c + r * _inverse(lam) <= 0:
        return Solution(case, lam, 0.0, _inverse(lam), 0.0)
    a, b = max(0.0, q - r * r / s), max(0.0, 2.0 * delta - c * c / s)
    # Rounding leaves a share of 1e-15 of q where g and b are parallel: no direction to go in.
    in_plane = math.sqrt(b) / math.sqrt(a) if a > 1e-12 * q else 0.0
    lam = math.sqrt(a) / math.sqrt(b) if b > 0 and in_plane else 0.0
    return Solution(case, lam, max(0.0, (lam * c + r) / s), in_plane, -(c + in_plane * r) / s)


def _inverse(lam: float) -> float:
    return 1.0 / lam if lam > 0 else 0.0


def update(batch: UpdateBatch, context: UpdateContext, settings: CPOSettings) -> dict[str, float]:
    """One CPO update in place; returns its metrics.

    The line search accepts what keeps the KL within delta and the cost's surrogate within
    `max(0, -c)` of where it was, and, unless the policy violates the constraint, improves the reward's.
    Without a measured cost (no episode has ended yet) the step is TRPO's. Collective, as `trpo.update`.

    Args:
        batch: the learner's rows, with cost advantages.
        context: as for `trpo.update`; its `excess_cost` is `c`.
        settings: of the update.
    """
    assert batch.cost_advantages is not None
    region = TrustRegion(batch, context, settings)
    delta = settings.target_kl
    c = -math.inf if context.excess_cost is None else context.excess_cost
    g, b = region.gradient(batch.advantages), region.gradient(batch.cost_advantages)
    (v, g_residual), (w, b_residual) = region.solve(g), region.solve(b)
    # v^T H v and w^T H w as they are, also where conjugate gradient stopped early.
    q, s = max(0.0, float(v @ (g - g_residual))), max(0.0, float(w @ (b - b_residual)))
    solution = solve(q, float(v @ b), s, c, delta)

    def accepts(trial: Trial) -> bool:
        return (
            trial.kl <= delta
            and trial.cost_change <= max(0.0, -c)
            and (trial.improvement > 0 or solution.case in (Case.RECOVERY, Case.VIOLATED))
        )

    result = region.search(solution.along_g * v + solution.along_b * w, accepts)
    norm = math.hypot(np.linalg.norm(g), np.linalg.norm(b))
    residual = math.hypot(np.linalg.norm(g_residual), np.linalg.norm(b_residual))
    metrics = {
        "cpo_case": float(solution.case),
        "cpo_lambda": solution.lam,
        "cpo_nu": solution.nu,
        "cost_surrogate_change": result.trial.cost_change,
        "cg_residual": residual / norm if norm else 0.0,  # NaN where the gradient is
    }
    return metrics | result.metrics() | region.fit_critics()
