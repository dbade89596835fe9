"""Both ways to multiply give the same product, whatever this processor would choose."""

from __future__ import annotations

import pytest
import torch

from quadriga.metalearn import products


@pytest.mark.parametrize(
    ("cpuinfo", "suits"),
    [
        ("vendor_id : GenuineIntel\nflags : avx2 avx512f", True),
        ("vendor_id : GenuineIntel\nflags : avx2", True),
        ("vendor_id : AuthenticAMD\nflags : avx2", True),
        ("vendor_id : AuthenticAMD\nflags : avx2 avx512f", False),
        ("CPU implementer : 0x41", False),
        ("", False),
    ],
)
def test_mkl_is_left_where_it_does_not_use_what_the_processor_has(cpuinfo: str, suits: bool) -> None:
    assert products._suits_mkl(cpuinfo) == suits


@pytest.mark.parametrize("shape", [(1, 9, 64), (140, 576, 64), (64, 140, 576)])
@pytest.mark.parametrize("transposed", [False, True])
def test_either_way_is_the_product(
    shape: tuple[int, int, int], transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, inner, columns = shape
    a = torch.randn(inner, rows).t() if transposed else torch.randn(rows, inner)
    b = torch.randn(columns, inner).t() if transposed else torch.randn(inner, columns)
    exact = (a.double() @ b.double()).float()
    for way in (None, products._onednn()):
        monkeypatch.setattr(products, "_MULTIPLY", way)
        out = torch.empty(rows, columns)
        products.product_into(a, b, out)
        torch.testing.assert_close(products.product(a, b), exact, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(out, exact, rtol=1e-4, atol=1e-4)
