"""How a cluster is reached: what counts as this machine, where a driver is sent, and what a lost connection means."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import ray

from quadriga.clusters import commands, connections, processes, submission
from quadriga.clusters.connections import NoAnswer
from quadriga.clusters.jobs import EXIT_RUNNING, JobServer, Needs
from quadriga.clusters.local import LocalCluster, NodeRecord
from quadriga.clusters.processes import Process
from quadriga.platform.errors import UserError

CARTPOLE = "preset: ppo\nenv: CartPole-v1\nsteps: 2000\n"


class Dashboard(ThreadingHTTPServer):
    """Answers as the job API of a head does; the next `silent` questions get no answer at all.

    Attributes:
        jobs: state by id.
        nodes: resources by node, the head first.
        seen: headers of what was asked, in lower case.
        submitted: bodies of submissions.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.silent = 0
        self.jobs: dict[str, str] = {}
        self.nodes: list[dict[str, float]] = []
        self.seen: list[dict[str, str]] = []
        self.submitted: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str) -> Any:
        if path == "/api/version":
            return {"version": "4", "ray_version": ray.__version__, "ray_commit": ""}
        if path == "/api/jobs/":
            return [
                {"type": "SUBMISSION", "submission_id": id, "status": state, "entrypoint": "true", "start_time": 1}
                for id, state in self.jobs.items()
            ]
        if path == "/api/v0/nodes":
            rows = [
                {"node_id": str(number), "node_ip": "10.0.0.1", "is_head_node": number == 0, "state": "ALIVE",
                 "state_message": None, "node_name": str(number), "resources_total": resources, "labels": {}}
                for number, resources in enumerate(self.nodes)
            ]  # fmt: skip
            counts = dict.fromkeys(("total", "num_after_truncation", "num_filtered"), len(rows))
            return {"result": True, "msg": "", "data": {"result": {**counts, "result": rows}}}
        return {}


class Answers(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        self.server.seen.append({name.lower(): value for name, value in self.headers.items()})
        if self.server.silent:
            self.server.silent -= 1
            self.close_connection = True
            return
        self._say(self.server.answer(urlsplit(self.path).path))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.submitted.append(body)
        self._say({"job_id": body["submission_id"], "submission_id": body["submission_id"]})

    def _say(self, answer: Any) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    server = Dashboard()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_only_the_dashboard_of_a_local_cluster_that_is_up_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUADRIGA_STATE", str(tmp_path))
    (tmp_path / "clusters").mkdir()

    def record(process: Process | None) -> None:
        assert process is not None
        node = NodeRecord("head", "n", process, 1, 0, {}, {})
        cluster = LocalCluster("mine", "0" * 16, str(tmp_path), "127.0.0.1:6379", "http://127.0.0.1:8265", (node,))
        (tmp_path / "clusters" / "mine.json").write_text(json.dumps(asdict(cluster)))

    assert not connections.is_here("http://127.0.0.1:8265")
    record(processes.identify(os.getpid()))
    assert connections.is_here("http://127.0.0.1:8265")
    assert connections.is_here(connections.resolve("mine"))
    assert not connections.is_here("http://127.0.0.1:8266")
    assert not connections.is_here("http://localhost:8265")
    record(Process(os.getpid(), 0))  # another process that had this id
    assert not connections.is_here("http://127.0.0.1:8265")


def test_through_a_tunnel_a_cluster_is_elsewhere_and_is_not_shown_the_token(
    dashboard: Dashboard, quadriga, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    (tmp_path / "x.yaml").write_text(CARTPOLE)
    for runs in ([], ["--runs-dir", "runs"]):
        done = quadriga("submit", "x.yaml", "--address", dashboard.url, *runs, RAY_AUTH_TOKEN="0" * 64)
        assert done.returncode == 2 and "--runs-dir: give a URI" in done.stderr, done.stderr
    assert dashboard.seen and not any("authorization" in headers for headers in dashboard.seen)
    assert dashboard.submitted == []


def test_a_driver_is_sent_to_the_head_unless_it_asks_for_what_is_elsewhere(
    dashboard: Dashboard, tmp_path: Path
) -> None:
    dashboard.nodes = [{"CPU": 2.0, "node:__internal_head__": 1.0}, {"CPU": 8.0, "sandbox": 1.0}]
    server = JobServer(dashboard.url)
    for needs in (Needs(), Needs(cpus=0), Needs(gpus=1), Needs(resources={"big": 1})):
        server.submit("x", "true", tmp_path, needs=needs)
    asked = [body.get("entrypoint_resources") for body in dashboard.submitted]
    head = {"node:__internal_head__": 0.001}
    assert asked == [head, head, None, {"big": 1}]
    with pytest.raises(UserError, match=r"--cpus 3: the head of .* has 2 CPU slots"):
        server.submit("x", "true", tmp_path, needs=Needs(cpus=3))
    dashboard.nodes[0]["actor_slots"] = 4.0
    server.submit("x", "true", tmp_path, needs=Needs(slots=4))
    assert dashboard.submitted[-1]["entrypoint_resources"] == {**head, "actor_slots": 4}


def test_run_and_job_bear_a_name_that_nothing_else_has(dashboard: Dashboard, tmp_path: Path) -> None:
    dashboard.nodes = [{"CPU": 1.0, "node:__internal_head__": 1.0}]
    dashboard.jobs = {"x-2": "SUCCEEDED"}
    (tmp_path / "x.yaml").write_text(CARTPOLE)
    runs = tmp_path / "runs"
    (runs / "x").mkdir(parents=True)  # no run, yet a run that is called so would get another name
    (runs / "x-3").touch()
    request = submission.Request([str(tmp_path / "x.yaml")], fields={"name": "x"}, runs_dir=str(runs))
    assert submission.submit(JobServer(dashboard.url), request)[0] == "x-4"
    assert "--name x-4" in dashboard.submitted[0]["entrypoint"]
    assert dashboard.submitted[0]["metadata"]["run"] == str(runs / "x-4")


def test_a_local_cluster_gives_out_no_slots_of_nodes_that_are_dead(dashboard: Dashboard, tmp_path: Path) -> None:
    worker = {"CPU": 1.5, "rollouts": 1.0, "learners": 1.0, "sandbox": 1.0}
    dashboard.nodes = [{"CPU": 1.0, "actor_slots": 2.0}, worker, worker, {"CPU": 9.0, "sandbox": 1.0}]
    server = JobServer(dashboard.url)
    server.is_local = True
    assert server.actor_slots() == 2
    del dashboard.nodes[1]
    assert server.actor_slots() == 1
    with pytest.raises(UserError, match=r"occupy 2 CPU slots at once, the nodes of .* have 1:"):
        server.submit("x", "true", tmp_path, needs=Needs(slots=2))
    server.is_local = False  # where more nodes may come
    assert server.actor_slots() == 2


def test_a_connection_that_breaks_is_taken_up_again(dashboard: Dashboard) -> None:
    server = JobServer(dashboard.url)
    dashboard.jobs["x"], dashboard.silent = "SUCCEEDED", 2
    assert server.wait("x").state == "SUCCEEDED"
    assert dashboard.silent == 0


def test_a_connection_that_stays_lost_says_that_the_job_goes_on(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = JobServer(dashboard.url)
    dashboard.silent = 1_000_000
    monkeypatch.setattr(connections, "RECONNECT_S", 0.0)
    with pytest.raises(NoAnswer, match="job x goes on: quadriga jobs logs x --follow"):
        server.wait("x")
    assert commands._follow(server, "x") == EXIT_RUNNING
    assert "job x goes on" in capsys.readouterr().err
    for ask in (server.actor_slots, server.list):
        with pytest.raises(NoAnswer, match="no cluster answers at"):
            ask()


class Tunnel:
    """Forwards TCP connections to a port of this machine; while it is `broken` it closes every one at once."""

    def __init__(self, port: int) -> None:
        self._port, self._open = port, list[socket.socket]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.broken, self.refused = False, threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def break_(self) -> None:
        """Closes all connections, and those to come."""
        self.broken = True
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()
        self.break_()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                if self.broken:
                    near.close()
                    self.refused.set()
                    continue
                far = socket.create_connection(("127.0.0.1", self._port))
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_a_job_is_followed_to_its_end_through_a_tunnel_that_breaks(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "speak.py").write_text(
        "import pathlib, time\n"
        "print('first words')\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists():\n"
        "    time.sleep(0.1)\n"
        "print('last words')\n"
    )
    tunnel = Tunnel(int(cluster.dashboard.rpartition(":")[2]))
    following = subprocess.Popen(
        [sys.executable, "-m", "quadriga.platform.cli", "submit", "--address", tunnel.url, "--", "python", "speak.py"],
        cwd=tmp_path,
        env={**os.environ, "RAY_AUTH_MODE": "token"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        lines = iter(following.stdout)
        assert any("first words" in line for line in lines)
        tunnel.break_()
        (tmp_path / "go").touch()
        assert tunnel.refused.wait(60)
        tunnel.broken = False
        rest = "".join(lines)
        assert following.wait() == 0, following.communicate()[1]
        assert rest.count("last words") == 1 and "first words" not in rest
    finally:
        following.kill()
        tunnel.close()
