"""A local cluster of two workers, started once for all tests that need a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quadriga.clusters import local
from quadriga.clusters.local import LocalCluster, Shape

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Records of clusters of these tests alone."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUADRIGA_STATE", str(folder))
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def cluster(state_folder: Path) -> Iterator[LocalCluster]:
    """Head and two workers, on free ports."""
    made = local.up("tests", Shape(workers=2), port=0, dashboard_port=0)
    yield made
    local.down("tests")


@pytest.fixture
def quadriga(state_folder: Path, tmp_path: Path) -> Run:
    """The command line as a process in an empty folder."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "quadriga.platform.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return call
