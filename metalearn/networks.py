"""The networks of the paper: their parameters in one flat vector, how they begin, and what they compute.

`logits` is the plain definition, written in differentiable torch operations: autograd, `torch.func`
and a GPU run it as it is, and it is what the hand-written kernels are tested against. How an inner
step is computed fast is the business of `conv_kernel` and `mlp_kernel`.

The convolutional networks are those of the code published with Nichol, Achiam, Schulman 2018 (arXiv:1803.02999):
four blocks, normalization by the statistics of the batch at hand in training and in testing alike, TensorFlow's
"SAME" padding. Its convolutions have biases, which the normalization that follows cancels; they are left out here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NORM_EPSILON = 1e-3
BLOCKS = 4
KERNEL = 3

Vector = NDArray[np.float32]


class Leaf(NamedTuple):
    """One array of a network's parameters; `limit` is that of its uniform initial values, or `fill` their value."""

    name: str
    shape: tuple[int, ...]
    limit: float = 0.0
    fill: float = 0.0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Network(Protocol):
    """A function of a flat parameter vector, and how that vector is laid out."""

    @property
    def leaves(self) -> Sequence[Leaf]:
        """The parameters, in the order of the vector."""

    def logits(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Outputs `[n, outputs]` for `inputs` `[n, ...]`; `parameters` as `split` gives them."""


def size(network: Network) -> int:
    """Length of the parameter vector."""
    return sum(leaf.size for leaf in network.leaves)


def split(network: Network, vector: Tensor) -> list[Tensor]:
    """Views of a flat vector, one a leaf."""
    parts = torch.split(vector, [leaf.size for leaf in network.leaves])
    return [part.view(leaf.shape) for part, leaf in zip(parts, network.leaves, strict=True)]


def initial(network: Network, rng: np.random.Generator) -> Vector:
    """Initial parameters float32 `[size]`: Glorot's uniform weights, zero biases, unit scales."""
    parts = [
        rng.uniform(-leaf.limit, leaf.limit, leaf.size) if leaf.limit else np.full(leaf.size, leaf.fill)
        for leaf in network.leaves
    ]
    return np.concatenate(parts).astype(np.float32)


def glorot(fan_in: int, fan_out: int) -> float:
    """Limit of the uniform distribution of Glorot & Bengio 2010, eq. 16."""
    return math.sqrt(6.0 / (fan_in + fan_out))


class Padding(NamedTuple):
    """TensorFlow's "SAME" for one axis: `before` and `after` zeros, `out` outputs."""

    before: int
    after: int
    out: int


def same_padding(length: int, stride: int, kernel: int = KERNEL) -> Padding:
    """Zeros around an axis so that it has `ceil(length / stride)` outputs; the odd one goes behind."""
    out = -(-length // stride)
    total = max((out - 1) * stride + kernel - length, 0)
    return Padding(total // 2, total - total // 2, out)


@dataclass(frozen=True)
class ConvNet:
    """Four blocks of 3x3 convolution, batch normalization and ReLU, then a dense layer.

    `strided` halves the image in the convolution (Omniglot); otherwise a 2x2 maximum between
    normalization and ReLU does (Mini-ImageNet). Inputs are images `[n, side, side, channels]`.

    Attributes:
        outputs: classes.
        side: pixels.
        channels: of an image.
        filters: of every convolution.
        strided: halve by stride rather than by pooling.
    """

    outputs: int
    side: int = 28
    channels: int = 1
    filters: int = 64
    strided: bool = True

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """Of the image and after each block."""
        found = [self.side]
        for _ in range(BLOCKS):
            found.append(-(-found[-1] // 2))
        return tuple(found)

    @cached_property
    def features(self) -> int:
        """Inputs of the dense layer."""
        return self.filters * self.sides[-1] ** 2

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Of a block: weights `[filters, 3, 3, channels]`, scale, shift; then the dense layer's weights and biases."""
        found = []
        for block in range(BLOCKS):
            channels = self.channels if block == 0 else self.filters
            limit = glorot(KERNEL**2 * channels, KERNEL**2 * self.filters)
            found += [
                Leaf(f"conv{block + 1}", (self.filters, KERNEL, KERNEL, channels), limit=limit),
                Leaf(f"scale{block + 1}", (self.filters,), fill=1.0),
                Leaf(f"shift{block + 1}", (self.filters,)),
            ]
        head = Leaf("dense", (self.outputs, self.features), limit=glorot(self.features, self.outputs))
        return (*found, head, Leaf("bias", (self.outputs,)))

    def logits(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """`[n, outputs]` for images `[n, side, side, channels]` of the parameters' dtype."""
        x = inputs.permute(0, 3, 1, 2)
        stride = 2 if self.strided else 1
        for block in range(BLOCKS):
            weight, scale, shift = parameters[3 * block : 3 * block + 3]
            before, after, _ = same_padding(x.shape[-1], stride)
            x = torch.nn.functional.pad(x, (before, after, before, after))
            x = torch.nn.functional.conv2d(x, weight.permute(0, 3, 1, 2), stride=stride)
            x = _normalized(x, scale, shift)
            if not self.strided:
                x = torch.nn.functional.max_pool2d(x, 2, ceil_mode=True)
            x = torch.relu(x)
        x = x.permute(0, 2, 3, 1).reshape(len(inputs), -1)
        return x @ parameters[-2].T + parameters[-1]


def _normalized(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch normalization of `[n, channels, height, width]` by the batch's own mean and variance."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    centered = x - mean
    variance = (centered * centered).mean(dim=(0, 2, 3), keepdim=True)
    factor = scale[:, None, None] * torch.rsqrt(variance + NORM_EPSILON)
    return centered * factor + shift[:, None, None]


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron on vectors `[n, sizes[0]]`.

    Attributes:
        sizes: of the input, the hidden layers and the output.
        activation: between layers.
    """

    sizes: tuple[int, ...] = (1, 64, 64, 1)
    activation: Literal["tanh", "relu"] = "tanh"

    @property
    def outputs(self) -> int:
        """Size of the last layer."""
        return self.sizes[-1]

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Weights `[out, in]` and biases `[out]` of each layer; both uniform in +-1/sqrt(in), torch's default."""
        found = []
        for layer, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            limit = 1 / math.sqrt(fan_in)
            found += [Leaf(f"dense{layer + 1}", (fan_out, fan_in), limit), Leaf(f"bias{layer + 1}", (fan_out,), limit)]
        return tuple(found)

    def logits(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """`[n, outputs]`."""
        x = inputs
        for layer in range(len(self.sizes) - 1):
            x = x @ parameters[2 * layer].T + parameters[2 * layer + 1]
            if layer < len(self.sizes) - 2:
                x = torch.tanh(x) if self.activation == "tanh" else torch.relu(x)
        return x
