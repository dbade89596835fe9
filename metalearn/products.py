"""Matrix products of the sizes that inner steps are made of: a few hundred rows, 64 or 576 columns.

PyTorch hands a float32 product to MKL, which reaches half of what oneDNN does at these sizes on AMD's
processors. PyTorch's own oneDNN product, made for compiled inference, takes transposed views without
copying. It is used where PyTorch was built with it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _onednn() -> Callable[[Tensor, Tensor], Tensor] | None:
    """`a @ b.T` by oneDNN, or `None` where it does not work."""
    try:
        operation = torch.ops.mkldnn._linear_pointwise.default

        def multiply(a: Tensor, b: Tensor) -> Tensor:
            result: Tensor = operation(a, b, None, "none", [], "")
            return result

        a, b = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
        works = torch.backends.mkldnn.is_available() and torch.allclose(multiply(a, b), a @ b.T)
    except (AttributeError, RuntimeError, NotImplementedError):
        return None
    return multiply if works else None


with torch.no_grad():
    _MULTIPLY = _onednn()


def linear(a: Tensor, weight: Tensor) -> Tensor:
    """`a` `[m, k]` times the transpose of `weight` `[n, k]`, as `product`."""
    if _MULTIPLY is None or a.dtype != torch.float32:
        return torch.mm(a, weight.T)
    return _MULTIPLY(a, weight)


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a` `[m, k]` times `b` `[k, n]` on the CPU; either may be a transposed view. Not differentiable."""
    return linear(a, b.T)
