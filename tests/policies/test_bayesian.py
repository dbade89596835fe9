"""The Bayesian model of the dynamics: its gradients and its Hessian, and what its information gain says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quadriga.policies.bayesian import BayesianMember, BayesianMLP, InformationGain
from quadriga.policies.dynamics import LOG_STD_MIN, Bits, Gaussian, Likelihood
from quadriga.policies.dynamics_fit import DynamicsFit
from quadriga.policies.experiment import BayesianSettings

ROWS, INPUTS, DIM = 12, 5, 2


def alone(values: np.ndarray) -> np.ndarray:
    """The sum over one learner."""
    return values


def make_member(likelihood: type[Likelihood] = Gaussian, activation: str = "tanh") -> BayesianMember:
    torch.manual_seed(0)
    settings = BayesianSettings(hidden_sizes=(7,), activation=activation, initial_std=0.2, prior_std=0.7)
    member = BayesianMember([INPUTS, 7, likelihood.outputs(DIM)], settings, likelihood)
    member.flat.vector.data += 0.1 * torch.randn_like(member.flat.vector)
    member.mlp.refresh()
    return member


def rows_of(likelihood: type[Likelihood]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    targets = rng.standard_normal((ROWS, DIM)) if likelihood is Gaussian else rng.integers(0, 2, (ROWS, 8 * DIM))
    return rng.standard_normal((ROWS, INPUTS), np.float32), targets.astype(np.float32)


def torch_parameters(member: BayesianMember) -> dict[str, torch.Tensor]:
    named = member.network.named_parameters()
    return {name: value.detach().double().requires_grad_() for name, value in named}


def torch_losses(
    parameters: dict[str, torch.Tensor], inputs: np.ndarray, targets: np.ndarray, seed: int, kind: str, activation: str
) -> torch.Tensor:
    """`-log p` [B] with layer sums drawn as `BayesianMLP.forward` draws them."""
    rng = np.random.default_rng(seed)
    x, t = torch.from_numpy(inputs).double(), torch.from_numpy(targets).double()
    for layer in range(2):
        std, bias_std = (
            torch.nn.functional.softplus(parameters[f"{part}_rhos.{layer}"]) for part in ("weight", "bias")
        )
        deviation = (x**2 @ std**2 + bias_std**2).sqrt()
        noise = torch.from_numpy(rng.standard_normal(tuple(deviation.shape), np.float32)).double()
        x = x @ parameters[f"weights.{layer}"] + parameters[f"biases.{layer}"] + deviation * noise
        if layer == 0:
            x = torch.tanh(x) if activation == "tanh" else torch.relu(x)
    if kind == "bits":
        return torch.nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none").sum(-1)
    log_std = LOG_STD_MIN + torch.nn.functional.softplus(x[:, DIM:] - LOG_STD_MIN)
    return -torch.distributions.Normal(x[:, :DIM], log_std.exp()).log_prob(t).sum(-1)


def torch_divergence(parameters: dict[str, torch.Tensor], others: dict[str, torch.Tensor] | float) -> torch.Tensor:
    """KL of the posterior from another one, or from a normal prior of a deviation."""
    total = torch.zeros((), dtype=torch.float64)
    for mean, rho in (("weights", "weight_rhos"), ("biases", "bias_rhos")):
        for layer in range(2):
            q = torch.distributions.Normal(
                parameters[f"{mean}.{layer}"], torch.nn.functional.softplus(parameters[f"{rho}.{layer}"])
            )
            p = (
                torch.distributions.Normal(torch.zeros_like(q.loc), torch.full_like(q.scale, others))
                if isinstance(others, float)
                else torch.distributions.Normal(
                    others[f"{mean}.{layer}"], torch.nn.functional.softplus(others[f"{rho}.{layer}"])
                )
            )
            total = total + torch.distributions.kl_divergence(q, p).sum()
    return total


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("kind", "likelihood"), [("gaussian", Gaussian), ("bits", Bits)])
def test_the_gradient_of_the_loss_is_autograd_s(kind: str, likelihood: type[Likelihood], activation: str) -> None:
    member, (inputs, targets) = make_member(likelihood, activation), rows_of(likelihood)
    parameters = torch_parameters(member)
    losses = torch_losses(parameters, inputs, targets, 3, kind, activation)
    divergence = torch_divergence(parameters, 0.7)
    (losses.mean() + divergence / 1000).backward()
    metrics = member.descend(inputs, targets, alone, np.random.default_rng(3), 1000)
    expected = torch.cat([parameter.grad.reshape(-1) for parameter in parameters.values()])
    torch.testing.assert_close(member.flat.gradient.double(), expected, rtol=1e-3, atol=1e-5)
    assert metrics["dynamics_loss"] == pytest.approx(float(losses.detach().mean()), rel=1e-4)
    assert metrics["posterior_information"] == pytest.approx(float(divergence.detach()), rel=1e-4)


def test_information_is_the_gradient_s_square_in_the_divergence_s_own_curvature() -> None:
    member, (inputs, targets) = make_member(), rows_of(Gaussian)
    passes = []
    for seed in (3, 4):
        outputs = member.mlp.forward(inputs, np.random.default_rng(seed))
        passes.append(member.mlp.backward(Gaussian.slope(outputs, targets).astype(np.float32)))
    parameters = torch_parameters(member)
    standing = {name: value.detach() for name, value in parameters.items()}
    slopes = torch.autograd.grad(torch_divergence(parameters, standing), list(parameters.values()), create_graph=True)
    # The divergence is a sum over parameters, so that the diagonal is all of the Hessian there is.
    curvature = torch.autograd.grad(sum(slope.sum() for slope in slopes), list(parameters.values()))
    gradients = []
    for seed in (3, 4):
        losses = torch_losses(parameters, inputs, targets, seed, "gaussian", "tanh")
        gradients.append([torch.autograd.grad(loss, list(parameters.values()), retain_graph=True) for loss in losses])
    expected = [
        sum(float((g * h / c).sum()) for g, h, c in zip(gradients[0][b], gradients[1][b], curvature, strict=True))
        for b in range(ROWS)
    ]
    np.testing.assert_allclose(member.mlp.information(*passes), expected, rtol=1e-3, atol=1e-4)


def transitions(
    rows: int, seed: int, center: float = 0.0, noise: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    states = (center + rng.standard_normal((rows, 2))).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, 1)).astype(np.float32)
    drift = states @ np.array([[-0.1, 0.2], [-0.2, -0.1]], np.float32) + actions @ np.array([[0.0, 0.3]], np.float32)
    return states, actions, states + drift + noise * rng.standard_normal((rows, 2)).astype(np.float32)


def mean_gain(fit: DynamicsFit, seed: int, **where: float) -> float:
    gain = InformationGain(fit.arrays(), "gaussian", "tanh", None)
    return float(gain(*transitions(2000, seed, **where), samples=2, step=1.0).mean())


def test_information_gain_ends_on_what_is_known_and_not_on_what_is_new() -> None:
    fit = DynamicsFit(
        BayesianSettings(hidden_sizes=(32,)), dim=2, num_actions=None, act_dim=1, likelihood="gaussian", seed=0
    )
    known = []
    for t in range(30):
        metrics = fit.update(*transitions(1000, t), alone, np.random.default_rng(t))
        known.append(mean_gain(fit, 900))
    assert 0 <= known[-1] < 0.3 * max(known) < 0.05
    assert mean_gain(fit, 901, center=5.0) > 20 * known[-1]
    assert metrics["posterior_information"] > 100


def test_noise_is_not_information() -> None:
    """A television: what it shows next is drawn anew, which the model comes to know; the gain ends all the same."""
    fit = DynamicsFit(
        BayesianSettings(hidden_sizes=(32,)), dim=2, num_actions=None, act_dim=1, likelihood="gaussian", seed=0
    )
    for t in range(30):
        fit.update(*transitions(1000, t, noise=5.0), alone, np.random.default_rng(t))
    assert abs(mean_gain(fit, 900, noise=5.0)) < 0.05


def test_the_noise_of_an_evaluation_is_that_of_the_snapshot() -> None:
    fit = DynamicsFit(
        BayesianSettings(hidden_sizes=(8,)), dim=2, num_actions=None, act_dim=1, likelihood="gaussian", seed=0
    )
    fit.update(*transitions(100, 0), alone, np.random.default_rng(0))
    arrays, rows = fit.arrays(), transitions(50, 1)
    first, again = (InformationGain(arrays, "gaussian", "tanh", None)(*rows, samples=3, step=0.5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    network = BayesianMLP.from_arrays(arrays, "0", "tanh")
    assert len(network.weights) == 2
