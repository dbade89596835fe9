"""Hessian-vector products of the strided convolutional network, written out by hand, for MAML's second derivatives.

Pearlmutter 1994's R-operator: the derivative, along a direction of the parameters, of everything that `ConvKernel`'s
forward and backward pass compute. A quantity's derivative has `r_` before its name; the rules for a product and a
convolution are those of calculus, each matrix product becoming two. For normalization, with
`h = (u - mu) r` and `k = scale r`,

    r_h  = r_x r + x r_r,  where x = u - mu and r_r = -r^3 mean(x r_x)
    du   = k q,            where q = dz - mean(dz) - h mean(dz h)
    r_du = r_k q + k r_q

For the first block all of it happens on `[64, 10]` sums, as in `conv_kernel`. Recorded passes are used as they
are, so that a product costs twice a gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from quadriga.metalearn.conv_kernel import Block, First, Images, Views
from quadriga.metalearn.networks import BLOCKS
from quadriga.metalearn.products import product

if TYPE_CHECKING:
    from quadriga.metalearn.conv_kernel import ConvKernel, Tape


class _First(NamedTuple):
    """`C` and means `m` of the patches, and `conv_kernel.First`, as tensors."""

    covariance: Tensor
    means: Tensor
    weighted: Tensor
    mu: Tensor
    r: Tensor
    s: Tensor

    @classmethod
    def of(cls, first: First, images: Images) -> _First:
        """The same memory."""
        return cls(*map(torch.from_numpy, (images.covariance, images.means, *first)))


class _Varied(NamedTuple):
    """Of a block after the first: `h` and derivatives of it and of `r`, and those of the columns and of the output."""

    h: Tensor
    r_h: Tensor
    r_r: Tensor
    r_columns: Tensor
    r_output: Tensor


def curvature(kernel: ConvKernel, tape: Tape, along: Views, result: Views) -> None:
    """Overwrites `result` with the Hessian of the recorded loss times `along`; both as `ConvKernel.bind` makes them."""
    parameters, images, work = tape
    leaves, direction, out = parameters.leaves, along.leaves, result.leaves
    d_weight, d_scale, d_shift = direction[:3]
    first, weight, scale = _First.of(work.first, images), leaves[0], leaves[1]
    patches = images.rows

    # Forward.
    covariance, means = first.covariance, first.means
    r_mu, r_weighted = d_weight @ means, d_weight @ covariance
    r_r = -(first.r**3) * (first.weighted * d_weight).sum(1)
    r_s = r_r * scale + first.r * d_scale
    r_folded = torch.cat(
        [(d_weight * first.s[:, None] + weight * r_s[:, None]).t(), (d_shift - r_s * first.mu - first.s * r_mu)[None]]
    )
    output = work.first_output
    r_output = _where_positive(product(patches, r_folded).view(output.shape), output)
    varied = []
    for index, block in enumerate(work.blocks, 1):
        varied.append(_forward(block, parameters, along, index, r_output))
        r_output = varied[-1].r_output
    features, r_features = work.features, r_output.reshape(images.size, -1)
    r_logits = r_features @ parameters.dense + features @ along.dense + direction[-1]

    # Backward.
    p = work.d_logits * images.size if kernel.mean_loss else work.d_logits
    p = p + images.targets
    r_d_logits = p * (r_logits - (p * r_logits).sum(1, keepdim=True))
    if kernel.mean_loss:
        r_d_logits /= images.size
    torch.addmm(work.d_logits.T @ r_features, r_d_logits.T, features, out=out[-2])
    torch.sum(r_d_logits, 0, out=out[-1])
    r_d_output = (r_d_logits @ leaves[-2] + work.d_logits @ direction[-2]).view(work.blocks[-1].output.shape)
    for index in range(BLOCKS - 1, 0, -1):
        block, now = work.blocks[index - 1], varied[index - 1]
        dz, du = work.slopes[BLOCKS - 1 - index]
        weight, scale = leaves[3 * index : 3 * index + 2]
        r_dz = _where_positive(r_d_output, block.output).reshape(dz.shape)
        n = block.pixels
        k, r_k = scale * block.r, direction[3 * index + 1] * block.r + scale * now.r_r
        moment = (dz * now.h).sum(0)
        r_moment = (r_dz * now.h).sum(0) + (dz * now.r_h).sum(0)
        out[3 * index + 1].copy_(r_moment)
        torch.sum(r_dz, 0, out=out[3 * index + 2])
        r_q = r_dz - out[3 * index + 2] / n
        r_q.addcmul_(now.r_h, moment, value=-1 / n).addcmul_(now.h, r_moment, value=-1 / n)
        q = (dz - dz.mean(0)).addcmul_(now.h, moment, value=-1 / n)
        r_du = torch.addcmul(r_q * k, q, r_k)
        torch.add(product(r_du.T, block.columns), product(du.T, now.r_columns), out=out[3 * index])
        r_d_columns = product(r_du, weight).add_(product(du, direction[3 * index]))
        r_d_output = block.scatter(r_d_columns)
    r_dz = _where_positive(r_d_output, output).reshape(-1, output.shape[-1])
    r_sums = torch.mm(images.turned, r_dz).t()
    varied_first = _First(covariance, means, r_weighted, r_mu, r_r, r_s)
    _first_backward(tape, d_weight, first, varied_first, r_sums, out)


def _where_positive(values: Tensor, output: Tensor) -> Tensor:
    """`values` where a ReLU's output is positive, else 0."""
    return torch.ops.aten.threshold_backward.default(values, output, 0)


def _forward(block: Block, parameters: Views, along: Views, index: int, r_input: Tensor) -> _Varied:
    """One block: the derivative of its output from that of its input."""
    u, output, mu, r = block.u, block.output, block.mu, block.r
    scale, (d_scale, d_shift) = parameters.leaves[3 * index + 1], along.leaves[3 * index + 1 : 3 * index + 3]
    r_columns = block.columns_of(r_input)
    r_u = product(r_columns, parameters.turned[index]).add_(product(block.columns, along.turned[index]))
    x = u - mu
    r_x = r_u.sub_(r_u.mean(0))
    r_r = -(r**3) * (x * r_x).mean(0)
    r_h = torch.addcmul(r_x * r, x, r_r)
    h = x.mul_(r)
    r_z = torch.addcmul(d_shift + h * d_scale, r_h, scale)
    return _Varied(h, r_h, r_r, r_columns, _where_positive(r_z.view(output.shape), output))


def _first_backward(
    tape: Tape, d_weight: Tensor, first: _First, varied: _First, r_sums: Tensor, out: list[Tensor]
) -> None:
    """The first block: `dw = s b` with `b = sums - sum(dz) m' - r dscale w C`, all of size `[64, 9]`."""
    weight, sums = tape.parameters.leaves[0], tape.work.sums
    plain, total = sums[:, :-1], sums[:, -1]
    r_plain, r_total = r_sums[:, :-1], r_sums[:, -1]
    moment = (weight * plain).sum(1) - first.mu * total
    r_moment = (d_weight * plain + weight * r_plain).sum(1) - varied.mu * total - first.mu * r_total
    scale, r_scale = first.r * moment, varied.r * moment + first.r * r_moment
    b = plain - total[:, None] * first.means - (first.r * scale)[:, None] * first.weighted
    r_b = r_plain - r_total[:, None] * first.means - (first.r * scale)[:, None] * varied.weighted
    r_b -= (varied.r * scale + first.r * r_scale)[:, None] * first.weighted
    torch.add(varied.s[:, None] * b, first.s[:, None] * r_b, out=out[0])
    out[1].copy_(r_scale)
    out[2].copy_(r_total)
