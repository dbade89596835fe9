"""Hand-written passes against autograd, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quadriga.metalearn import networks
from quadriga.metalearn.autograd_kernel import AutogradKernel, VectorizedKernel
from quadriga.metalearn.conv_kernel import ConvKernel
from quadriga.metalearn.mlp_kernel import MLPKernel
from quadriga.metalearn.networks import MLP, ConvNet, same_padding
from quadriga.metalearn.products import product

TOLERANCE = 1e-9


def parameters(network, seed):
    rng = np.random.default_rng(seed)
    vector = networks.initial(network, rng).astype(np.float64)
    return vector + 0.1 * rng.normal(size=len(vector))


def images(network, count, seed, binary):
    rng = np.random.default_rng(seed)
    pixels = rng.random((count, network.side, network.side, network.channels))
    return ((pixels < 0.9).astype(np.uint8) if binary else pixels), rng.integers(0, network.outputs, count)


def derivatives(kernel, vector, inputs, targets, direction):
    """Outputs, loss, gradient and Hessian-vector product."""
    batch = kernel.prepare(inputs, targets)
    gradient, recorded, product = (np.empty_like(vector) for _ in range(3))
    outputs = kernel.gradient(kernel.bind(vector), batch, kernel.bind(gradient))
    loss = kernel.loss(outputs, batch)
    tape = kernel.record(kernel.bind(vector), batch, kernel.bind(recorded))
    kernel.curvature(tape, kernel.bind(direction), kernel.bind(product))
    np.testing.assert_array_equal(recorded, gradient)
    return outputs.numpy().copy(), loss, gradient, product


def assert_agree(first, second):
    for ours, plain in zip(first, second, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=TOLERANCE, atol=TOLERANCE * np.abs(plain).max())


@settings(max_examples=12)
@given(
    st.integers(2, 20),
    st.integers(1, 12),
    st.sampled_from([1, 3]),
    st.sampled_from([4, 8]),
    st.sampled_from([28, 27, 16, 14]),
    st.sampled_from(["sum", "mean"]),
    st.booleans(),
    st.integers(0, 999),
)
def test_convolutional_pass_equals_autograd(ways, count, channels, filters, side, reduction, binary, seed):
    network = ConvNet(ways, side, channels, filters)
    vector = parameters(network, seed)
    direction = np.random.default_rng(seed).normal(size=len(vector))
    inputs, targets = images(network, count, seed, binary)
    by_hand = ConvKernel(network, reduction, torch.float64)
    plain = AutogradKernel(network, "cross_entropy", reduction, torch.float64)
    assert_agree(*(derivatives(kernel, vector, inputs, targets, direction) for kernel in (by_hand, plain)))


def test_convolutional_pass_equals_autograd_at_the_size_of_the_paper():
    network = ConvNet(5)
    vector = parameters(network, 0)
    inputs, targets = images(network, 10, 0, binary=True)
    by_hand = ConvKernel(network, "sum", torch.float64)
    plain = AutogradKernel(network, "cross_entropy", "sum", torch.float64)
    direction = np.random.default_rng(1).normal(size=len(vector))
    assert_agree(*(derivatives(kernel, vector, inputs, targets, direction) for kernel in (by_hand, plain)))


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.integers(1, 7),
    st.sampled_from(["tanh", "relu"]),
    st.sampled_from(["sum", "mean"]),
    st.integers(0, 999),
)
def test_perceptron_pass_equals_autograd(sizes, count, activation, reduction, seed):
    network = MLP(tuple(sizes), activation)
    rng = np.random.default_rng(seed)
    vector = parameters(network, seed)
    direction = rng.normal(size=len(vector))
    inputs, targets = rng.normal(size=(count, sizes[0])), rng.normal(size=(count, sizes[-1]))
    by_hand = MLPKernel(network, reduction, np.float64)
    plain = AutogradKernel(network, "squared_error", reduction, torch.float64)
    assert_agree(*(derivatives(kernel, vector, inputs, targets, direction) for kernel in (by_hand, plain)))


def test_float32_pass_is_as_accurate_as_autograd_s():
    network = ConvNet(5)
    vector = parameters(network, 3)
    inputs, targets = images(network, 10, 3, binary=True)
    exact, ours, plain = (
        np.empty_like(vector), np.empty(len(vector), np.float32), np.empty(len(vector), np.float32)
    )  # fmt: skip
    for kernel, point, out in (
        (ConvKernel(network, "sum", torch.float64), vector, exact),
        (ConvKernel(network), vector.astype(np.float32), ours),
        (AutogradKernel(network, "cross_entropy"), vector.astype(np.float32), plain),
    ):
        kernel.gradient(kernel.bind(point), kernel.prepare(inputs, targets), kernel.bind(out))
    size = np.linalg.norm(exact)
    assert np.linalg.norm(ours - exact) / size < 1e-5
    assert np.linalg.norm(ours - exact) < 10 * np.linalg.norm(plain - exact)


def test_a_scale_of_zero_has_a_finite_curvature():
    network = ConvNet(3, 14, 1, 4)
    vector = parameters(network, 0)
    kernel = ConvKernel(network, "sum", torch.float64)
    for leaf, view in zip(network.leaves, networks.split(network, torch.from_numpy(vector)), strict=True):
        if leaf.name.startswith("scale"):
            view.zero_()
    inputs, targets = images(network, 4, 0, binary=True)
    direction = np.ones_like(vector)
    plain = AutogradKernel(network, "cross_entropy", "sum", torch.float64)
    ours, reference = (derivatives(k, vector, inputs, targets, direction) for k in (kernel, plain))
    assert np.isfinite(ours[3]).all()
    assert_agree(ours, reference)


def test_a_batch_leaves_nothing_behind_for_the_next():
    network = ConvNet(5, 28, 1, 8)
    kernel, vector = ConvKernel(network), parameters(network, 0).astype(np.float32)
    batches = [kernel.prepare(*images(network, count, seed, True)) for seed, count in enumerate((10, 5, 10, 6))]

    def gradient(batch):
        out = np.empty_like(vector)
        kernel.gradient(kernel.bind(vector), batch, kernel.bind(out))
        return out

    alone = [gradient(batch) for batch in batches]
    for index in (3, 0, 2, 1, 0):
        np.testing.assert_array_equal(gradient(batches[index]), alone[index])


def test_pooling_network_has_no_pass_by_hand():
    with pytest.raises(ValueError, match="strided"):
        ConvKernel(ConvNet(5, strided=False))


@pytest.mark.parametrize("network", [ConvNet(3, 14, 1, 4), ConvNet(3, 20, 3, 4, strided=False), MLP((1, 8, 1))])
def test_many_tasks_at_once_equal_one_after_the_other(network):
    loss = "squared_error" if isinstance(network, MLP) else "cross_entropy"
    vectors = np.stack([parameters(network, seed) for seed in range(3)])
    directions = np.random.default_rng(5).normal(size=vectors.shape)
    if isinstance(network, MLP):
        rng = np.random.default_rng(0)
        examples = [(rng.normal(size=(6, 1)), rng.normal(size=(6, 1))) for _ in range(3)]
    else:
        examples = [images(network, 6, seed, binary=False) for seed in range(3)]
    inputs, targets = (np.stack(part) for part in zip(*examples, strict=True))
    together = VectorizedKernel(network, loss, "sum", dtype=torch.float64)
    plain = AutogradKernel(network, loss, "sum", torch.float64)
    arguments = [together.tensor(part) for part in (vectors, inputs, targets)]
    gradients, losses = together.gradient(*arguments)
    products = together.curvature(*arguments, together.tensor(directions))
    outputs = together.predict(*arguments[:2])
    for index, (vector, direction, example) in enumerate(zip(vectors, directions, examples, strict=True)):
        got = (outputs[index].numpy(), float(losses[index]), gradients[index].numpy(), products[index].numpy())
        assert_agree(got, derivatives(plain, vector, *example, direction))


def test_networks_have_the_sizes_of_the_published_ones_without_the_biases_of_convolutions():
    assert networks.size(ConvNet(5)) == 113_221 - 4 * 64
    assert networks.size(ConvNet(20)) == 117_076 - 4 * 64
    assert networks.size(ConvNet(5, 84, 3, 32, strided=False)) == 34_661 - 4 * 32
    assert networks.size(ConvNet(20, 84, 3, 32, strided=False)) == 51_956 - 4 * 32


@pytest.mark.parametrize(
    ("length", "expected"), [(28, (0, 1, 14)), (14, (0, 1, 7)), (7, (1, 1, 4)), (4, (0, 1, 2)), (84, (0, 1, 42))]
)
def test_padding_is_that_of_tensorflow(length, expected):
    assert same_padding(length, 2) == expected


def test_stride_one_is_padded_on_both_sides():
    assert same_padding(84, 1) == (1, 1, 84)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans())
def test_products_take_transposed_views(rows, inner, columns, first, second):
    rng = np.random.default_rng(rows)
    a = torch.from_numpy(rng.normal(size=(inner, rows) if first else (rows, inner))).float()
    b = torch.from_numpy(rng.normal(size=(columns, inner) if second else (inner, columns))).float()
    a, b = (a.T if first else a), (b.T if second else b)
    torch.testing.assert_close(product(a, b), a @ b, rtol=1e-5, atol=1e-4)


def test_initial_weights_are_glorot_s():
    network = ConvNet(5)
    vector = torch.from_numpy(networks.initial(network, np.random.default_rng(0)))
    for leaf, view in zip(network.leaves, networks.split(network, vector), strict=True):
        if leaf.limit:
            assert view.abs().max() <= leaf.limit
            assert float(view.std()) == pytest.approx(leaf.limit / 3**0.5, rel=0.15)
        else:
            assert (view == leaf.fill).all()
