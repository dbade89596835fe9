"""Lagrange-multiplier controllers: a measured cost goes in, the multiplier comes out.

"Responsive Safety in Reinforcement Learning by PID Lagrangian Methods" (Stooke, Achiam, Abbeel
2020, arXiv:2007.03964). A constrained problem `max J(pi) s.t. J_C(pi) <= d` has the Lagrangian
`J - lambda * (J_C - d)`. Gradient ascent on `lambda` is integral control of `J_C`; proportional and
derivative terms damp its oscillation (section 5, Algorithm 2). Plain numbers, no tensors, no Ray.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Protocol


class Controller(Protocol):
    """What the training loop asks of a multiplier; one is chosen by the experiment's `constraint`."""

    multiplier: float

    def update(self, cost: float) -> float:
        """The multiplier after an iteration whose episodes cost `cost` (J_C) on average."""

    def terms(self) -> dict[str, float]:
        """The parts of the multiplier, for the metrics."""

    def state(self) -> dict[str, Any]:
        """Everything that a continuation needs."""

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""


class PIDController:
    """PID control of the multiplier (Algorithm 2, with the smoothing and delay of the authors' code).

    With `J_C` the cost of iteration k and `d` the limit:

        delta  = J_C - d
        I      = clip(I + delta, 0, integral_max)                  (I + delta)_+ and anti-windup
        P      = EMA_p(delta)                                       EMA_a(x) <- a EMA_a + (1 - a) x
        D      = (EMA_d(J_C) - EMA_d(J_C, `delay` iterations ago))_+
        lambda = clip(K_P P + K_I I + K_D D, 0, multiplier_max)

    With `p_smoothing = d_smoothing = 0` and `delay = 1` this is Algorithm 2 line by line. The
    integral sums `delta` and is multiplied by `K_I` afterwards, as in the paper; code bases that
    sum `K_I * delta` have the same multiplier. Averages and the previous cost begin at 0, as there.
    """

    def __init__(
        self,
        *,
        cost_limit: float,
        kp: float,
        ki: float,
        kd: float,
        p_smoothing: float = 0.0,
        d_smoothing: float = 0.0,
        delay: int = 1,
        initial: float = 0.0,
        integral_max: float = math.inf,
        multiplier_max: float = math.inf,
    ) -> None:
        """No cost is measured yet.

        Args:
            cost_limit: d, undiscounted cost of an episode.
            kp: K_P, multiplier a unit of cost, as are the next two.
            ki: K_I.
            kd: K_D.
            p_smoothing: a of P's average, in [0, 1).
            d_smoothing: a of D's average, in [0, 1).
            delay: measurements that D looks back, at least 1.
            initial: multiplier before the first measurement; the integral begins where `K_I I` is that.
            integral_max: cap of the integral, in units of cost.
            multiplier_max: cap of the multiplier.
        """
        self.cost_limit, self.kp, self.ki, self.kd = cost_limit, kp, ki, kd
        self.p_smoothing, self.d_smoothing = p_smoothing, d_smoothing
        self.integral_max, self.multiplier_max = integral_max, multiplier_max
        self.integral = min(initial / ki, integral_max) if ki > 0 else 0.0
        self.proportional = 0.0
        self.smoothed_cost = 0.0
        self.past_costs: deque[float] = deque([0.0] * delay, maxlen=delay)
        self.derivative = 0.0
        self.multiplier = min(initial, multiplier_max)

    def update(self, cost: float) -> float:
        """One pass of Algorithm 2's loop, lines 5 to 11."""
        delta = cost - self.cost_limit
        self.integral = min(max(0.0, self.integral + delta), self.integral_max)
        self.proportional = self.p_smoothing * self.proportional + (1.0 - self.p_smoothing) * delta
        self.smoothed_cost = self.d_smoothing * self.smoothed_cost + (1.0 - self.d_smoothing) * cost
        self.derivative = max(0.0, self.smoothed_cost - self.past_costs[0])
        self.past_costs.append(self.smoothed_cost)
        control = self.kp * self.proportional + self.ki * self.integral + self.kd * self.derivative
        self.multiplier = min(max(0.0, control), self.multiplier_max)
        return self.multiplier

    def terms(self) -> dict[str, float]:
        """`K_P P`, `K_I I` and `K_D D`."""
        return {
            "multiplier_proportional": self.kp * self.proportional,
            "multiplier_integral": self.ki * self.integral,
            "multiplier_derivative": self.kd * self.derivative,
        }

    def state(self) -> dict[str, Any]:
        """Integral, averages, past costs and the multiplier."""
        return {
            "integral": self.integral,
            "proportional": self.proportional,
            "smoothed_cost": self.smoothed_cost,
            "past_costs": list(self.past_costs),
            "derivative": self.derivative,
            "multiplier": self.multiplier,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`; gains, caps and delay stay this controller's own."""
        self.past_costs = deque(state["past_costs"], maxlen=self.past_costs.maxlen)
        for name in ("integral", "proportional", "smoothed_cost", "derivative", "multiplier"):
            setattr(self, name, float(state[name]))
        self.integral = min(self.integral, self.integral_max)
        self.multiplier = min(self.multiplier, self.multiplier_max)


class LagrangianController:
    """Gradient ascent on the multiplier with Adam, as the traditional Lagrangian baselines do it.

    The gradient of the Lagrangian in `lambda` is `J_C - d`; after each step `lambda` is clipped to
    `[0, multiplier_max]` (Ray, Achiam, Amodei 2019, section 4). Adam: Kingma & Ba 2015, Algorithm 1.
    """

    BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

    def __init__(
        self, *, cost_limit: float, learning_rate: float, initial: float = 0.001, multiplier_max: float = math.inf
    ) -> None:
        self.cost_limit, self.learning_rate, self.multiplier_max = cost_limit, learning_rate, multiplier_max
        self.multiplier = min(initial, multiplier_max)
        self.first_moment = self.second_moment = 0.0
        self.updates = 0

    def update(self, cost: float) -> float:
        """One step of ascent along `cost - cost_limit`."""
        gradient = cost - self.cost_limit
        self.updates += 1
        self.first_moment += (1.0 - self.BETA1) * (gradient - self.first_moment)
        self.second_moment += (1.0 - self.BETA2) * (gradient**2 - self.second_moment)
        first = self.first_moment / (1.0 - self.BETA1**self.updates)
        second = self.second_moment / (1.0 - self.BETA2**self.updates)
        step = self.learning_rate * first / (math.sqrt(second) + self.EPSILON)
        self.multiplier = min(max(0.0, self.multiplier + step), self.multiplier_max)
        return self.multiplier

    def terms(self) -> dict[str, float]:
        """The multiplier has one part."""
        return {}

    def state(self) -> dict[str, Any]:
        """The multiplier and Adam's moments."""
        return {
            "multiplier": self.multiplier,
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "updates": self.updates,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`; the cap stays this controller's own."""
        self.multiplier = min(float(state["multiplier"]), self.multiplier_max)
        self.first_moment, self.second_moment = float(state["first_moment"]), float(state["second_moment"])
        self.updates = int(state["updates"])


class MarginController:
    """A margin under the cost limit, for an update rule that holds the limit itself; the multiplier is 0.

    `margin = max(0, margin + learning_rate (J_C - d))`: integral control of what the rule's linear
    model of the cost gets wrong (the code of Ray, Achiam, Amodei 2019, there off by default).
    """

    multiplier = 0.0

    def __init__(self, *, cost_limit: float, learning_rate: float) -> None:
        self.cost_limit, self.learning_rate = cost_limit, learning_rate
        self.margin = 0.0

    def update(self, cost: float) -> float:
        """The margin grows by what the cost exceeds the limit, and shrinks by what it stays below."""
        self.margin = max(0.0, self.margin + self.learning_rate * (cost - self.cost_limit))
        return 0.0

    def terms(self) -> dict[str, float]:
        """The margin."""
        return {"constraint_margin": self.margin}

    def state(self) -> dict[str, Any]:
        """The margin."""
        return {"margin": self.margin}

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self.margin = float(state["margin"])


class NoController:
    """No constraint: the multiplier is 0."""

    multiplier = 0.0

    def update(self, cost: float) -> float:
        """Ignores the cost."""
        return 0.0

    def terms(self) -> dict[str, float]:
        """None."""
        return {}

    def state(self) -> dict[str, Any]:
        """None."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to load."""
