"""CPO's closed form against its dual, the paper's theorem and a numerical solver; then the update itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize
from small_modules import BOX, DISCRETE, make_acting_batch, make_context, make_module, mean_kl, policy_vector, surrogate

from quadriga.policies import cpo, trpo
from quadriga.policies.cpo import Case, Solution
from quadriga.policies.experiment import CPOSettings, TRPOSettings

SPACES = pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["gaussian", "categorical"])


@dataclass
class Problem:
    """max g^T x s.t. c + b^T x <= 0, 1/2 x^T H x <= delta."""

    g: np.ndarray
    b: np.ndarray
    hessian: np.ndarray
    c: float
    delta: float

    def __post_init__(self) -> None:
        self.v, self.w = np.linalg.solve(self.hessian, self.g), np.linalg.solve(self.hessian, self.b)
        self.q, self.r, self.s = self.g @ self.v, self.g @ self.w, self.b @ self.w

    def solve(self) -> tuple[Solution, np.ndarray]:
        solution = cpo.solve(self.q, self.r, self.s, self.c, self.delta)
        return solution, solution.along_g * self.v + solution.along_b * self.w

    def dual(self, lam: float, nu: float) -> float:
        """The paper's equation 12 for a maximization: no feasible x is worth more, whatever lam > 0 and nu >= 0."""
        return (self.q - 2 * nu * self.r + nu**2 * self.s) / (2 * lam) - nu * self.c + lam * self.delta

    def numerically(self, recovery: bool) -> np.ndarray:
        """By sequential quadratic programming, in coordinates where the trust region is the unit ball."""
        to_x = math.sqrt(2 * self.delta) * np.linalg.inv(np.linalg.cholesky(self.hessian)).T
        up, cost = self.g @ to_x, self.b @ to_x
        objective = cost / np.linalg.norm(cost) if recovery else -up / np.linalg.norm(up)
        scale = max(abs(self.c), np.linalg.norm(cost))
        half_space = {
            "type": "ineq",
            "fun": lambda y: -(self.c + cost @ y) / scale,
            "jac": lambda y: -cost / scale,
        }
        ball = {"type": "ineq", "fun": lambda y: 1 - y @ y, "jac": lambda y: -2 * y}
        found = optimize.minimize(
            lambda y: objective @ y,
            np.zeros(len(self.g)),
            jac=lambda y: objective,
            constraints=[ball] if recovery else [ball, half_space],
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        assert found.status in (0, 8), found.message  # 8: no progress in the last digits
        return to_x @ found.x


@st.composite
def problems(draw: st.DrawFn, cases: str = "all") -> Problem:
    """Random in every dimension; c relative to how far the cost can be moved, so that every case is frequent."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(2, 6))
    root = rng.standard_normal((size, size))
    hessian = root @ root.T + draw(st.sampled_from([0.01, 0.1, 1.0])) * np.eye(size)
    g, b = rng.standard_normal((2, size)) * [[draw(st.sampled_from([0.01, 1.0]))], [draw(st.sampled_from([0.01, 1.0]))]]
    delta = draw(st.sampled_from([1e-3, 1e-2, 0.1]))
    reach = math.sqrt(2 * delta * (b @ np.linalg.solve(hessian, b)))
    low, high = {"all": (-1.5, 1.5), "feasible": (-1.5, 0.99), "recovery": (1.01, 3.0)}[cases]
    return Problem(g, b, hessian, draw(st.floats(low, high)) * reach, delta)


def theorem_2(p: Problem) -> tuple[float, float]:
    """lambda* and nu* as the paper finds them: the better of the dual's two pieces, each over its interval.

    The paper minimizes; its r is the negative of ours. Its trust region is x^T H x <= delta.
    """
    q, r, s, c, delta = p.q, -p.r, p.s, p.c, 2 * p.delta
    a_numerator, a_denominator = q - r**2 / s, delta - c**2 / s

    def f_a(lam: float) -> float:
        return (r**2 / s - q) / (2 * lam) + lam / 2 * (c**2 / s - delta) - r * c / s

    def f_b(lam: float) -> float:
        return -(q / lam + lam * delta) / 2

    edge = r / c
    in_a, in_b = ((edge, math.inf), (0.0, edge)) if c > 0 else ((0.0, edge), (edge, math.inf))
    candidates = []
    for f, best, (low, high) in (
        (f_a, math.sqrt(a_numerator / a_denominator), in_a),
        (f_b, math.sqrt(q / delta), in_b),
    ):
        low = max(low, 1e-12)
        if high > low:
            lam = min(max(best, low), high)
            candidates.append((f(lam), lam))
    lam = max(candidates)[1]
    return lam, max(0.0, (lam * c - r) / s)


@settings(max_examples=1500, deadline=None)
@given(problems())
def test_the_solution_is_optimal_or_recovers_as_fast_as_can_be(p: Problem) -> None:
    """Optimal because a dual point certifies it: nothing feasible is worth more than the dual's value."""
    solution, x = p.solve()
    reach = math.sqrt(2 * p.delta * p.s)
    assume(abs(p.c / reach - 1) > 1e-6)  # lambda* grows without bound towards it
    assert 0.5 * x @ p.hessian @ x <= p.delta * (1 + 1e-9)
    if p.c > reach:
        assert solution.case is Case.RECOVERY
        assert p.b @ x == pytest.approx(-reach, rel=1e-9)  # Cauchy-Schwarz: no step in the region lowers it more
        return
    assert p.c + p.b @ x <= 1e-9 * max(reach, abs(p.c))
    assert solution.lam > 0 and solution.nu >= 0
    assert p.dual(solution.lam, solution.nu) == pytest.approx(p.g @ x, rel=1e-7, abs=1e-9)
    np.testing.assert_allclose(x, (p.v - solution.nu * p.w) / solution.lam, rtol=1e-6, atol=1e-9)


@settings(max_examples=1000, deadline=None)
@given(problems("feasible"))
def test_the_dual_variables_are_those_of_the_paper_s_theorem(p: Problem) -> None:
    solution, _ = p.solve()
    # Beyond the whole region is feasible, which is another case of the theorem; at 0 its intervals divide by c.
    assume(1e-6 < abs(p.c) / math.sqrt(2 * p.delta * p.s) < 0.98)
    lam, nu = theorem_2(p)
    assert solution.lam == pytest.approx(lam, rel=1e-6)
    assert solution.nu == pytest.approx(nu, rel=1e-6, abs=1e-9)


@settings(max_examples=400, deadline=None)
@given(problems("feasible"))
def test_the_step_is_that_of_a_numerical_solver(p: Problem) -> None:
    _, x = p.solve()
    numerical = p.numerically(recovery=False)
    assert p.g @ x == pytest.approx(p.g @ numerical, rel=1e-5, abs=1e-6 * math.sqrt(2 * p.delta * p.q))


@pytest.mark.slow
@settings(max_examples=4000, deadline=None)
@given(problems())
def test_the_step_is_that_of_a_numerical_solver_in_thousands_of_problems_of_every_case(p: Problem) -> None:
    solution, x = p.solve()
    reach = math.sqrt(2 * p.delta * p.s)
    assume(abs(p.c / reach - 1) > 0.01)
    recovery = solution.case is Case.RECOVERY
    objective, scale = (p.b, reach) if recovery else (p.g, math.sqrt(2 * p.delta * p.q))
    numerical = p.numerically(recovery)
    assert objective @ x == pytest.approx(objective @ numerical, rel=1e-5, abs=1e-5 * scale)


@settings(max_examples=100, deadline=None)
@given(problems("recovery"))
def test_the_recovery_step_is_that_of_a_numerical_solver(p: Problem) -> None:
    solution, x = p.solve()
    assert solution.case is Case.RECOVERY
    assert p.b @ x == pytest.approx(p.b @ p.numerically(recovery=True), rel=1e-5)
    assert p.c + p.b @ x > 0


@pytest.mark.parametrize(
    ("share", "case"),
    [(-1.2, Case.FEASIBLE), (-0.5, Case.PARTLY_FEASIBLE), (0.0, Case.VIOLATED), (0.5, Case.VIOLATED), (1.2, 0)],
)
def test_cases_are_told_apart_by_how_far_the_cost_can_move(share: float, case: Case) -> None:
    q, r, s, delta = 2.0, 0.3, 0.5, 0.01
    assert cpo.solve(q, r, s, share * math.sqrt(2 * delta * s), delta).case == case


def test_a_slack_constraint_leaves_the_step_of_trpo() -> None:
    solution = cpo.solve(2.0, -0.3, 0.5, -0.01, 0.01)
    assert solution.case is Case.PARTLY_FEASIBLE
    assert (solution.nu, solution.along_b) == (0.0, 0.0)
    assert solution.along_g == pytest.approx(math.sqrt(2 * 0.01 / 2.0))


@given(st.floats(-2, 2), st.just(0.0) | st.floats(1e-12, 5))
def test_without_a_cost_gradient_the_step_is_that_of_trpo(c: float, q: float) -> None:
    solution = cpo.solve(q, 0.0, 0.0, c, 0.01)
    assert solution.case is Case.NO_COST_GRADIENT
    assert solution.along_b == 0
    assert 0.5 * solution.along_g**2 * q == pytest.approx(0.01 if q else 0.0)


@given(st.floats(0.01, 0.99))
def test_without_a_reward_gradient_the_step_is_the_shortest_to_the_limit(share: float) -> None:
    s, delta = 0.5, 0.01
    c = share * math.sqrt(2 * delta * s)
    solution = cpo.solve(0.0, 0.0, s, c, delta)
    assert solution.along_g == 0
    assert c + solution.along_b * s == pytest.approx(0, abs=1e-12)


def test_without_a_reward_gradient_a_policy_within_its_limit_stays() -> None:
    solution = cpo.solve(0.0, 0.0, 0.5, -0.01, 0.01)
    assert (solution.along_g, solution.along_b) == (0.0, 0.0)


@settings(max_examples=300, deadline=None)
@given(st.floats(0.1, 10), st.floats(-0.99, 0.99), st.floats(0.01, 3))
def test_where_reward_and_cost_pull_the_same_way_the_step_ends_at_the_limit(
    ratio: float, share: float, s: float
) -> None:
    """g = ratio b: lambda* is 0 there, and the paper's formula divides by it."""
    delta = 0.01
    c = share * math.sqrt(2 * delta * s)
    solution = cpo.solve(ratio**2 * s, ratio * s, s, c, delta)
    b_x = solution.along_g * ratio * s + solution.along_b * s
    assert c + b_x == pytest.approx(0, abs=1e-9)
    length = solution.along_g**2 * ratio**2 * s + 2 * solution.along_g * solution.along_b * ratio * s
    assert 0.5 * (length + solution.along_b**2 * s) <= delta * (1 + 1e-6)


@given(st.floats(0, 10), st.floats(-1, 1), st.floats(0, 10), st.floats(-10, 10), st.floats(1e-6, 1))
def test_every_input_has_a_finite_step(q: float, cosine: float, s: float, c: float, delta: float) -> None:
    solution = cpo.solve(q, cosine * math.sqrt(q * s), s, c, delta)
    assert all(math.isfinite(value) for value in (solution.lam, solution.nu, solution.along_g, solution.along_b))


def test_an_unknown_cost_leaves_the_step_of_trpo() -> None:
    solution = cpo.solve(2.0, 0.3, 0.5, -math.inf, 0.01)
    assert solution.case is Case.FEASIBLE
    assert (solution.nu, solution.along_b) == (0.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), gaussian=st.booleans(), c=st.floats(-0.05, 0.05), delta=st.sampled_from([1e-3, 1e-2])
)
def test_an_update_keeps_the_kl_and_never_raises_the_cost_beyond_its_limit(
    seed: int, gaussian: bool, c: float, delta: float
) -> None:
    module = make_module(BOX if gaussian else DISCRETE, "tanh", seed)
    batch, context = make_acting_batch(module, seed=seed), make_context(module, excess_cost=c)
    old_log_std = None if module.log_std is None else module.log_std.detach().clone()
    before = surrogate(module, batch, batch.cost_advantages)
    metrics = cpo.update(batch, context, CPOSettings(target_kl=delta, critic_epochs=1))
    change = surrogate(module, batch, batch.cost_advantages) - before
    assert metrics["cost_surrogate_change"] == pytest.approx(change, rel=1e-3, abs=1e-6)
    assert change <= max(0.0, -c) + 1e-6
    assert mean_kl(module, batch, old_log_std) <= delta * (1 + 1e-4) + 1e-7
    if metrics["step_accepted"] and metrics["cpo_case"] > Case.VIOLATED:
        assert metrics["surrogate_improvement"] > 0


@SPACES
def test_a_small_active_step_ends_at_the_limit(action_space: gym.Space) -> None:
    """Where the linear model is good, the cost's surrogate changes by just what is needed."""
    module = make_module(action_space, "tanh").double()
    batch = make_acting_batch(module)
    batch.cost_advantages = 0.1 * batch.advantages + 0.1 * batch.cost_advantages  # what pays, costs
    context = make_context(module, excess_cost=-1e-4)
    metrics = cpo.update(batch, context, CPOSettings(target_kl=1e-5, cg_iterations=100))
    assert metrics["step_accepted"] == 1
    assert metrics["cpo_nu"] > 0
    shortened = CPOSettings().line_search_decay ** (metrics["line_search_steps"] - 1)
    assert metrics["cost_surrogate_change"] == pytest.approx(1e-4 * shortened, rel=0.05)


@SPACES
def test_recovery_lowers_the_cost_whatever_the_reward_does(action_space: gym.Space) -> None:
    module = make_module(action_space, "tanh")
    batch, context = make_acting_batch(module), make_context(module, excess_cost=10.0)
    batch.cost_advantages = batch.advantages.copy()
    metrics = cpo.update(batch, context, CPOSettings())
    assert metrics["cpo_case"] == Case.RECOVERY
    assert metrics["cost_surrogate_change"] < 0
    assert metrics["surrogate_improvement"] < 0


@pytest.mark.parametrize("excess", [None, -1e9])
def test_far_below_its_limit_cpo_takes_the_step_of_trpo(excess: float | None) -> None:
    vectors = []
    for update, rule in ((trpo.update, TRPOSettings()), (cpo.update, CPOSettings())):
        module = make_module(BOX, "tanh")
        batch, context = make_acting_batch(module), make_context(module, excess_cost=excess)
        metrics = update(batch, context, rule)
        vectors.append(policy_vector(context).copy())
    assert metrics["cpo_case"] == Case.FEASIBLE
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-6, atol=1e-7)


def test_costs_that_never_vary_leave_the_reward_s_step() -> None:
    module = make_module(BOX, "tanh")
    batch, context = make_acting_batch(module), make_context(module, excess_cost=0.01)
    batch.cost_advantages = np.zeros_like(batch.advantages)
    metrics = cpo.update(batch, context, CPOSettings())
    assert metrics["cpo_case"] == Case.NO_COST_GRADIENT
    assert metrics["step_accepted"] == 1
    assert metrics["surrogate_improvement"] > 0
    assert torch.isfinite(context.policy.flat.vector).all()
