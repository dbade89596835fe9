"""What the policy ascends: one weight for each value stream's advantage.

Every algorithm here improves `A = sum_k w_k A_k`. For the PID Lagrangian (Stooke et al. 2020,
section 6.2) `A = (A_R - lambda A_C) / (1 + lambda)`; a bonus adds `A_I` next to `A_R`. With
reward-scale invariance (section 8) the cost's share is multiplied by `beta`, the ratio of the two
policy gradients' norms, so that scaling all rewards changes nothing but the value function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quadriga.platform.rollouts.plan import COST, REWARD


@dataclass(frozen=True)
class CostScale:
    """`beta = EMA(||grad J|| / ||grad J_C||)`, capped at `maximum`.

    The average begins with the first ratio: beginning with 1 it would be off by the rewards' scale for as many
    iterations as it takes to forget that.

    Attributes:
        value: beta after the last iteration; `None` before the first.
        smoothing: share of the old value in the average, in [0, 1).
        maximum: cap of beta, and with it of the cost's influence where its gradient vanishes.
    """

    value: float | None
    smoothing: float
    maximum: float

    def updated(self, reward_norm: float, cost_norm: float) -> CostScale:
        """After an iteration whose unscaled policy gradients have these norms."""
        ratio = min(reward_norm / cost_norm, self.maximum) if cost_norm > 0 else self.maximum
        before = ratio if self.value is None else self.value
        return replace(self, value=self.smoothing * before + (1.0 - self.smoothing) * ratio)


@dataclass(frozen=True)
class Objective:
    """The multiplier and how it weighs reward against cost.

    Attributes:
        multiplier: lambda >= 0.
        normalize: divide by `1 + lambda`, which keeps the step size as lambda grows.
        cost_scale: beta, if reward-scale invariance is on.
        excess_cost: by how much the cost exceeds its limit, a step, for an update rule that holds the
            limit itself; `None` for others, and while no episode has ended.
    """

    multiplier: float
    normalize: bool
    cost_scale: CostScale | None = None
    excess_cost: float | None = None

    def weights(self) -> dict[str, float]:
        """`{stream: w_k}`; streams that are not named weigh as the reward."""
        total = 1.0 + self.multiplier if self.normalize else 1.0
        beta = 1.0 if self.cost_scale is None or self.cost_scale.value is None else self.cost_scale.value
        return {REWARD: 1.0 / total, COST: -beta * self.multiplier / total}
