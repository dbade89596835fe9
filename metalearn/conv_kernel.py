"""One inner step of the strided convolutional network on a CPU, forward and backward written out by hand.

Made for batches of a few images, where an autograd engine spends more on bookkeeping, layout changes and
padding than on arithmetic. Everything is channels-last matrices `[pixels, channels]`:

- A convolution is one strided copy (im2col) and one matrix product; its backward is two products and one
  scatter of four additions. `products` says how they are computed.
- The first block needs no pass for its normalization. With patches `c` `[n, 9]` of the images, mean `m` and
  covariance `C` over the batch, the output `u = w c` has mean `w m` and variance `w C w'`, so that normalization
  folds into the weights, and the backward pass needs `sum dz c'` alone. Sums of `c c'` are kept for each
  image; those of a batch are their sum.
- Biases before a normalization do not exist.

Symbols: `u` convolution, `z` normalized and scaled, `a = relu(z)`; `r = 1 / sqrt(var u + eps)`, `s = scale r`.
With sums over the n pixels of a batch, the gradient of normalization is
`du = s (dz - sum(dz)/n - (u - mu) r^2 sum(dz (u - mu))/n)` (Ioffe & Szegedy 2015, section 3), so that for the
first block `dw = s (sum dz c' - sum(dz) m' - r^2 sum(dz (u - mu)) w C)`.

Sampling, the optimizer and the meta-update are elsewhere; second derivatives are in `conv_curvature`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quadriga.metalearn import networks
from quadriga.metalearn.networks import BLOCKS, KERNEL, NORM_EPSILON, ConvNet, same_padding
from quadriga.metalearn.products import product, product_into

Floats = NDArray[np.floating[Any]]
TAPS = KERNEL * KERNEL
ALL = (True, True, True)
threshold_backward = torch.ops.aten.threshold_backward.grad_input
native_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default


class Views(NamedTuple):
    """A vector of parameters, or of a gradient, as the passes take it; all of it is the vector's memory.

    Attributes:
        leaves: the arrays of `ConvNet.leaves`, convolutions as matrices `[filters, 9 channels]`.
        turned: weights of convolutions, transposed.
        first: the first block's arrays, which are NumPy's business.
        dense: the last layer's weights, transposed.
    """

    leaves: list[Tensor]
    turned: list[Tensor]
    first: tuple[Floats, ...]
    dense: Tensor


class Images:
    """A batch of labeled images in the form in which the first block takes them.

    Args:
        patches: `[images, pixels, 9 channels + 1]`, the last column 1.
        targets: `[images, outputs]`, 1 at the label; zeros if there are no labels.

    Attributes:
        size: number of images.
        rows: all patches, `[images pixels, 9 channels + 1]`.
        means: of the patches' other columns over the batch, `[9 channels]`.
        covariance: likewise `[9 channels, 9 channels]`.
    """

    def __init__(self, patches: Tensor, targets: Tensor) -> None:
        self._patches, self.targets, self.size = patches, targets, len(patches)
        self.rows = patches.view(-1, patches.shape[-1])
        self.turned = self.rows.t()
        moments = torch.mm(self.turned, self.rows).numpy()
        moments /= len(self.rows)
        self.means: Floats = moments[-1, :-1]
        self.covariance: Floats = moments[:-1, :-1] - self.means[:, None] * self.means

    @torch.inference_mode()
    def take(self, index: Tensor) -> Images:
        """The images of `index` `[n]`, int64, as a batch."""
        return Images(self._patches.index_select(0, index), self.targets.index_select(0, index))


class Block:
    """A block after the first: its memory for one batch size, and the views of it that a pass needs.

    They are made once because a view costs more than the arithmetic of a small image.

    Attributes:
        input, d_input: `[images, side, side, filters]`, and its gradient.
        columns: of the input, `[pixels, 9 filters]`.
        u, z, mu, r, dz: as in the module's docstring; `[pixels, filters]` and `[filters]`.
        output, d_output: `[images, out, out, filters]`, the next block's `input` and `d_input`.
    """

    output: Tensor
    d_output: Tensor

    def __init__(self, batch: int, side: int, filters: int, dtype: torch.dtype) -> None:
        before, _, out = same_padding(side, 2)
        self.pixels = batch * out * out
        padded = 2 * out + 1
        self._padded = torch.zeros(batch, padded, padded, filters, dtype=dtype)
        self._inside = slice(before, before + side)
        self.input = self._padded[:, self._inside, self._inside]
        line, pixel = padded * filters, filters
        self._windows = self._padded.as_strided(
            (batch, out, out, KERNEL, KERNEL * filters),
            (padded * line, 2 * line, 2 * pixel, line, 1),
        )
        self.columns = torch.empty(self.pixels, TAPS * filters, dtype=dtype)
        self._columns = self.columns.view(self._windows.shape)
        self._scattered = torch.empty(batch, 2 * out, 2 * out, filters, dtype=dtype)
        self.d_input = self._scattered[:, self._inside, self._inside]
        self._targets, self._layouts = self._scattering(batch, out, filters)
        self._sources = [self.columns.as_strided(*layout) for layout in self._layouts]
        self.u, self.z, self.dz = (torch.empty(self.pixels, filters, dtype=dtype) for _ in range(3))
        self.z_image, self.dz_image = (values.view(batch, out, out, filters) for values in (self.z, self.dz))
        self.mu, self.r = torch.empty(filters, dtype=dtype), torch.empty(filters, dtype=dtype)

    def gather(self) -> Tensor:
        """im2col: `[pixels, 9 filters]` of what is in `input`."""
        self._columns.copy_(self._windows)
        return self.columns

    def columns_of(self, values: Tensor) -> Tensor:
        """im2col of `values` of the shape of `input`, in new memory."""
        padded = torch.zeros_like(self._padded)
        padded[:, self._inside, self._inside].copy_(values.view(self.input.shape))
        return padded.as_strided(self._windows.shape, self._windows.stride()).reshape(self.pixels, -1)

    def _scattering(
        self, batch: int, out: int, filters: int
    ) -> tuple[list[Tensor], list[tuple[list[int], list[int], int]]]:
        """Of each addition in `scatter`: where to; and sizes, strides and offset in the columns."""
        pairs = self._scattered.view(batch, out, 2, out, 2 * filters)
        pixel, tap_line = TAPS * filters, KERNEL * filters
        line = out * pixel
        outer, inner = [out * line, line], [pixel, 1]
        targets = [pairs, pairs[:, :, :, 1:, :filters], pairs[:, 1:, 0], pairs[:, 1:, 0, 1:, :filters]]
        layouts = [
            ([*outer, tap_line, *inner], 0),
            ([*outer, tap_line, *inner], 2 * filters),
            ([*outer, *inner], 2 * tap_line),
            ([*outer, *inner], 2 * tap_line + 2 * filters),
        ]
        return targets, [
            (list(target.shape), strides, offset) for target, (strides, offset) in zip(targets, layouts, strict=True)
        ]

    def scatter(self, d_columns: Tensor) -> Tensor:
        """Its transpose: sets `d_input` from the gradient of the columns, which may be where these were.

        Pixel (2i + p, 2j + q) lies in the window (i, j) at (p, q); where p or q is 0 it is also
        the last of the window before.
        """
        sources = self._sources
        if d_columns is not self.columns:
            sources = [d_columns.as_strided(*layout) for layout in self._layouts]
        first, *others = zip(self._targets, sources, strict=True)
        first[0].copy_(first[1])
        for target, source in others:
            target.add_(source)
        return self.d_input


class First(NamedTuple):
    """Of the first block: `w C`, mean of `u`, `r` and `s`."""

    weighted: Floats
    mu: Floats
    r: Floats
    s: Floats


class Workspace:
    """Everything of one batch size, allocated once."""

    def __init__(self, network: ConvNet, batch: int, dtype: torch.dtype) -> None:
        filters, sides = network.filters, network.sides
        self.blocks = [Block(batch, side, filters, dtype) for side in sides[1:BLOCKS]]
        for block, after in zip(self.blocks, self.blocks[1:], strict=False):
            block.output, block.d_output = after.input, after.d_input
        last = self.blocks[-1]
        self.features = last.z.view(batch, -1)
        self.d_features = torch.empty_like(self.features)
        last.output, last.d_output = last.z_image, self.d_features.view(last.z_image.shape)
        taps = TAPS * network.channels
        # Weights of the first block with the normalization in them, and its shift in the last row.
        self.folded = torch.empty(taps + 1, filters, dtype=dtype)
        folded = self.folded.numpy()
        self.folded_weight, self.folded_shift = folded[:-1].T, folded[-1]
        self.first_u = torch.empty(batch * sides[1] ** 2, filters, dtype=dtype)
        self.first: First
        self.first_output, self.first_d_output = self.blocks[0].input, self.blocks[0].d_input
        contiguous = self.first_d_output.is_contiguous()
        self.first_dz_image = self.first_d_output if contiguous else torch.empty_like(self.first_output.contiguous())
        self.first_dz = self.first_dz_image.view(-1, filters)
        self.first_sums = torch.empty(taps + 1, filters, dtype=dtype)
        self.sums = self.first_sums.t()
        # Kept for second derivatives: of blocks from the last to the second, dz and du.
        self.d_logits: Tensor
        self.slopes: list[tuple[Tensor, Tensor]] = []


class Tape(NamedTuple):
    """What `ConvKernel.record` keeps for `curvature`."""

    parameters: Views
    images: Images
    work: Workspace


class ConvKernel:
    """Logits and gradients of `network` on small batches.

    Args:
        network: a strided `ConvNet`.
        reduction: `sum` or `mean` of the cross-entropy over the batch.
        dtype: float32; float64 is for checking.

    Raises:
        ValueError: the network pools.
    """

    def __init__(self, network: ConvNet, reduction: str = "sum", dtype: torch.dtype = torch.float32) -> None:
        if not network.strided:
            raise ValueError("the hand-written step is for the strided network")
        self.network, self.dtype = network, dtype
        self.mean_loss = reduction == "mean"
        self._window_index = _window_index(network.side, network.channels)
        self._workspaces: dict[int, Workspace] = {}
        self._spare: dict[int, list[Workspace]] = {}

    def bind(self, vector: NDArray[np.floating[Any]]) -> Views:
        """Views of parameters or of a gradient `[size]`, as the other methods take them; made once a vector."""
        leaves = networks.split(self.network, torch.from_numpy(vector))
        leaves = [leaf.flatten(1) if leaf.dim() == 4 else leaf for leaf in leaves]
        turned = [leaf.t() for leaf in leaves[: 3 * BLOCKS : 3]]
        return Views(leaves, turned, tuple(leaf.numpy() for leaf in leaves[:3]), leaves[-2].t())

    def prepare(self, inputs: NDArray[np.generic], targets: NDArray[Any] | None = None) -> Images:
        """Images `[n, side, side, channels]` of any real dtype with labels `[n]`, as patches."""
        count, side, _, channels = inputs.shape
        before, after, out = same_padding(side, 2)
        padded = side + before + after
        # The last of an image's numbers is the 1 of all its patches.
        numbers = np.zeros((count, padded * padded * channels + 1), inputs.dtype)
        numbers[:, -1] = 1
        inside = slice(before, before + side)
        numbers[:, :-1].reshape(count, padded, padded, channels)[:, inside, inside] = inputs
        patches = torch.from_numpy(numbers.take(self._window_index, axis=1)).to(self.dtype).view(count, out * out, -1)
        one_hot = torch.zeros(count, self.network.outputs, dtype=self.dtype)
        if targets is not None:
            one_hot[torch.arange(count), torch.from_numpy(targets)] = 1
        return Images(patches, one_hot)

    @torch.inference_mode()
    def predict(self, parameters: Views, images: Images) -> Tensor:
        """Logits `[n, outputs]`, normalized over all n images."""
        return self._forward(parameters, images, self._workspace(images.size))

    @torch.inference_mode()
    def gradient(self, parameters: Views, images: Images, gradient: Views) -> Tensor:
        """Overwrites `gradient` with that of the cross-entropy of `images`; returns the logits `[n, outputs]`."""
        return self._gradient(parameters, images, gradient, self._workspace(images.size), keep=False)

    @torch.inference_mode()
    def record(self, parameters: Views, images: Images, gradient: Views) -> Tape:
        """As `gradient`, and keeps what `curvature` needs; the parameters must not change until then."""
        spare = self._spare.setdefault(images.size, [])
        work = spare.pop() if spare else Workspace(self.network, images.size, self.dtype)
        self._gradient(parameters, images, gradient, work, keep=True)
        return Tape(parameters, images, work)

    @torch.inference_mode()
    def curvature(self, tape: Tape, direction: Views, out: Views) -> None:
        """Overwrites `out` with the Hessian of a recorded loss times `direction`; the tape is used up."""
        from quadriga.metalearn.conv_curvature import curvature

        curvature(self, tape, direction, out)
        self._spare[tape.images.size].append(tape.work)

    def _gradient(self, parameters: Views, images: Images, gradient: Views, work: Workspace, *, keep: bool) -> Tensor:
        logits = self._forward(parameters, images, work)
        d_logits = torch.softmax(logits, 1).sub_(images.targets)
        if self.mean_loss:
            d_logits /= images.size
        self._backward(parameters, images, work, d_logits, gradient, keep=keep)
        return logits

    def loss(self, logits: Tensor, images: Images) -> float:
        """The cross-entropy that `gradient` differentiates."""
        total = -float((torch.log_softmax(logits, 1) * images.targets).sum())
        return total / images.size if self.mean_loss else total

    def _workspace(self, batch: int) -> Workspace:
        if batch not in self._workspaces:
            self._workspaces[batch] = Workspace(self.network, batch, self.dtype)
        return self._workspaces[batch]

    def _forward(self, parameters: Views, images: Images, work: Workspace) -> Tensor:
        leaves = parameters.leaves
        _fold(parameters, images, work)
        first_u = product(images.rows, work.folded, work.first_u)
        torch.clamp_min(first_u.view(work.first_output.shape), 0, out=work.first_output)
        for index, block in enumerate(work.blocks, 1):
            scale, shift = leaves[3 * index + 1 : 3 * index + 3]
            block.u = product(block.gather(), parameters.turned[index], block.u)
            statistics = (block.z, block.mu, block.r)
            torch.native_batch_norm(block.u, scale, shift, None, None, True, 0.0, NORM_EPSILON, out=statistics)
            torch.clamp_min(block.z_image, 0, out=block.output)
        return torch.addmm(leaves[-1], work.features, parameters.dense)

    def _backward(
        self, parameters: Views, images: Images, work: Workspace, d_logits: Tensor, gradient: Views, *, keep: bool
    ) -> None:
        leaves, gradients = parameters.leaves, gradient.leaves
        work.d_logits, work.slopes = d_logits, []
        torch.mm(d_logits.t(), work.features, out=gradients[-2])
        torch.sum(d_logits, 0, out=gradients[-1])
        torch.mm(d_logits, leaves[-2], out=work.d_features)
        for index in range(BLOCKS - 1, 0, -1):
            block = work.blocks[index - 1]
            weight, scale = leaves[3 * index : 3 * index + 2]
            threshold_backward(block.d_output, block.output, 0, grad_input=block.dz_image)
            du, d_scale, d_shift = native_batch_norm_backward(
                block.dz, block.u, scale, None, None, block.mu, block.r, True, NORM_EPSILON, ALL
            )
            product_into(du.t(), block.columns, gradients[3 * index])
            gradients[3 * index + 1].copy_(d_scale)
            gradients[3 * index + 2].copy_(d_shift)
            if keep:
                work.slopes.append((block.dz, du))
            # Unless they are kept, nobody needs the columns any more: their gradient takes their place.
            block.scatter(product(du, weight, None if keep else block.columns))
        threshold_backward(work.first_d_output, work.first_output, 0, grad_input=work.first_dz_image)
        torch.mm(images.turned, work.first_dz, out=work.first_sums)
        _first_backward(parameters, images, work, gradient)


def _window_index(side: int, channels: int) -> NDArray[np.int64]:
    """Where each number of an image's patches is among those of the padded image and a 1 behind them."""
    before, after, out = same_padding(side, 2)
    padded = side + before + after
    of_number = np.arange(padded * padded * channels).reshape(padded, padded, channels)
    found = np.full((out, out, TAPS * channels + 1), of_number.size)
    last = 2 * (out - 1) + 1
    for tap in range(TAPS):
        line, column = divmod(tap, KERNEL)
        found[..., tap * channels : (tap + 1) * channels] = of_number[
            line : line + last : 2, column : column + last : 2
        ]
    return found.reshape(-1)


# NumPy's operations on a few hundred numbers take a fraction of the time of PyTorch's.
def _fold(parameters: Views, images: Images, work: Workspace) -> None:
    """Sets `work.folded` and `work.first`."""
    weight, scale, shift = parameters.first
    weighted, mu = weight @ images.covariance, weight @ images.means
    variance = np.add.reduce(weighted * weight, 1)
    variance += NORM_EPSILON
    r = np.reciprocal(np.sqrt(variance, out=variance), out=variance)
    s = r * scale
    np.multiply(weight, s[:, None], out=work.folded_weight)
    np.subtract(shift, s * mu, out=work.folded_shift)
    work.first = First(weighted, mu, r, s)


def _first_backward(parameters: Views, images: Images, work: Workspace, gradient: Views) -> None:
    """The first block's gradients from `work.sums`."""
    weight, first, sums = parameters.first[0], work.first, work.sums.numpy()
    d_weight, d_scale, d_shift = gradient.first
    with_patches, total = sums[:, :-1], sums[:, -1]
    d_shift[:] = total
    moment = np.add.reduce(weight * with_patches, 1)
    moment -= first.mu * total
    np.multiply(moment, first.r, out=d_scale)
    np.subtract(with_patches, total[:, None] * images.means, out=d_weight)
    d_weight -= (d_scale * first.r)[:, None] * first.weighted
    d_weight *= first.s[:, None]
