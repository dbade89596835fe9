"""Nodes that are lost in the middle of every kind of work: it ends with the right counts, and says what happened.

Real nodes and real signals. What is lost in each case is written down in docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import node_faults
import pyarrow.parquet as pq
import pytest
from killed_commands import command

from quadriga.clusters import local
from quadriga.clusters.local import LocalCluster, NodeRecord, Shape

pytestmark = pytest.mark.slow

FAULTS = {"vanishes": node_faults.vanish, "is preempted": node_faults.preempt, "freezes": node_faults.freeze}
IMPATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
"""A node that is silent for a quarter of a minute has left the cluster; a head that is, has died."""

CARTPOLE = """\
preset: ppo
env: CartPole-v1
steps: 20_000
rollout: {env_runners: 2, envs_per_runner: 2, batch_size: 1000, sample_timeout: 20}
update: {epochs: 2}
checkpoint: {every_iterations: 2}
"""
SINE = """\
preset: sine
steps: 400
report_every: 20
task: {kind: sine, hidden: [8]}
evaluation: {tasks: 3}
compute: {workers: 2}
"""
SEARCH = """\
preset: walk
steps: 400_000
checkpoint: {every_iterations: 20}
search:
  parameters: {learning_rate: {grid: [0.000001, 0.001, 0.05, 0.1]}}
  objective: {maximize: episode_return_mean, average: 1}
"""
SAMPLES = 1500


@pytest.fixture(scope="module")
def site(site: Path) -> str:
    """As a search path, before the one that the tests have."""
    return os.pathsep.join([str(site), os.environ["PYTHONPATH"]])


@pytest.fixture(scope="module", params=FAULTS)
def striking(
    request: pytest.FixtureRequest, state_folder: Path, site: str
) -> Iterator[tuple[LocalCluster, Callable[[NodeRecord], None]]]:
    """A cluster that can spare a node for each test, and what befalls its nodes."""
    cluster = local.up(
        "faults",
        Shape(workers=5, cpus=2),
        port=0,
        dashboard_port=0,
        extra_environment={"PYTHONPATH": site, **IMPATIENT},
    )
    yield cluster, FAULTS[request.param]
    local.down("faults")


class Work:
    """A command that is watched while it works on a cluster."""

    def __init__(self, folder: Path, site: str, cluster: LocalCluster, *arguments: str) -> None:
        self.folder = folder
        self.log = (folder / "log.txt").open("w+")
        environment = {**os.environ, **IMPATIENT, "PYTHONPATH": site, "RAY_ADDRESS": cluster.address}
        self.process = subprocess.Popen(
            command(*arguments), cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=self.log
        )
        assert self.process.stdout is not None
        self.rows: Iterator[dict[str, Any]] = map(json.loads, self.process.stdout)

    def meet(self, moment: Callable[[dict[str, Any]], bool], fault: Callable[[], None]) -> None:
        """Lets it meet `fault` at the first row that is the `moment`, and follows it to its end."""
        struck = False
        for row in self.rows:
            if not struck and moment(row):
                fault()
                struck = True

    def ended(self) -> str:
        """What it said of the fault, when it has ended well."""
        code = self.process.wait()
        said = self.said()
        assert code == 0, said
        return said

    def said(self) -> str:
        """Its warnings and errors."""
        self.log.seek(0)
        return self.log.read()


def column(run: Path, name: str) -> list[Any]:
    found: list[Any] = pq.read_table(run / "metrics.parquet").column(name).to_pylist()
    return found


def struck(cluster: LocalCluster, title: str, strike: Callable[[NodeRecord], None]) -> None:
    """Strikes a node that runs such an actor."""
    strike(node_faults.hosts(cluster, title)[0])


def test_training_goes_on_when_a_node_is_lost(striking: Any, site: str, tmp_path: Path) -> None:
    cluster, strike = striking
    (tmp_path / "x.yaml").write_text(CARTPOLE)
    # Long enough for a node that was told to go to be gone before the end.
    work = Work(tmp_path, site, cluster, "train", "x.yaml", "--name", "x", "--steps", "80k", "--json")
    work.meet(lambda row: row.get("env_steps") == 3000, lambda: struck(cluster, "ColumnEnvRunner", strike))
    assert re.search(r"[12] of 2 env runners were lost after env step", work.ended())
    assert column(tmp_path / "runs" / "x", "env_steps") == list(range(1000, 81_000, 1000))


def test_meta_training_goes_on_to_the_same_numbers_when_a_node_is_lost(
    striking: Any, site: str, tmp_path: Path
) -> None:
    cluster, strike = striking
    (tmp_path / "x.yaml").write_text(SINE)
    work = Work(tmp_path, site, cluster, "train", "x.yaml", "--name", "x", "--json")
    work.meet(lambda row: row.get("iteration") == 2, lambda: struck(cluster, "TaskWorker", strike))
    assert "died and is replaced; its tasks are learned again" in work.ended()
    alone = Work(tmp_path, site, cluster, "train", "x.yaml", "--name", "alone", "--set", "compute.workers=0", "--quiet")
    assert alone.ended() == ""
    runs = [tmp_path / "runs" / name for name in ("x", "alone")]
    for name in ("meta_iterations", "inner_loss", "query_loss"):
        assert column(runs[0], name) == column(runs[1], name), name
    assert max(column(runs[0], "task_worker_restarts")) in (1, 2)  # both may have been on that node


def test_a_search_goes_on_when_a_node_is_lost(striking: Any, site: str, tmp_path: Path) -> None:
    cluster, strike = striking
    (tmp_path / "x.yaml").write_text(SEARCH)
    work = Work(tmp_path, site, cluster, "tune", "x.yaml", "--name", "x", "--json")
    work.meet(
        lambda row: row.get("step", 0) >= 60_000 and bool(node_faults.hosts(cluster, "ImplicitFunc")),
        lambda: struck(cluster, "ImplicitFunc", strike),
    )
    assert "its process or node died; it goes on from its last checkpoint" in work.ended()
    trials = json.loads((tmp_path / "runs" / "x" / "trials.json").read_text())
    assert [(each["step"], each["error"]) for each in trials] == [(400_000, None)] * 4
    for each in trials:
        steps = column(tmp_path / "runs" / "x" / "trials" / each["trial"], "env_steps")
        assert steps == list(range(1000, 401_000, 1000))


def test_no_sample_is_lost_or_judged_twice_when_a_node_is_lost(striking: Any, site: str, tmp_path: Path) -> None:
    from quadriga.codegen.problems import problems

    cluster, strike = striking
    task, problem = next(iter(problems("builtin").items()))
    with (tmp_path / "s.jsonl").open("w") as stream:
        for number in range(SAMPLES):
            body = problem.canonical if number % 3 else "    return None\n"
            stream.write(json.dumps({"task_id": task, "completion": f"{body}# {number}\n"}) + "\n")
    out = tmp_path / "r.jsonl"
    work = Work(
        tmp_path, site, cluster, "code", "execute", "s.jsonl", "--problems", "builtin", "--partial",
        "--workers", "2", "--address", cluster.address, "--out", str(out), "--json",
    )  # fmt: skip
    while not out.exists() or out.stat().st_size < 20_000:
        assert work.process.poll() is None, work.said()
    struck(cluster, "SandboxWorker", strike)
    (summary,) = list(work.rows)
    assert "sandbox worker" in work.ended()
    assert summary["samples"] == SAMPLES
    verdicts = {kind: count for kind, count in summary["verdicts"].items() if count}
    assert verdicts == {"passed": SAMPLES - SAMPLES // 3, "failed": SAMPLES // 3}
    assert len(out.read_text().splitlines()) == SAMPLES


def test_a_run_goes_on_from_its_storage_when_the_head_is_lost(state_folder: Path, site: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(CARTPOLE)
    runs = f"local://{tmp_path}/storage"
    shape = Shape(workers=2)
    cluster = local.up("mortal", shape, port=0, dashboard_port=0, extra_environment={"PYTHONPATH": site})
    try:
        work = Work(tmp_path, site, cluster, "train", "x.yaml", "--name", "x", "--runs-dir", runs, "--json")
        work.meet(lambda row: row.get("env_steps") == 5000, lambda: node_faults.vanish(cluster.nodes[0]))
        assert work.process.wait() != 0
    finally:
        local.down("mortal")
    cluster = local.up("mortal", shape, port=0, dashboard_port=0, extra_environment={"PYTHONPATH": site})
    try:
        again = Work(tmp_path, site, cluster, "train", "--resume", "x", "--runs-dir", runs, "--quiet")
        again.ended()
    finally:
        local.down("mortal")
    assert column(tmp_path / "storage" / "x", "env_steps") == list(range(1000, 21_000, 1000))
