"""A local cluster of two workers, started once for all tests that need a real one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import walk_site

from quadriga.clusters import local, monitoring
from quadriga.clusters.jobs import JobServer
from quadriga.clusters.local import LocalCluster, Shape
from quadriga.clusters.monitoring import Thresholds
from quadriga.clusters.node import free_ports

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
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the search path of processes that are to know the line of work of these tests."""
    return walk_site.install(tmp_path_factory.mktemp("walk") / "site")


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


class Prometheus:
    """Debian's Prometheus, which watches a cluster with the files of `quadriga cluster monitor`."""

    def __init__(self, folder: Path, cluster: str, temp_dir: str) -> None:
        if shutil.which("prometheus") is None:
            pytest.skip("no Prometheus: make test-programs")
        monitoring.write(folder / "m", Path(temp_dir, monitoring.DISCOVERY), Thresholds())
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._server = JobServer(cluster)
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/m/{monitoring.PROMETHEUS}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def await_metric(self, name: str, job: str, **labels: str) -> dict[str, Any]:
        """Labels and value of a metric of ours that has these `labels`, once scraped; the job must go on till then."""
        selected = ",".join(f'{label}="{value}"' for label, value in labels.items())
        query = f"{self.url}/api/v1/query?" + urlencode({"query": f"ray_quadriga_{name}{{{selected}}}"})
        while True:
            assert self._process.poll() is None
            assert not self._server.wait(job, 2.0).ended, self._server.logs(job)
            with contextlib.suppress(OSError), urllib.request.urlopen(query, timeout=30) as answer:
                for found in json.load(answer)["data"]["result"]:
                    return {**found["metric"], "value": float(found["value"][1])}

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str, str], Prometheus]]:
    """Starts it for a cluster, by name and folder."""
    running: list[Prometheus] = []

    def start(cluster: str, temp_dir: str) -> Prometheus:
        running.append(Prometheus(tmp_path, cluster, temp_dir))
        return running[-1]

    yield start
    for each in running:
        each.stop()
