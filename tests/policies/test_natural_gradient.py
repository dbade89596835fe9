from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_modules import BOX, DISCRETE, make_acting_batch, make_context, make_module, mean_kl, policy_vector, surrogate

from quadriga.policies import cpo, distributions, trpo
from quadriga.policies.experiment import CPOSettings, TRPOSettings
from quadriga.policies.fisher import AutogradFisher
from quadriga.policies.gradients import Autograd
from quadriga.policies.natural_gradient import TrustRegion, conjugate_gradient

SPACES = pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["gaussian", "categorical"])


def dense(region: TrustRegion, size: int) -> np.ndarray:
    """`H`, column by column."""
    return np.stack([region.product(column) for column in np.eye(size)], 1)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 12))
def test_conjugate_gradient_solves_in_as_many_steps_as_there_are_dimensions(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((size, size))
    matrix, b = root @ root.T + np.eye(size), rng.standard_normal(size)
    x, residual = conjugate_gradient(lambda v: matrix @ v, b, 2 * size)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(residual, b - matrix @ x, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), iterations=st.integers(1, 6))
def test_conjugate_gradient_that_stops_early_knows_its_own_curvature(seed: int, iterations: int) -> None:
    """What scales a step: `x^T H x` from the residual, without another product."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((20, 20))
    matrix, b = root @ root.T + 0.1 * np.eye(20), rng.standard_normal(20)
    x, residual = conjugate_gradient(lambda v: matrix @ v, b, iterations)
    assert x @ (b - residual) == pytest.approx(x @ matrix @ x, rel=1e-8)


def test_conjugate_gradient_of_nothing_is_nothing() -> None:
    x, residual = conjugate_gradient(lambda v: v, np.zeros(3), 10)
    assert not x.any() and not residual.any()


@SPACES
def test_the_gradient_is_that_of_the_surrogate(action_space: gym.Space) -> None:
    module = make_module(action_space, "tanh")
    batch, context = make_acting_batch(module), make_context(module)
    region = TrustRegion(batch, context, TRPOSettings())
    tensors = batch.tensors()
    inputs = module.distribution_inputs(tensors.observations)
    log_ratio = distributions.log_probs(inputs, module.log_std, tensors.actions) - tensors.log_probs
    gradients = torch.autograd.grad((log_ratio.exp() * tensors.cost_advantages).mean(), module.policy_parameters())
    expected = torch.cat([gradient.reshape(-1) for gradient in gradients]).numpy()
    np.testing.assert_allclose(region.gradient(batch.cost_advantages), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
@SPACES
def test_the_trpo_step_is_that_of_a_dense_solution(
    action_space: gym.Space, dtype: torch.dtype, tolerance: float
) -> None:
    module = make_module(action_space, "tanh").to(dtype)
    batch, context = make_acting_batch(module), make_context(module)
    before, delta = policy_vector(context).copy(), 0.003
    region = TrustRegion(batch, context, TRPOSettings())
    matrix, g = dense(region, len(before)), region.gradient(batch.advantages)
    v = np.linalg.solve(matrix, g)
    expected = np.sqrt(2 * delta / (v @ matrix @ v)) * v
    metrics = trpo.update(batch, context, TRPOSettings(target_kl=delta, cg_iterations=100))
    assert metrics["step_accepted"] == 1
    shortened = 0.8 ** (metrics["line_search_steps"] - 1)
    error = np.linalg.norm(policy_vector(context) - before - shortened * expected)
    assert error < tolerance * np.linalg.norm(expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    gaussian=st.booleans(),
    delta=st.floats(1e-4, 1.0),
    damping=st.floats(0, 1),
    cg_iterations=st.integers(1, 20),
)
def test_a_step_never_exceeds_the_kl_and_never_worsens_the_surrogate(
    seed: int, gaussian: bool, delta: float, damping: float, cg_iterations: int
) -> None:
    module = make_module(BOX if gaussian else DISCRETE, "tanh", seed)
    batch, context = make_acting_batch(module, seed=seed), make_context(module)
    old_log_std = None if module.log_std is None else module.log_std.detach().clone()
    before = surrogate(module, batch, batch.advantages)
    metrics = trpo.update(
        batch, context, TRPOSettings(target_kl=delta, damping=damping, cg_iterations=cg_iterations, critic_epochs=1)
    )
    kl = mean_kl(module, batch, old_log_std)
    assert kl <= delta * (1 + 1e-4) + 1e-7
    assert metrics["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-6)
    gained = surrogate(module, batch, batch.advantages) - before
    assert metrics["surrogate_improvement"] == pytest.approx(gained, rel=1e-3, abs=1e-5)
    assert metrics["surrogate_improvement"] > 0 or not metrics["step_accepted"]


@pytest.mark.parametrize("advantage", [0.0, float("nan")])
def test_where_no_step_helps_the_old_policy_stays_to_the_bit(advantage: float) -> None:
    module = make_module(BOX, "tanh")
    batch, context = make_acting_batch(module), make_context(module)
    before = policy_vector(context).copy()
    metrics = trpo.update(replace(batch, advantages=np.full_like(batch.advantages, advantage)), context, TRPOSettings())
    assert metrics["step_accepted"] == 0
    assert metrics["kl"] == 0
    np.testing.assert_array_equal(policy_vector(context), before)


@pytest.mark.parametrize(
    ("update", "rule"), [(trpo.update, TRPOSettings()), (cpo.update, CPOSettings())], ids=["trpo", "cpo"]
)
def test_a_gradient_that_is_nan_shows_in_the_residual(update: Any, rule: Any) -> None:
    """The old policy stays, and its KL is 0: nothing else would tell."""
    module = make_module(BOX, "tanh")
    batch, context = make_acting_batch(module), make_context(module, excess_cost=0.003)
    metrics = update(replace(batch, log_probs=np.full_like(batch.log_probs, np.nan)), context, rule)
    assert metrics["kl"] == 0
    assert math.isnan(metrics["cg_residual"])


@pytest.mark.parametrize(
    ("update", "rule"), [(trpo.update, TRPOSettings()), (cpo.update, CPOSettings())], ids=["trpo", "cpo"]
)
@SPACES
def test_any_other_network_takes_the_same_step(action_space: gym.Space, update: Any, rule: Any) -> None:
    """By autograd on tensors, which is what a policy that is no plain perceptron gets."""
    vectors = []
    for by_autograd in (False, True):
        module = make_module(action_space, "tanh").double()
        batch, context = make_acting_batch(module), make_context(module, excess_cost=0.003)
        if by_autograd:
            batch, context.gradients, context.fisher = batch.tensors(), Autograd(module), AutogradFisher(module)
        metrics = update(batch, context, rule)
        assert metrics["step_accepted"] == 1
        vectors.append(policy_vector(context).copy())
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("update", "rule"), [(trpo.update, TRPOSettings()), (cpo.update, CPOSettings())], ids=["trpo", "cpo"]
)
@SPACES
def test_a_step_on_a_gpu_equals_that_on_a_cpu(action_space: gym.Space, update: Any, rule: Any) -> None:
    vectors = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        module = make_module(action_space, "tanh").double()
        batch = make_acting_batch(module).to(device)
        context = make_context(module.to(device), excess_cost=0.003)
        update(batch, context, rule)
        vectors.append(policy_vector(context).copy())
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-6, atol=1e-8)


def test_a_fraction_of_the_rows_enters_the_curvature_and_all_of_them_the_gradient() -> None:
    module = make_module(BOX, "tanh")
    batch, context = make_acting_batch(module), make_context(module)
    direction = np.random.default_rng(0).standard_normal(len(policy_vector(context)))
    third = TrustRegion(batch, context, TRPOSettings(fisher_fraction=1 / 3))
    product, gradient = third.product(direction), third.gradient(batch.advantages)
    drawn = np.sort(np.random.default_rng(0).permutation(len(batch))[: len(batch) // 3])
    part = TrustRegion(batch.take(drawn), context, TRPOSettings())
    np.testing.assert_allclose(product, part.product(direction), rtol=1e-6)
    whole = TrustRegion(batch, context, TRPOSettings())
    np.testing.assert_array_equal(gradient, whole.gradient(batch.advantages))


def test_the_critics_are_fitted_as_the_policy_steps() -> None:
    module = make_module(BOX, "tanh")
    batch, context = make_acting_batch(module), make_context(module)
    losses = [trpo.update(batch, context, TRPOSettings(critic_minibatch_size=32)) for _ in range(5)]
    for stream in ("reward", "cost"):
        assert losses[-1][f"{stream}_value_loss"] < 0.9 * losses[0][f"{stream}_value_loss"]


def test_conjugate_gradient_stops_where_the_matrix_has_no_curvature() -> None:
    x, residual = conjugate_gradient(lambda v: v * [1.0, 0.0], np.array([2.0, 3.0]) * [0.0, 1.0], 10)
    assert not x.any()
    np.testing.assert_array_equal(residual, [0.0, 3.0])
