from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_modules import BOX, DISCRETE, OBS_DIM, ROWS, make_module

from quadriga.policies import distributions, fisher
from quadriga.policies.fisher import AutogradFisher, WrittenOutFisher
from quadriga.policies.module import ActorCriticModule

SPACES = pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["gaussian", "categorical"])


def double_module(action_space: gym.Space, activation: str = "tanh") -> ActorCriticModule:
    return make_module(action_space, activation).double()


def observations(rows: int = ROWS, dtype: type = np.float64) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((rows, OBS_DIM)).astype(dtype)


def hessian_of_the_kl(module: ActorCriticModule, rows: np.ndarray) -> np.ndarray:
    """d2/dtheta2 of sum_rows KL(pi_old || pi_theta) at theta_old, dense, as torch differentiates it."""
    parameters = module.policy_parameters()
    sizes = [parameter.numel() for parameter in parameters]
    layers = len(module.policy.weights)
    old = module.distribution_inputs(torch.from_numpy(rows)).detach()
    old_log_std = None if module.log_std is None else module.log_std.detach().clone()

    def kl(vector: torch.Tensor) -> torch.Tensor:
        parts = [p.view_as(q) for p, q in zip(vector.split(sizes), parameters, strict=True)]
        x = torch.from_numpy(rows)
        for layer in range(layers):
            x = x @ parts[layer] + parts[layers + layer]
            if layer < layers - 1:
                x = module.policy.activation(x)
        log_std = None if old_log_std is None else parts[-1]
        return distributions.kl_divergence(old, old_log_std, x, log_std).sum()

    theta = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    return torch.autograd.functional.hessian(kl, theta).numpy()


@pytest.mark.parametrize("kind", [WrittenOutFisher, AutogradFisher])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@SPACES
def test_products_are_the_hessian_of_the_kl(action_space: gym.Space, activation: str, kind: type) -> None:
    module, rows = double_module(action_space, activation), observations(40)
    hessian = hessian_of_the_kl(module, rows)
    curvature = kind(module)
    curvature.linearize(rows)
    for vector in np.random.default_rng(0).standard_normal((3, len(hessian))):
        np.testing.assert_allclose(curvature.product(vector), hessian @ vector, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block_rows", [1, 10, ROWS, 1000])
@SPACES
def test_blocks_do_not_change_the_product(action_space: gym.Space, block_rows: int) -> None:
    module = double_module(action_space)
    whole, blocks = AutogradFisher(module), WrittenOutFisher(module, block_rows)
    whole.linearize(observations())
    blocks.linearize(observations())
    vector = np.random.default_rng(1).standard_normal(sum(p.numel() for p in module.policy_parameters()))
    np.testing.assert_allclose(blocks.product(vector), whole.product(vector), rtol=1e-9, atol=1e-9)


@SPACES
def test_products_in_float32_keep_six_digits(action_space: gym.Space) -> None:
    double, single = double_module(action_space), make_module(action_space, "tanh")
    vector = np.random.default_rng(1).standard_normal(sum(p.numel() for p in single.policy_parameters()))
    products = []
    for module, dtype in ((double, np.float64), (single, np.float32)):
        curvature = WrittenOutFisher(module)
        curvature.linearize(observations(dtype=dtype))
        products.append(curvature.product(vector))
    assert np.linalg.norm(products[1] - products[0]) < 2e-6 * np.linalg.norm(products[0])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gaussian=st.booleans())
def test_the_matrix_is_symmetric_and_positive_semidefinite(seed: int, gaussian: bool) -> None:
    module = double_module(BOX if gaussian else DISCRETE)
    curvature = WrittenOutFisher(module)
    curvature.linearize(observations())
    u, v = np.random.default_rng(seed).standard_normal((2, sum(p.numel() for p in module.policy_parameters())))
    image = curvature.product(v)
    assert u @ image == pytest.approx(v @ curvature.product(u), rel=1e-9, abs=1e-6)
    assert v @ image >= 0


@pytest.mark.parametrize("kind", [WrittenOutFisher, AutogradFisher])
@SPACES
def test_no_rows_have_no_curvature(action_space: gym.Space, kind: type) -> None:
    module = make_module(action_space, "tanh")
    curvature = kind(module)
    curvature.linearize(observations(0, np.float32))
    assert not curvature.product(np.ones(sum(p.numel() for p in module.policy_parameters()))).any()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@SPACES
def test_written_out_products_are_the_same_in_torch(action_space: gym.Space, activation: str) -> None:
    """On a GPU the same lines run on tensors."""
    module = double_module(action_space, activation)
    in_numpy, in_torch = WrittenOutFisher(module), WrittenOutFisher(module)
    in_torch.xp, in_torch.block_rows = torch, None
    for name in ("weights", "biases"):
        setattr(in_torch, name, [torch.from_numpy(array) for array in getattr(in_torch, name)])
    in_torch.log_std = None if module.log_std is None else module.log_std.detach()
    in_numpy.linearize(observations())
    in_torch.linearize(torch.from_numpy(observations()))
    vector = np.random.default_rng(1).standard_normal(sum(p.numel() for p in module.policy_parameters()))
    np.testing.assert_allclose(in_torch.product(vector), in_numpy.product(vector), rtol=1e-10, atol=1e-10)


@pytest.mark.gpu
@SPACES
def test_products_on_a_gpu_equal_those_on_a_cpu(action_space: gym.Space) -> None:
    products = []
    for device in ("cpu", "cuda"):
        module = double_module(action_space).to(device)
        rows = observations() if device == "cpu" else torch.from_numpy(observations()).to(device)
        for curvature in (fisher.fisher_of(module), AutogradFisher(module)):
            curvature.linearize(rows)
            vector = np.random.default_rng(1).standard_normal(sum(p.numel() for p in module.policy_parameters()))
            products.append(curvature.product(vector))
    for product in products[1:]:
        np.testing.assert_allclose(product, products[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [WrittenOutFisher, AutogradFisher])
def test_a_deviation_that_is_not_learned_has_no_part_in_the_product(kind: type) -> None:
    learned, annealed = (make_module(BOX, "tanh", final_log_std=final).double() for final in (None, -2.0))
    vector = np.random.default_rng(2).standard_normal(sum(p.numel() for p in annealed.policy_parameters()))
    products = []
    for module, direction in ((learned, np.append(vector, np.ones(3))), (annealed, vector)):
        curvature = kind(module)
        curvature.linearize(observations())
        products.append(curvature.product(direction))
    np.testing.assert_allclose(products[1], products[0][:-3], rtol=1e-12)
    assert len(products[1]) == len(vector)
