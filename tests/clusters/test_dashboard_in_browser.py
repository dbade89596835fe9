"""From an empty folder to a job in the dashboard, seen by a real browser; without the token it shows nothing.

The dashboard draws metrics with Grafana, which Debian does not have: here they are seen in Prometheus' own page.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import PATIENCE_MS

from quadriga.clusters import processes
from quadriga.platform import tokens

pytestmark = pytest.mark.slow

DEMO = """\
preset: pid-lagrangian
env: SafetyPointGoal1-v0
steps: 100_000_000
rollout: {env_runners: 1, envs_per_runner: 2, batch_size: 1000}
update: {minibatch_size: 500}
"""
LISTENER = re.compile(r"^LISTEN\s+\S+\s+\S+\s+(?P<address>\S+):\d+\s.*?pid=(?P<pid>\d+)")


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


@pytest.fixture
def demo(quadriga: Any, tmp_path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """A cluster brought up and a job submitted by the commands of the first page; ended at last."""
    up = quadriga("cluster", "up", "--name", "pages", "--port", "0", "--dashboard-port", "0", "--json")
    assert up.returncode == 0, up.stderr
    try:
        (tmp_path / "demo.yaml").write_text(DEMO)
        submitted = quadriga("submit", "demo.yaml", "--name", "careful", "--no-wait", "--json", "--address", "pages")
        assert submitted.returncode == 0, submitted.stderr
        yield json.loads(up.stdout), json.loads(submitted.stdout)["id"]
    finally:
        assert quadriga("cluster", "down", "--name", "pages").returncode == 0


def listeners(family: set[processes.Process]) -> set[str]:
    """Addresses that these processes listen on, as `ss` says."""
    said = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    found = filter(None, map(LISTENER.match, said.splitlines()))
    pids = {process.pid for process in family}
    return {match["address"] for match in found if int(match["pid"]) in pids}


def test_a_submitted_job_and_its_metrics_are_seen_with_the_token_only(
    demo: tuple[dict[str, Any], str], page: Any, prometheus: Any, quadriga: Any, tmp_path: Path
) -> None:
    cluster, id = demo
    found = listeners(processes.family(cluster["mark"]))
    assert found
    assert all(address.strip("[]").removeprefix("::ffff:") in ("127.0.0.1", "::1") for address in found), found

    page.goto(f"{cluster['dashboard']}/#/jobs")
    page.get_by_text("Authentication Token Required").wait_for()
    assert id not in page.inner_text("body")
    page.screenshot(path=tmp_path / "refused.png")
    field = page.get_by_placeholder("Enter your authentication token")
    field.fill("0" * 64)
    field.press("Enter")
    page.get_by_text(re.compile("token is invalid|Invalid authentication token")).first.wait_for()
    assert id not in page.inner_text("body")
    field.fill(tokens.read() or "")
    field.press("Enter")
    page.get_by_text("Authentication Token Required").wait_for(state="hidden")

    page.goto(f"{cluster['dashboard']}/#/jobs/{id}")
    page.get_by_text(id).first.wait_for()
    page.get_by_text("pid-lagrangian").first.wait_for()
    page.screenshot(path=tmp_path / "job.png", full_page=True)
    page.goto(f"{cluster['dashboard']}/#/actors")
    page.get_by_text("environment runner 1 of SafetyPointGoal1-v0").first.wait_for()
    page.screenshot(path=tmp_path / "actors.png", full_page=True)
    page.goto(f"{cluster['dashboard']}/#/metrics")
    page.get_by_text("Prometheus").first.wait_for()
    page.screenshot(path=tmp_path / "metrics.png", full_page=True)

    running = prometheus("pages", cluster["temp_dir"])
    running.await_metric("lagrange_multiplier", id)
    page.goto(f"{running.url}/graph?g0.expr=ray_quadriga_lagrange_multiplier&g0.tab=1")
    page.get_by_text(f'run="{id}"').first.wait_for()
    assert 'environment="SafetyPointGoal1-v0"' in page.inner_text("body")
    page.screenshot(path=tmp_path / "prometheus.png", full_page=True)
    assert quadriga("jobs", "stop", id, "--address", "pages").returncode == 0
    logs = quadriga("jobs", "logs", id, "--address", "pages").stdout
    assert "a checkpoint is saved" in logs
    for name in ("refused", "job", "actors", "metrics", "prometheus"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
