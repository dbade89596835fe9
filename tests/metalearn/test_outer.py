"""Directions of the algorithms against slow references, and the paper's claims on what they are to first order."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quadriga.metalearn import networks
from quadriga.metalearn.autograd_kernel import AutogradKernel
from quadriga.metalearn.conv_kernel import ConvKernel
from quadriga.metalearn.experiment import FOMAMLSettings, GradientSumSettings, MAMLSettings, ReptileSettings
from quadriga.metalearn.inner import SGD, Adam
from quadriga.metalearn.mlp_kernel import MLPKernel
from quadriga.metalearn.networks import MLP, ConvNet
from quadriga.metalearn.outer import MetaOptimizer, Span, annealed, maml_direction, span, step_direction

CONV = ConvNet(3, 14, 1, 4)
PERCEPTRON = MLP((1, 6, 5, 1))


def kernels(name):
    """A kernel written by hand, and the plain one of the same network."""
    if name == "conv":
        return ConvKernel(CONV, "sum", torch.float64), AutogradKernel(CONV, "cross_entropy", "sum", torch.float64)
    return MLPKernel(PERCEPTRON, "mean", np.float64), AutogradKernel(PERCEPTRON, "squared_error", "mean", torch.float64)


def problem(name, steps, seed=0):
    """Initial weights, and inputs and targets of each step."""
    rng = np.random.default_rng(seed)
    network = CONV if name == "conv" else PERCEPTRON
    phi = networks.initial(network, rng).astype(np.float64) + 0.05 * rng.normal(size=networks.size(network))
    if name == "conv":
        return phi, [((rng.random((6, 14, 14, 1)) < 0.8) * 1.0, rng.integers(0, 3, 6)) for _ in range(steps)]
    return phi, [(rng.uniform(-3, 3, (7, 1)), rng.normal(size=(7, 1))) for _ in range(steps)]


def loss_of(plain, vector, batch):
    return plain._function(vector, plain.prepare(*batch))[0]


def unrolled(plain, phi, batches, learning_rate):
    """The weights after SGD on all but the last batch, with the graph back to `phi`, and the last batch's loss."""
    start = torch.from_numpy(phi).requires_grad_()
    vector = start
    for batch in batches[:-1]:
        (gradient,) = torch.autograd.grad(loss_of(plain, vector, batch), vector, create_graph=True)
        vector = vector - learning_rate * gradient
    return start, loss_of(plain, vector, batches[-1])


@pytest.mark.parametrize("name", ["conv", "perceptron"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_maml_s_direction_is_the_gradient_through_the_unrolled_loop(name, steps):
    phi, batches = problem(name, steps)
    by_hand, plain = kernels(name)
    start, loss = unrolled(plain, phi, batches, 0.05)
    (expected,) = torch.autograd.grad(loss, start)
    for kernel in (by_hand, plain):
        learned = maml_direction(kernel, 0.05, phi, [kernel.prepare(*batch) for batch in batches])
        assert learned.loss == pytest.approx(float(loss.detach()), rel=1e-9)
        np.testing.assert_allclose(learned.direction, -expected.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["conv", "perceptron"])
def test_maml_s_direction_agrees_with_finite_differences(name):
    phi, batches = problem(name, 3)
    by_hand, plain = kernels(name)
    got = -maml_direction(by_hand, 0.05, phi, [by_hand.prepare(*batch) for batch in batches]).direction
    rng = np.random.default_rng(1)
    for _ in range(5):
        along = rng.normal(size=len(phi))
        along /= np.linalg.norm(along)
        step = 1e-6
        ends = [float(unrolled(plain, phi + sign * step * along, batches, 0.05)[1].detach()) for sign in (1, -1)]
        assert got @ along == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-6)


def tensorflow_adam(learning_rate, beta2=0.999, epsilon=1e-8):
    """The update of the published code, on float64, as one reads it."""
    state = {"v": 0.0, "t": 0}

    def step(vector, gradient):
        state["t"] += 1
        state["v"] = beta2 * state["v"] + (1 - beta2) * gradient**2
        rate = learning_rate * (1 - beta2 ** state["t"]) ** 0.5
        return vector - rate * gradient / (np.sqrt(state["v"]) + epsilon)

    return step


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(
    "over", [Span(1, 4), Span(4, 4), Span(1, 2), Span(2, 3), Span(1, 3, 1 / 3)], ids=lambda span: f"{span[:2]}"
)
def test_directions_of_steps_are_changes_of_the_weights(optimizer, over):
    phi, batches = problem("perceptron", 4)
    phi = phi.astype(np.float32)
    kernel = MLPKernel(PERCEPTRON)
    _, plain = kernels("perceptron")
    slot = Adam(len(phi), 0.01) if optimizer == "adam" else SGD(0.01)
    step = tensorflow_adam(0.01) if optimizer == "adam" else lambda vector, gradient: vector - 0.01 * gradient
    points = [phi.astype(np.float64)]
    for batch in batches:
        vector = torch.from_numpy(points[-1]).requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(plain, vector, batch), vector)
        points.append(step(points[-1], gradient.numpy()))
    learned = step_direction(kernel, slot, phi, [kernel.prepare(*batch) for batch in batches], over)
    expected = (points[over.last] - points[over.first - 1]) * over.weight
    np.testing.assert_allclose(learned.direction, expected, atol=1e-6)


def test_each_algorithm_takes_its_steps():
    assert span(ReptileSettings(), 5) == Span(1, 5)
    assert span(FOMAMLSettings(), 5) == Span(5, 5)
    assert span(GradientSumSettings(last=3), 4) == Span(1, 3)
    assert span(GradientSumSettings(first=2, average=True), 4) == Span(2, 4, 1 / 3)


class Quadratic:
    """Minibatch i has the loss `phi' A_i phi / 2 - b_i' phi`; a kernel that needs no network."""

    def __init__(self, dim, batches, seed):
        rng = np.random.default_rng(seed)
        halves = rng.normal(size=(batches, dim, dim))
        self.hessians = halves @ halves.transpose(0, 2, 1) / dim
        self.slopes = rng.normal(size=(batches, dim))
        self.phi = rng.normal(size=dim)

    def at(self, batch, phi):
        return self.hessians[batch] @ phi - self.slopes[batch]

    def bind(self, vector):
        return vector

    def gradient(self, parameters, batch, out):
        out[:] = self.at(batch, parameters)
        return torch.zeros(1)

    def record(self, parameters, batch, out):
        self.gradient(parameters, batch, out)
        return batch

    def curvature(self, tape, direction, out):
        out[:] = self.hessians[tape] @ direction

    def loss(self, outputs, batch):
        return 0.0


def expected_gradient(quadratic, algorithm, steps, learning_rate):
    """Mean over all orders of different minibatches of the sum of gradients that `algorithm` goes against."""
    batches = range(len(quadratic.slopes))
    found = []
    for order in itertools.permutations(batches, steps):
        if algorithm == "maml":
            found.append(-maml_direction(quadratic, learning_rate, quadratic.phi, order).direction)
        else:
            first = steps if algorithm == "fomaml" else 1
            learned = step_direction(quadratic, SGD(learning_rate), quadratic.phi, order, Span(first, steps))
            found.append(-learned.direction / learning_rate)
    return np.mean(found, axis=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "reptile"])
def test_expected_gradients_have_the_paper_s_leading_terms(algorithm, steps):
    """Section 5.1: AvgGrad, minus alpha AvgGradInner 2(k - 1), k - 1 and k(k - 1)/2 times."""
    quadratic = Quadratic(dim=5, batches=5, seed=steps)
    count = len(quadratic.slopes)
    gradients = np.stack([quadratic.at(batch, quadratic.phi) for batch in range(count)])
    average = gradients.mean(axis=0)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    inner = np.mean([quadratic.hessians[j] @ gradients[i] for i, j in pairs], axis=0)
    k = steps
    weights = {"maml": (1, 2 * (k - 1)), "fomaml": (1, k - 1), "reptile": (k, k * (k - 1) / 2)}
    of_average, of_inner = weights[algorithm]
    alpha = 1e-5
    plus, minus = (expected_gradient(quadratic, algorithm, steps, sign * alpha) for sign in (1, -1))
    np.testing.assert_allclose((plus + minus) / 2, of_average * average, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose((plus - minus) / (2 * alpha), -of_inner * inner, rtol=1e-5, atol=1e-6)


def test_reptile_with_one_sgd_step_is_joint_training():
    phi, batches = problem("conv", 1)
    by_hand, plain = kernels("conv")
    vector = torch.from_numpy(phi).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(plain, vector, batches[0]), vector)
    learned = step_direction(by_hand, SGD(0.1), phi, [by_hand.prepare(*batches[0])], Span(1, 1))
    np.testing.assert_allclose(learned.direction, -0.1 * gradient.numpy(), rtol=1e-6, atol=1e-9)


def test_gradient_sums_of_one_loop_add_up():
    phi, batches = problem("conv", 4)
    kernel = kernels("conv")[0]
    prepared = [kernel.prepare(*batch) for batch in batches]
    parts = [step_direction(kernel, SGD(0.01), phi, prepared, Span(k, k)).direction for k in (1, 2, 3, 4)]
    for last in (2, 3, 4):
        whole = step_direction(kernel, SGD(0.01), phi, prepared, Span(1, last)).direction
        np.testing.assert_allclose(whole, np.sum(parts[:last], axis=0), atol=1e-12)


@given(st.integers(0, 100), st.floats(0.01, 2), st.floats(0, 2))
def test_step_size_falls_linearly(done, start, end):
    settings = ReptileSettings(step_size=start, final_step_size=end)
    assert annealed(settings, done, 100) == pytest.approx(start + (end - start) * done / 100, rel=1e-12)


def test_meta_step_goes_along_the_mean_direction():
    phi = np.arange(3, dtype=np.float32)
    directions = [np.array([1, 0, 2], np.float32), np.array([3, 0, 0], np.float32)]
    norm = MetaOptimizer(ReptileSettings(), 3).step(phi, directions, 0.5)
    np.testing.assert_allclose(phi, [1, 1, 2.5])
    assert norm == pytest.approx(5**0.5)


def test_outer_adam_is_torch_s():
    rng = np.random.default_rng(0)
    phi = rng.normal(size=20).astype(np.float32)
    weights = torch.from_numpy(phi.copy()).requires_grad_()
    theirs, ours = torch.optim.Adam([weights], 0.01), MetaOptimizer(MAMLSettings(), 20)
    for _ in range(5):
        direction = rng.normal(size=20).astype(np.float32)
        weights.grad = -torch.from_numpy(direction)
        theirs.step()
        ours.step(phi, [direction], 0.01)
    np.testing.assert_allclose(phi, weights.detach().numpy(), rtol=1e-5)
