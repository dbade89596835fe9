from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from quadriga.policies.controllers import Controller, LagrangianController, PIDController

costs = st.lists(st.floats(0, 500), min_size=1, max_size=60)
gains = st.floats(0, 5)


def algorithm_2(costs: list[float], d: float, k_p: float, k_i: float, k_d: float) -> list[float]:
    """Stooke, Achiam, Abbeel 2020, Algorithm 2, line by line."""
    integral, j_c_prev, multipliers = 0.0, 0.0, []
    for j_c in costs:
        delta = j_c - d
        derivative = max(0.0, j_c - j_c_prev)
        integral = max(0.0, integral + delta)
        multipliers.append(max(0.0, k_p * delta + k_i * integral + k_d * derivative))
        j_c_prev = j_c
    return multipliers


@given(costs, st.floats(0, 100), gains, gains, gains)
def test_pid_without_smoothing_is_algorithm_2(costs: list[float], d: float, kp: float, ki: float, kd: float) -> None:
    controller = PIDController(cost_limit=d, kp=kp, ki=ki, kd=kd)
    assert [controller.update(cost) for cost in costs] == pytest.approx(algorithm_2(costs, d, kp, ki, kd), abs=1e-9)


@given(costs, gains, gains, gains, st.floats(0, 0.99), st.integers(1, 12), st.floats(0.1, 50))
def test_multiplier_stays_between_zero_and_its_cap(
    costs: list[float], kp: float, ki: float, kd: float, smoothing: float, delay: int, cap: float
) -> None:
    controller = PIDController(
        cost_limit=25,
        kp=kp,
        ki=ki,
        kd=kd,
        p_smoothing=smoothing,
        d_smoothing=smoothing,
        delay=delay,
        multiplier_max=cap,
    )
    assert all(0 <= controller.update(cost) <= cap for cost in costs)


def test_integral_control_alone_sums_the_excess_cost() -> None:
    controller = PIDController(cost_limit=25, kp=0, ki=0.1, kd=0)
    assert [controller.update(cost) for cost in (35, 45, 25, 15)] == pytest.approx([1.0, 3.0, 3.0, 2.0])


def test_integral_does_not_wind_up_beyond_its_cap() -> None:
    controller = PIDController(cost_limit=25, kp=0, ki=1.0, kd=0, integral_max=50)
    for _ in range(1000):
        controller.update(125)
    assert controller.multiplier == 50
    assert controller.update(0) == 25, "one iteration below the limit takes effect at once"


def test_derivative_looks_back_by_its_delay_and_ignores_falling_costs() -> None:
    controller = PIDController(cost_limit=0, kp=0, ki=0, kd=1.0, delay=2)
    assert [controller.update(cost) for cost in (10, 30, 60, 50, 20)] == pytest.approx([10, 30, 50, 20, 0])


def test_smoothing_is_an_exponential_moving_average_from_zero() -> None:
    controller = PIDController(cost_limit=20, kp=1.0, ki=0, kd=0, p_smoothing=0.9)
    assert [controller.update(30) for _ in range(3)] == pytest.approx([1.0, 1.9, 2.71])


def test_initial_multiplier_is_held_by_the_integral() -> None:
    controller = PIDController(cost_limit=25, kp=0, ki=0.01, kd=0, initial=0.5)
    assert controller.multiplier == 0.5
    assert controller.update(25) == pytest.approx(0.5)


def test_proportional_control_damps_the_oscillation_of_integral_control() -> None:
    """The paper's section 5: on a second-order plant, integral control rings and P damps it."""

    def final_swing(kp: float) -> float:
        controller = PIDController(cost_limit=25, kp=kp, ki=0.02, kd=0)
        cost, history = 50.0, []
        for _ in range(400):
            cost = max(0.0, cost + 2.0 - controller.update(cost))  # the cost falls as fast as the multiplier says
            history.append(cost)
        return max(history[-100:]) - min(history[-100:])

    assert final_swing(0.0) > 5.0
    assert final_swing(0.5) < 0.1


def on_the_plant(controller: PIDController, first: float, drift: float, steps: int) -> tuple[list[float], list[float]]:
    """The paper's view: the cost rises by `drift` and falls by the multiplier; excess costs and multipliers."""
    excess, excesses, multipliers = first, [], []
    for _ in range(steps):
        excesses.append(excess)
        multipliers.append(controller.update(controller.cost_limit + excess))
        excess += drift - multipliers[-1]
    return excesses, multipliers


@given(st.floats(0.001, 0.9), st.floats(0.01, 0.5), st.floats(-0.2, 0.2))
def test_pi_control_of_a_second_order_plant_is_the_closed_form(kp: float, ki: float, first: float) -> None:
    """delta'' = (2 - K_P - K_I) delta' - (1 - K_P) delta: two roots, and nothing of the limits of lambda and I."""
    drift = 10.0
    controller = PIDController(cost_limit=25, kp=kp, ki=ki, kd=0, initial=drift)
    excesses, multipliers = on_the_plant(controller, first, drift, 60)
    assume(min(multipliers) > 0)
    roots = np.roots([1, -(2 - kp - ki), 1 - kp]).astype(complex)
    assume(abs(roots[0] - roots[1]) > 1e-3)
    weights = np.linalg.solve(np.vander(roots, 2, increasing=True).T, excesses[:2])
    expected = [(weights * roots**k).sum().real for k in range(60)]
    assert excesses[1] == pytest.approx(first - (kp + ki) * first)
    np.testing.assert_allclose(excesses, expected, atol=1e-8)


@given(st.floats(0.001, 0.5), st.floats(-0.2, 0.2))
def test_the_traditional_lagrangian_is_an_undamped_oscillator(ki: float, first: float) -> None:
    """Gradient ascent on lambda, integral control alone: delta'' + (2 - K_I) delta' + delta = 0, |root| = 1."""
    controller = PIDController(cost_limit=25, kp=0, ki=ki, kd=0, initial=10.0)
    excesses, _ = on_the_plant(controller, first, 10.0, 200)
    angle = math.acos(1 - ki / 2)
    # delta_0 = first, delta_1 = (1 - K_I) first
    sine = (math.cos(angle) - (1 - ki)) * first / math.sin(angle)
    expected = [first * math.cos(angle * k) - sine * math.sin(angle * k) for k in range(200)]
    np.testing.assert_allclose(excesses, expected, atol=1e-8)


def test_derivative_control_of_a_rising_cost_is_the_closed_form() -> None:
    kp, ki, kd, drift = 0.2, 0.005, 0.1, 10.0
    controller = PIDController(cost_limit=25, kp=kp, ki=ki, kd=kd, initial=drift)
    controller.past_costs.append(24.0)  # the iteration before cost as much: D begins at 0
    excesses, _ = on_the_plant(controller, -1.0, drift, 10)
    assert all(np.diff(excesses) > 0), "D is silent where the cost falls"
    # D takes in the difference of delta, and the recurrence its second one: three roots.
    roots = np.roots([1, -(2 - kp - ki - kd), 1 - kp - 2 * kd, kd]).astype(complex)
    weights = np.linalg.solve(np.vander(roots, 3, increasing=True).T, excesses[:3])
    np.testing.assert_allclose(excesses, [(weights * roots**k).sum().real for k in range(10)], atol=1e-8)


@given(st.floats(1e-4, 1.0), st.floats(0.1, 100.0))
def test_the_lagrangian_of_a_constant_excess_rises_by_its_learning_rate(rate: float, excess: float) -> None:
    """Adam divides the mean gradient by the root of its mean square: the step is the rate, whatever the excess."""
    controller = LagrangianController(cost_limit=25, learning_rate=rate, initial=0.0)
    multipliers = [controller.update(25 + excess) for _ in range(50)]
    np.testing.assert_allclose(multipliers, rate * np.arange(1, 51), rtol=1e-6)


def test_lagrangian_is_adam_ascent_on_the_multiplier() -> None:
    controller = LagrangianController(cost_limit=25, learning_rate=0.035, initial=0.5)
    parameter = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([parameter], lr=0.035)
    for cost in [50.0, 60.0, 10.0, 26.0, 0.0, 80.0] * 5:
        parameter.grad = torch.tensor(-(cost - 25.0), dtype=torch.float64)
        adam.step()
        parameter.data.clamp_(min=0)
        assert controller.update(cost) == pytest.approx(parameter.item(), rel=1e-9)


@given(costs)
def test_lagrangian_multiplier_is_never_negative(costs: list[float]) -> None:
    controller = LagrangianController(cost_limit=25, learning_rate=0.5)
    assert all(controller.update(cost) >= 0 for cost in costs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PIDController(cost_limit=25, kp=0.1, ki=0.01, kd=0.1, p_smoothing=0.5, d_smoothing=0.5, delay=3),
        lambda: LagrangianController(cost_limit=25, learning_rate=0.05),
    ],
)
def test_a_loaded_controller_continues_exactly(make: Callable[[], Controller]) -> None:
    first, second = make(), make()
    for step in range(20):
        first.update(40 + 10 * math.sin(step))
    second.load(first.state())
    for step in range(20):
        assert second.update(step) == first.update(step)
