"""What Prometheus and Grafana are asked for exists, and Prometheus itself accepts the files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from quadriga.clusters import monitoring
from quadriga.clusters.jobs import JobServer
from quadriga.clusters.local import LocalCluster
from quadriga.clusters.monitoring import Thresholds
from quadriga.platform.metrics import METRICS

NAMES = re.compile(r"ray_quadriga_(\w+)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    monitoring.write(tmp_path / "m", tmp_path / "discovery.json", Thresholds(cost_limit=10))
    return tmp_path / "m"


def test_every_query_names_a_metric_that_exists(folder: Path) -> None:
    dashboards = sorted((folder / "grafana" / "dashboards").glob("*.json"))
    assert len(dashboards) == len(monitoring.DASHBOARDS)
    queried = set()
    for file in dashboards:
        made = json.loads(file.read_text())
        queries = [target["expr"] for panel in made["panels"] for target in panel["targets"]]
        queries += [variable["definition"] for variable in made["templating"]["list"]]
        assert all(NAMES.search(query) for query in queries)
        queried |= {name for query in queries for name in NAMES.findall(query)}
    rules = yaml.safe_load((folder / monitoring.ALERTS).read_text())["groups"][0]["rules"]
    queried |= {name for rule in rules for name in NAMES.findall(rule["expr"])}
    assert queried - set(METRICS) == set()
    assert any(rule["expr"].endswith("episode_cost_mean > 10") for rule in rules)


def test_grafana_finds_the_dashboards_where_they_are(folder: Path) -> None:
    provider = yaml.safe_load((folder / "grafana/provisioning/dashboards/quadriga.yml").read_text())["providers"][0]
    assert Path(provider["options"]["path"]) == folder / "grafana" / "dashboards"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")
def test_prometheus_accepts_configuration_and_rules(folder: Path) -> None:
    (folder.parent / "discovery.json").write_text('[{"targets": ["127.0.0.1:1"], "labels": {"job": "ray"}}]')
    done = subprocess.run(
        ["promtool", "check", "config", str(folder / monitoring.PROMETHEUS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(monitoring.rules(Thresholds())['groups'][0]['rules'])} rules found" in done.stdout


@pytest.mark.slow
def test_prometheus_scrapes_the_metrics_of_a_job(cluster: LocalCluster, quadriga, prometheus, tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(
        "preset: ppo\nenv: CartPole-v1\nsteps: 100000000\nrollout: {envs_per_runner: 2, batch_size: 1000}\n"
    )
    running = prometheus("tests", cluster.temp_dir)
    submitted = quadriga("submit", "long.yaml", "--no-wait", "--json", "--address", "tests")
    id = json.loads(submitted.stdout)["id"]
    found = running.await_metric("env_steps", id, run=id)
    assert (found["run"], found["algorithm"], found["environment"]) == (id, "ppo", "CartPole-v1")
    assert found["value"] >= 1000
    JobServer("tests").stop(id)


@pytest.mark.slow
def test_prometheus_counts_what_sandbox_workers_judge(
    cluster: LocalCluster, quadriga, prometheus, tmp_path: Path
) -> None:
    """Samples that sleep keep the workers alive until they were scraped."""
    samples = tmp_path / "samples.jsonl"
    wrong = {"task_id": "Quadriga/0", "completion": "    import time\n    time.sleep(2)\n    return numbers\n"}
    samples.write_text(
        "".join(f"{json.dumps({**wrong, 'completion': wrong['completion'] + f'# {n}'})}\n" for n in range(100))
    )
    running = prometheus("tests", cluster.temp_dir)
    words = [
        "quadriga",
        "code",
        "execute",
        str(samples),
        "--problems",
        "builtin",
        "--partial",
        "--ray",
        "--workers",
        "1",
    ]
    submitted = quadriga("submit", "--no-wait", "--json", "--address", "tests", "--", *words)
    id = json.loads(submitted.stdout)["id"]
    found = running.await_metric("samples_judged_total", id)
    assert found["verdict"] == "failed"
    assert found["value"] >= 1
    JobServer("tests").stop(id)
