from __future__ import annotations

import pytest

from quadriga.platform.errors import TrainingStopped
from quadriga.policies.constraints import Constraint
from quadriga.policies.experiment import LagrangianSettings, NoConstraint, PIDSettings, TrustRegionSettings
from quadriga.policies.objective import CostScale, Objective


def test_normalized_weights_are_the_paper_s() -> None:
    weights = Objective(multiplier=3.0, normalize=True).weights()
    assert weights == pytest.approx({"reward": 1 / 4, "cost": -3 / 4})


def test_without_normalization_the_reward_weighs_one() -> None:
    assert Objective(multiplier=3.0, normalize=False).weights() == pytest.approx({"reward": 1.0, "cost": -3.0})


def test_cost_scale_multiplies_the_cost_alone() -> None:
    scale = CostScale(value=2.0, smoothing=0.9, maximum=10)
    assert Objective(1.0, True, scale).weights() == pytest.approx({"reward": 0.5, "cost": -1.0})


def test_cost_scale_is_a_capped_moving_average_of_the_ratio_of_norms() -> None:
    scale = CostScale(value=1.0, smoothing=0.5, maximum=10)
    assert scale.updated(reward_norm=6.0, cost_norm=2.0).value == pytest.approx(2.0)
    assert scale.updated(reward_norm=1.0, cost_norm=0.0).value == pytest.approx(5.5)


def test_cost_scale_begins_at_the_first_ratio_and_follows_the_scale_of_rewards() -> None:
    scales = [CostScale(value=None, smoothing=0.9, maximum=1e9)] * 2
    for reward_norm, cost_norm in ((1.0, 4.0), (3.0, 2.0), (2.0, 9.0)):
        scales = [scale.updated(factor * reward_norm, cost_norm) for scale, factor in zip(scales, (1, 10), strict=True)]
        small, large = (scale.value for scale in scales)
        assert large == pytest.approx(10 * small)
    assert small == pytest.approx(0.9 * (0.9 * 0.25 + 0.1 * 1.5) + 0.1 * 2 / 9)


def test_before_the_first_ratio_the_cost_is_not_scaled() -> None:
    constraint = Constraint.from_settings(PIDSettings(kp=0.1, ki=0, kd=0, cost_limit=25, reward_scale_invariance=True))
    constraint.observe([35.0])
    assert constraint.objective().weights() == pytest.approx({"reward": 0.5, "cost": -0.5})
    assert "cost_scale" not in constraint.terms()


def test_the_multiplier_follows_the_episodes_of_the_iteration() -> None:
    constraint = Constraint.from_settings(PIDSettings(kp=0.1, ki=0, kd=0, cost_limit=25))
    constraint.observe([30.0, 40.0])
    assert constraint.controller.multiplier == pytest.approx(1.0)
    constraint.observe([])
    assert constraint.controller.multiplier == pytest.approx(1.0), "no episode ended: nothing was measured"


def test_a_window_averages_past_episodes() -> None:
    constraint = Constraint.from_settings(PIDSettings(kp=1, ki=0, kd=0, cost_limit=0, window=4))
    constraint.observe([10.0, 10.0])
    constraint.observe([30.0, 30.0])
    assert constraint.measured_cost == 20.0
    constraint.observe([30.0, 30.0])
    assert constraint.measured_cost == 30.0


def test_no_constraint_never_weighs_the_cost() -> None:
    constraint = Constraint.from_settings(NoConstraint())
    constraint.observe([1000.0])
    assert constraint.objective().weights()["cost"] == 0


def test_a_trust_region_s_constraint_gives_the_excess_cost_of_a_step() -> None:
    """In the units of a mean over steps: 5 above the limit in episodes of 100 steps."""
    constraint = Constraint.from_settings(TrustRegionSettings(cost_limit=25))
    assert constraint.objective().excess_cost is None, "no episode has ended: nothing is known"
    constraint.observe([20.0, 40.0], [50, 150])
    assert constraint.objective().excess_cost == pytest.approx(0.05)
    assert constraint.objective().weights() == {"reward": 1.0, "cost": 0.0}
    assert constraint.terms() == {"constraint_cost": 30.0, "constraint_margin": 0.0}
    constraint.observe([], [])
    assert constraint.objective().excess_cost == pytest.approx(0.05)


def test_a_multiplier_s_constraint_has_no_excess_cost() -> None:
    constraint = Constraint.from_settings(PIDSettings())
    constraint.observe([30.0], [100])
    assert constraint.objective().excess_cost is None


def test_the_margin_sums_the_excess_cost_and_never_loosens_the_limit() -> None:
    constraint = Constraint.from_settings(TrustRegionSettings(cost_limit=25, margin_learning_rate=0.1))
    constraint.observe([35.0], [100])
    assert constraint.terms()["constraint_margin"] == pytest.approx(1.0)
    assert constraint.objective().excess_cost == pytest.approx(0.11)
    constraint.observe([5.0], [100])
    assert constraint.terms()["constraint_margin"] == 0
    assert constraint.objective().excess_cost == pytest.approx(-0.2)


@pytest.mark.parametrize(
    "settings",
    [
        PIDSettings(window=3, reward_scale_invariance=True, d_delay=2),
        LagrangianSettings(),
        TrustRegionSettings(window=2, margin_learning_rate=0.1),
    ],
)
def test_a_loaded_constraint_continues_exactly(
    settings: PIDSettings | LagrangianSettings | TrustRegionSettings,
) -> None:
    first, second = Constraint.from_settings(settings), Constraint.from_settings(settings)
    first.observe([50.0, 60.0], [100, 100])
    second.load(first.state())
    first.observe([10.0], [90])
    second.observe([10.0], [90])
    assert second.objective() == first.objective()
    assert second.state() == first.state()


def test_a_loaded_constraint_keeps_its_own_settings() -> None:
    donor = Constraint.from_settings(PIDSettings(kp=10, window=3, reward_scale_invariance=True, integral_max=50))
    donor.observe([90.0, 95.0, 100.0], [100] * 3)
    assert donor.cost_scale is not None
    donor.cost_scale = CostScale(2.0, donor.cost_scale.smoothing, donor.cost_scale.maximum)
    own = Constraint.from_settings(
        PIDSettings(
            window=5,
            reward_scale_invariance=True,
            scale_smoothing=0.5,
            scale_max=4,
            integral_max=20,
            multiplier_max=7,
        )
    )
    own.observe([1.0, 2.0], [100, 100])
    own.load(donor.state())
    assert own.cost_scale == CostScale(2.0, 0.5, 4.0)
    assert own.window is not None
    assert (list(own.window), own.window.maxlen) == ([90.0, 95.0, 100.0], 5), "what it had measured is gone"
    assert own.controller.multiplier == 7
    assert own.controller.integral == 20


def test_a_loaded_lagrangian_keeps_its_own_cap() -> None:
    donor = Constraint.from_settings(LagrangianSettings(initial_multiplier=9))
    own = Constraint.from_settings(LagrangianSettings(multiplier_max=5))
    own.load(donor.state())
    assert own.controller.multiplier == 5


class Constant:
    """A controller that always answers the same."""

    def __init__(self, multiplier: float) -> None:
        self.multiplier = multiplier

    def update(self, cost: float) -> float:
        return self.multiplier

    def terms(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, float]:
        return {}

    def load(self, state: dict[str, float]) -> None:
        pass


@pytest.mark.parametrize("multiplier", [-1.0, float("nan"), float("inf"), None])
def test_a_multiplier_that_cannot_weigh_a_cost_stops_training(multiplier: float) -> None:
    constraint = Constraint(Constant(multiplier), cost_limit=25.0)
    constraint.observe([30.0], [100])
    said = f"cost of 30: multiplier: expected a finite number of at least 0, got {multiplier}"
    with pytest.raises(TrainingStopped, match=said):
        constraint.objective()
