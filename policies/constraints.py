"""A constraint at work: which episodes its cost is measured on, its controller, its objective."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quadriga.platform.errors import TrainingStopped, UserError, one_line
from quadriga.platform.imports import load_object
from quadriga.policies.controllers import (
    Controller,
    LagrangianController,
    MarginController,
    NoController,
    PIDController,
)
from quadriga.policies.experiment import (
    CustomConstraintSettings,
    LagrangianSettings,
    NoConstraint,
    PIDSettings,
    TrustRegionSettings,
)
from quadriga.policies.objective import CostScale, Objective


class Constraint:
    """The multiplier of a run.

    The cost `J_C` is the mean over the episodes that ended in the iteration, or over a window of
    past ones if the settings say so: a window lags, and the multiplier with it. An iteration in
    which no episode ends leaves the multiplier as it is.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        cost_limit: float | None = None,
        normalize: bool = True,
        window: int | None = None,
        cost_scale: CostScale | None = None,
    ) -> None:
        """Nothing is measured yet.

        Args:
            controller: of the multiplier.
            cost_limit: undiscounted cost of an episode; `None` without a constraint.
            normalize: divide the objective by `1 + lambda`.
            window: how many past episodes the cost is measured on; `None`: those of the iteration.
            cost_scale: beta, if reward-scale invariance is on.
        """
        self.controller, self.cost_limit, self.normalize = controller, cost_limit, normalize
        self.cost_scale = cost_scale
        self.window: deque[float] | None = None if window is None else deque(maxlen=window)
        self.measured_cost = math.nan
        self.measured_length = math.nan

    @classmethod
    def from_settings(
        cls,
        settings: NoConstraint | LagrangianSettings | PIDSettings | TrustRegionSettings | CustomConstraintSettings,
    ) -> Constraint:
        """The constraint of an experiment.

        Raises:
            UserError: a controller of somebody's own cannot be made, or does not begin with a multiplier >= 0.
        """
        if isinstance(settings, NoConstraint):
            return cls(NoController())
        if isinstance(settings, TrustRegionSettings):
            margin = MarginController(cost_limit=settings.cost_limit, learning_rate=settings.margin_learning_rate)
            return cls(margin, cost_limit=settings.cost_limit, window=settings.window)
        controller: Controller
        if isinstance(settings, PIDSettings):
            controller = PIDController(
                cost_limit=settings.cost_limit,
                kp=settings.kp,
                ki=settings.ki,
                kd=settings.kd,
                p_smoothing=settings.p_smoothing,
                d_smoothing=settings.d_smoothing,
                delay=settings.d_delay,
                initial=settings.initial_multiplier,
                integral_max=math.inf if settings.integral_max is None else settings.integral_max,
                multiplier_max=settings.multiplier_max,
            )
        elif isinstance(settings, CustomConstraintSettings):
            controller = _custom(settings)
        else:
            controller = LagrangianController(
                cost_limit=settings.cost_limit,
                learning_rate=settings.learning_rate,
                initial=settings.initial_multiplier,
                multiplier_max=settings.multiplier_max,
            )
        scale = (
            CostScale(None, settings.scale_smoothing, settings.scale_max) if settings.reward_scale_invariance else None
        )
        return cls(
            controller,
            cost_limit=settings.cost_limit,
            normalize=settings.normalize_objective,
            window=settings.window,
            cost_scale=scale,
        )

    def observe(self, episode_costs: Sequence[float], episode_lengths: Sequence[int] = ()) -> None:
        """Takes in the episodes that ended in this iteration: undiscounted costs, and lengths in steps."""
        if not episode_costs:
            return
        if episode_lengths:
            self.measured_length = math.fsum(episode_lengths) / len(episode_lengths)
        if self.window is not None:
            self.window.extend(episode_costs)
            episode_costs = list(self.window)
        self.measured_cost = math.fsum(episode_costs) / len(episode_costs)
        self.controller.update(self.measured_cost)

    def objective(self) -> Objective:
        """How to weigh the streams in the next update.

        Raises:
            TrainingStopped: the controller's multiplier is negative, or not finite.
        """
        wrong = _wrong_multiplier(self.controller)
        if wrong is not None:
            raise TrainingStopped(f"constraint: at a measured cost of {self.measured_cost:g}: {wrong}")
        return Objective(self.controller.multiplier, self.normalize, self.cost_scale, self._excess_cost())

    def _excess_cost(self) -> float | None:
        """`(J_C - d + margin) / L`, L the mean length of an episode: the units of a mean over steps (see `cpo`)."""
        if not isinstance(self.controller, MarginController) or math.isnan(self.measured_cost / self.measured_length):
            return None
        excess = self.measured_cost - self.controller.cost_limit + self.controller.margin
        return excess / self.measured_length

    def terms(self) -> dict[str, float]:
        """For the metrics: the multiplier, its parts and the cost that it answers; nothing without a constraint."""
        if self.cost_limit is None:
            return {}
        terms = {"constraint_cost": self.measured_cost, **self.controller.terms()}
        if not isinstance(self.controller, MarginController):
            terms["lagrange_multiplier"] = self.controller.multiplier
        if self.cost_scale is not None and self.cost_scale.value is not None:
            terms["cost_scale"] = self.cost_scale.value
        return terms

    def state(self) -> dict[str, Any]:
        """Everything that a continuation needs."""
        return {
            "controller": self.controller.state(),
            "window": None if self.window is None else list(self.window),
            "measured_cost": self.measured_cost,
            "measured_length": self.measured_length,
            "cost_scale": self.cost_scale,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`; what is a setting stays this constraint's own."""
        self.controller.load(state["controller"])
        if self.window is not None:
            self.window.clear()
            self.window.extend(state["window"] or ())
        self.measured_cost = state["measured_cost"]
        self.measured_length = state.get("measured_length", math.nan)
        if self.cost_scale is not None and state["cost_scale"] is not None:
            self.cost_scale = replace(self.cost_scale, value=state["cost_scale"].value)


def _custom(settings: CustomConstraintSettings) -> Controller:
    """The controller of somebody's own, with everything that the training loop asks of one."""
    factory = load_object(settings.factory, "constraint.factory")
    try:
        controller: Controller = factory(cost_limit=settings.cost_limit, **settings.options)
    except TypeError as error:
        raise UserError(f"constraint.options of {settings.factory!r}: {one_line(error)}") from error
    missing = [part for part in ("multiplier", "update", "terms", "state", "load") if not hasattr(controller, part)]
    if missing:
        raise UserError(f"constraint.factory {settings.factory!r}: what it makes has no {', '.join(missing)}")
    wrong = _wrong_multiplier(controller)
    if wrong is not None:
        raise UserError(f"constraint.factory {settings.factory!r}: {wrong}")
    return controller


def _wrong_multiplier(controller: Controller) -> str | None:
    """What is wrong with a controller's multiplier, if anything."""
    try:
        if math.isfinite(controller.multiplier) and controller.multiplier >= 0:
            return None
    except TypeError:  # not a number
        pass
    return f"multiplier: expected a finite number of at least 0, got {controller.multiplier!r}"
