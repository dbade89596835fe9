"""What every test may ask for: the data beside the checkout, and a running Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch, numpy or Ray are imported: one thread a process, and workers at normal priority.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Ray workers find the environments of the tests where pytest does (`pythonpath` in pyproject.toml).
SUPPORT = str(ROOT / "tests" / "support")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH")]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data sets: `QUADRIGA_DATA`, or `../shared/data` beside the checkout; skips the test without them."""
    given = os.environ.get("QUADRIGA_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set QUADRIGA_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with four CPU slots, whatever RAY_ADDRESS says."""
    import ray

    from quadriga.platform.runtime import ensure_ray

    ensure_ray("local", num_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; skips the test without one."""
    import chromium

    yield from chromium.launched()
