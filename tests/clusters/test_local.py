"""A local cluster: private, authenticated, its own, and ended without a trace."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from quadriga.clusters import local, processes
from quadriga.clusters.local import BrokenRecord, LocalCluster, Shape
from quadriga.clusters.node import NodeSpec
from quadriga.platform import cli, tokens
from quadriga.platform.errors import UserError

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same in IPv6, and ::1, as /proc/net writes them."""


MARKED = secrets.token_hex(8)


def listening(family: set[processes.Process]) -> set[str]:
    """Addresses that these processes listen on."""
    inodes = set()
    for process in family:
        try:
            links = [os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        except OSError:
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:")}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].split(":")[0])
    return found


@pytest.mark.slow
def test_nothing_of_a_cluster_listens_beyond_loopback(cluster: LocalCluster) -> None:
    family = processes.family(cluster.mark)
    assert len(family) > 3
    found = listening(family)
    assert found
    assert found <= LOOPBACK


@pytest.mark.slow
def test_a_cluster_whose_head_ends_while_it_starts_says_so(state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, marks = local._start, []

    def without_a_head(cluster: LocalCluster, spec: NodeSpec, environment: Mapping[str, str]) -> LocalCluster:
        marks.append(cluster.mark)
        for node in cluster.nodes:
            processes.send(node.process, signal.SIGKILL)
        return start(cluster, spec, environment)

    monkeypatch.setattr(local, "_start", without_a_head)
    with pytest.raises(UserError, match=r"'headless' did not start: node 'head' has ended meanwhile.*; logs: ") as told:
        local.up("headless", Shape(workers=1), port=0, dashboard_port=0)
    assert not processes.family(marks[0])
    kept = {log.name for log in Path(str(told.value).split("; logs: ")[1]).iterdir()}
    assert {"head.log", "worker-1.log", "raylet.err", "gcs_server.out"} <= kept


@pytest.mark.slow
def test_dashboard_and_job_api_refuse_without_the_token(cluster: LocalCluster) -> None:
    def status(path: str, **headers: str) -> int:
        request = urllib.request.Request(f"{cluster.dashboard}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    token = tokens.read()
    for path in ("/api/jobs/", "/nodes?view=summary", "/api/v0/actors"):
        assert status(path) == 401
        assert status(path, Authorization="Bearer " + "0" * 64) == 403
        assert status(path, Authorization=f"Bearer {token}") == 200


@pytest.mark.slow
def test_nodes_have_roles_and_two_clusters_stand_side_by_side(cluster: LocalCluster, quadriga) -> None:
    assert [node.name for node in cluster.nodes] == ["head", "worker-1", "worker-2"]
    assert cluster.nodes[0].resources == {"actor_slots": 2.0}
    assert set(cluster.nodes[1].resources) == {"rollouts", "learners", "sandbox"}
    with pytest.raises(UserError, match="is up already"):
        local.up("tests")
    other = local.up("other", Shape(workers=0), port=0, dashboard_port=0)
    try:
        assert other.address != cluster.address and other.dashboard != cluster.dashboard
        status = quadriga("cluster", "status", "--json")
        assert status.returncode == 0, status.stderr
        seen = {line["name"]: line["nodes"] for line in map(json.loads, status.stdout.splitlines())}
        assert seen == {
            "other": {"head": "alive"},
            "tests": {"head": "alive", "worker-1": "alive", "worker-2": "alive"},
        }
        family = processes.family(other.mark)
        assert local.down("other") >= len(family)
        assert not any(map(processes.alive, family))
        assert not Path(other.temp_dir).exists()
        assert all(node.alive for node in cluster.nodes)
    finally:
        if any(each.name == "other" for each in local.clusters()):
            local.down("other")


def test_unknown_cluster_and_bad_names_are_refused(state_folder: Path) -> None:
    with pytest.raises(UserError, match="no local cluster 'nowhere'"):
        local.find("nowhere")
    with pytest.raises(UserError, match="allowed: letters, digits"):
        local.up("../x")


def test_a_taken_port_is_named(state_folder: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"--dashboard-port {port}: Address already in use"):
            local.up("taken", dashboard_port=port)
    assert [cluster.name for cluster in local.clusters() if cluster.name == "taken"] == []


def test_ports_that_do_not_exist_are_refused(state_folder: Path) -> None:
    for port in (-1, 70_000):
        with pytest.raises(UserError, match=f"--port {port}: expected 0 .* to 65535"):
            local.up("ports", port=port)
        with pytest.raises(UserError, match=f"--dashboard-port {port}: expected"):
            local.up("ports", dashboard_port=port)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the record of a cluster `old` is, in a state folder of its own."""
    monkeypatch.setenv("QUADRIGA_STATE", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    (tmp_path / "clusters").mkdir()
    return tmp_path / "clusters" / "old.json"


@pytest.mark.parametrize("text", ["", "null", "[]", '{"nodes": 3}', '{"name": "old", "nodes": [], "hosts": 1}'])
def test_a_record_that_cannot_be_read_is_reported_and_removed(
    text: str, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record.write_text(text)
    assert local.clusters() == [] and local.broken_records() == ["old"]
    with pytest.raises(BrokenRecord, match="remove it with: quadriga cluster down --name old"):
        local.find("old")
    with pytest.raises(UserError, match="end it with: quadriga cluster down --name old"):
        local.up("old", port=0, dashboard_port=0)
    assert cli.run(["cluster", "status"]) == 1
    assert "the record of cluster 'old' cannot be read" in capsys.readouterr().err
    assert local.down("old") == 0
    assert not record.exists() and local.broken_records() == []


def test_what_a_torn_record_names_is_ended_with_it(record: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="quadriga-"))
    record.write_text(f'{{"name": "old", "mark": "{MARKED}", "temp_dir": "{folder}", "nodes": [{{')
    with subprocess.Popen(["sleep", "600"], env={**os.environ, processes.MARK: MARKED}) as left:
        try:
            assert local.down("old") == 1
            assert left.wait() != 0
        finally:
            left.kill()
    assert not folder.exists() and not record.exists()


def test_with_nodes_for_untrusted_code_the_others_take_none() -> None:
    roles = {name: roles for name, _, _, roles in Shape(workers=1, sandbox_workers=1).nodes()}
    assert roles == {"head": (), "worker-1": ("rollouts", "learners"), "sandbox-1": ("sandbox",)}
    assert "sandbox" in next(roles for name, _, _, roles in Shape(workers=1).nodes() if name == "worker-1")


def test_the_head_offers_room_for_actors_where_nodes_have_some() -> None:
    assert Shape(workers=3, sandbox_workers=2, cpus=2).resources(()) == {"actor_slots": 6.0}
    assert Shape(workers=2, cpus=1.5).resources(()) == {"actor_slots": 2.0}
    assert Shape(workers=3).resources(("rollouts",)) == {"rollouts": 1.0}
    assert Shape(workers=0, head_cpus=4).resources(()) == {}
