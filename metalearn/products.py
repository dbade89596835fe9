"""Matrix products of the sizes that inner steps are made of: a few hundred rows, 64 or 576 columns.

PyTorch hands a float32 product to MKL, which is the fastest there is at these sizes but on an AMD processor with
AVX-512: MKL leaves that to Intel's, and reaches half of what oneDNN does. There PyTorch's own oneDNN product is used,
made for compiled inference; it takes transposed views without copying. The choice depends on the kind of processor
alone, so that all processes of a machine compute the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def _suits_mkl(cpuinfo: str) -> bool:
    """Whether MKL uses all that a processor can do, by what Linux says of it."""
    return "GenuineIntel" in cpuinfo or ("AuthenticAMD" in cpuinfo and "avx512f" not in cpuinfo)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


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
    _MULTIPLY = None if torch.backends.mkl.is_available() and _suits_mkl(_cpuinfo()) else _onednn()


def product(a: Tensor, b: Tensor, room: Tensor | None = None) -> Tensor:
    """`a` `[m, k]` times `b` `[k, n]` on the CPU; either may be a transposed view. Not differentiable.

    Args:
        a: the first factor.
        b: the second.
        room: `[m, n]`, whose memory the result may take; it need not.
    """
    if _MULTIPLY is None or a.dtype != torch.float32:
        return torch.mm(a, b) if room is None else torch.mm(a, b, out=room)
    return _MULTIPLY(a, b.t())


def product_into(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Overwrites `out` with `product`."""
    result = product(a, b, out)
    if result is not out:
        out.copy_(result)
