"""Local clusters: a head and several worker nodes on one machine, each with its own raylet and resources.

They ask for the user's token, listen on the loopback interface only, and have a folder and ports of
their own, so several can run side by side. A record of each is kept in the user's state folder
(`QUADRIGA_STATE`), with which `down` ends exactly what `up` started.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quadriga.clusters import processes
from quadriga.clusters.node import LOOPBACK, NodeSpec, save_logs
from quadriga.clusters.processes import MARK, Process
from quadriga.platform import placement, tokens
from quadriga.platform.errors import UserError, nearest
from quadriga.platform.runtime import ENVIRONMENT, LOOPBACK_ONLY

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
DEFAULT_NAME = "local"
GCS_PORT, DASHBOARD_PORT = 6379, 8265
MAX_PORT = 65535
STARTUP_S = 240.0
ATTEMPTS = 2
PATIENCE_S = 20.0
STOP_WAIT_S = 120
"""Seconds that a stopped job has to finish its iteration and save a checkpoint; Ray's own 3 lose it."""
QUEUE_S = 10 * 365 * 24 * 3600
"""Seconds that a job may wait for others to end; after Ray's own 900 it has failed."""


class BrokenRecord(UserError):
    """There is a record of a cluster, and it cannot be read."""

    def __init__(self, name: str) -> None:
        """`name` of the cluster."""
        super().__init__(
            f"the record of cluster {name!r} cannot be read; remove it with: quadriga cluster down --name {name}"
        )


@dataclass(frozen=True)
class NodeRecord:
    """A node that runs: `process` holds its Ray processes as descendants."""

    name: str
    node_id: str
    process: Process
    cpus: float
    gpus: float
    resources: dict[str, float]
    labels: dict[str, str]

    @property
    def alive(self) -> bool:
        """Whether its process runs; it ends when its raylet does."""
        return processes.alive(self.process)


@dataclass(frozen=True)
class LocalCluster:
    """What is known of a cluster.

    Attributes:
        name: of the cluster.
        mark: in the environment of everything it started.
        temp_dir: Ray's folder, logs included.
        address: `host:port` of its control store; empty while it starts.
        dashboard: URL of the dashboard and the job API.
        nodes: head first.
    """

    name: str
    mark: str
    temp_dir: str
    address: str = ""
    dashboard: str = ""
    nodes: tuple[NodeRecord, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether its head runs."""
        return bool(self.nodes) and self.nodes[0].alive

    def environment(self) -> dict[str, str]:
        """What a shell sets so that Ray's own tools, and ours, find the cluster."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_AUTH_MODE": "token",
            **LOOPBACK_ONLY,
        }


@dataclass(frozen=True)
class Shape:
    """How large a cluster is to be.

    Attributes:
        workers: nodes beside the head, for rollouts and learners.
        sandbox_workers: further nodes, labelled for untrusted code. Without them every worker is.
        cpus: CPU slots of each worker.
        gpus: GPUs of each worker.
        head_cpus: CPU slots of the head, where jobs are driven from.
        object_store_bytes: of each node.
    """

    workers: int = 2
    sandbox_workers: int = 0
    cpus: float = 1
    gpus: float = 0
    head_cpus: float = 1
    object_store_bytes: int = 256 << 20

    def nodes(self) -> Iterator[tuple[str, float, float, tuple[str, ...]]]:
        """Name, CPU slots, GPUs and roles of each node, head first."""
        yield "head", self.head_cpus, 0, ()
        trusted = (placement.ROLLOUTS, placement.LEARNERS)
        roles = trusted if self.sandbox_workers else (*trusted, placement.SANDBOX)
        for number in range(1, self.workers + 1):
            yield f"worker-{number}", self.cpus, self.gpus, roles
        for number in range(1, self.sandbox_workers + 1):
            yield f"sandbox-{number}", self.cpus, 0, (placement.SANDBOX,)

    def resources(self, roles: Sequence[str]) -> dict[str, float]:
        """What a node of these roles offers besides CPUs and GPUs; the head, which has none, room for jobs' actors.

        An actor takes a whole CPU slot of one worker: what is left of a fraction is no room.
        """
        slots = float(self.workers * math.floor(self.cpus))
        return dict.fromkeys(roles, 1.0) or ({placement.ACTOR_SLOTS: slots} if slots else {})


def up(
    name: str = DEFAULT_NAME,
    shape: Shape | None = None,
    *,
    port: int | None = None,
    dashboard_port: int | None = None,
    extra_environment: Mapping[str, str] | None = None,
) -> LocalCluster:
    """Starts a cluster and waits until all of its nodes have joined.

    Args:
        name: of the cluster.
        shape: how large.
        port: of the control store; by default Ray's 6379 if it is free, else any.
        dashboard_port: by default Ray's 8265 if it is free, else any.
        extra_environment: for all its processes, e.g. where the data are.

    Raises:
        UserError: the name is taken, a port is, or Ray does not start; then only logs are left, where it says.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"cluster name {name!r}: allowed: letters, digits and . _ -, at most 32")
    ports = _port("--port", port, GCS_PORT), _port("--dashboard-port", dashboard_port, DASHBOARD_PORT)
    tokens.ensure()
    cluster = _claim(name)
    environment = {**_environment(cluster.mark), **(extra_environment or {})}
    try:
        for node in _specifications(cluster, shape or Shape(), ports):
            cluster = _start(cluster, node, environment)
            _write(cluster)
    except UserError as error:
        _end(cluster, logs := _folder() / "failed" / name)
        raise UserError(f"{error}; logs: {logs}") from None
    except BaseException:
        _end(cluster)
        raise
    return cluster


def down(name: str = DEFAULT_NAME) -> int:
    """Ends a cluster, also one that is half up or half dead, and removes its folder.

    Of one whose record cannot be read, what still bears the mark that it names, and the record.

    Returns:
        How many processes were ended.

    Raises:
        UserError: there is no such cluster.
    """
    try:
        return _end(find(name))
    except BrokenRecord:
        return _end(_salvaged(name))


def find(name: str) -> LocalCluster:
    """The cluster of this name.

    Raises:
        UserError: there is none; names the nearest.
        BrokenRecord: its record cannot be read.
    """
    known = {cluster.name: cluster for cluster in clusters()}
    if name in known:
        return known[name]
    if name in broken_records():
        raise BrokenRecord(name)
    others = f"; running: {', '.join(sorted(known))}" if known else "; begin with: quadriga cluster up"
    raise UserError(f"no local cluster {name!r}{nearest(name, known) or others}")


def clusters() -> list[LocalCluster]:
    """All that have a record which can be read, by name."""
    found = []
    for path in sorted(_folder().glob("*.json")):
        with contextlib.suppress(FileNotFoundError, BrokenRecord):  # another process is removing or writing it
            found.append(_read(path))
    return found


def broken_records() -> list[str]:
    """The names of clusters whose record cannot be read: the disk was full, or another version wrote it."""
    names = []
    for path in sorted(_folder().glob("*.json")):
        try:
            _read(path)
        except BrokenRecord:
            names.append(path.stem)
        except FileNotFoundError:  # another process has just removed it
            continue
    return names


def _claim(name: str) -> LocalCluster:
    """A record of the name before anything is started, so that what was begun can be ended."""
    _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    path = _folder() / f"{name}.json"
    try:
        path.open("x").close()
    except FileExistsError:
        raise UserError(
            f"cluster {name!r} is up already, or was; end it with: quadriga cluster down --name {name}"
        ) from None
    # Short, for Ray's sockets lie in it and their paths may have 107 bytes.
    cluster = LocalCluster(name, secrets.token_hex(8), tempfile.mkdtemp(prefix="quadriga-"))
    _write(cluster)
    return cluster


def _specifications(cluster: LocalCluster, shape: Shape, ports: tuple[int, int]) -> Iterator[NodeSpec]:
    for name, cpus, gpus, roles in shape.nodes():
        yield NodeSpec(
            name=name,
            temp_dir=cluster.temp_dir,
            answer=f"{cluster.temp_dir}/{name}.answer.json",
            head=name == "head",
            port=ports[0],
            dashboard_port=ports[1],
            cpus=cpus,
            gpus=gpus,
            resources=shape.resources(roles),
            labels={"quadriga.node": name, **{f"quadriga.{role}": "true" for role in roles}},
            object_store_bytes=shape.object_store_bytes,
        )


def _start(cluster: LocalCluster, spec: NodeSpec, environment: Mapping[str, str]) -> LocalCluster:
    """The cluster with one more node. On a busy machine a node may join too late for Ray and is tried again."""
    spec = replace(spec, address=cluster.address or None)
    path, log = Path(cluster.temp_dir, f"{spec.name}.json"), Path(cluster.temp_dir, f"{spec.name}.log")
    for _ in range(ATTEMPTS):
        spec.write(path)
        with log.open("ab") as stream:
            running = subprocess.Popen(
                [sys.executable, "-m", "quadriga.clusters.node", str(path)],
                cwd=cluster.temp_dir,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        answer = _answer(running, Path(spec.answer), cluster.nodes)
        process = processes.identify(running.pid)
        if answer is not None and process is not None:
            node = NodeRecord(spec.name, answer["node_id"], process, spec.cpus, spec.gpus, spec.resources, spec.labels)
            dashboard = f"http://{answer['dashboard']}" if spec.head else cluster.dashboard
            return replace(cluster, address=answer["address"], dashboard=dashboard, nodes=(*cluster.nodes, node))
        if process is not None:
            processes.end("", [process], patience=1.0)
        dead = next((node for node in cluster.nodes if not node.alive), None)
        if dead is not None:
            break
    log = log if dead is None else Path(cluster.temp_dir, f"{dead.name}.log")
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    why = "" if dead is None else f"node {dead.name!r} has ended meanwhile: "
    raise UserError(
        f"node {spec.name!r} of cluster {cluster.name!r} did not start: {why}{said[-1] if said else 'no reason given'}"
    )


def _answer(running: subprocess.Popen[bytes], path: Path, others: Sequence[NodeRecord]) -> dict[str, Any] | None:
    """What the node says of itself; `None` if it has ended, if another has, which it would wait for, or after long."""
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline:
        if path.exists():
            answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return answer
        if running.poll() is not None or not all(node.alive for node in others):
            return None
        time.sleep(processes.POLL_S)
    return None


def _end(cluster: LocalCluster, logs: Path | None = None) -> int:
    """Ends what runs and removes its folder; the logs go to `logs` before."""
    ended = processes.end(cluster.mark, [node.process for node in cluster.nodes], PATIENCE_S)
    if logs is not None:
        with contextlib.suppress(OSError):  # a full disk shall not hide why the cluster did not start
            save_logs(cluster.temp_dir, logs)
    shutil.rmtree(cluster.temp_dir, ignore_errors=True)
    (_folder() / f"{cluster.name}.json").unlink(missing_ok=True)
    return ended


def _environment(mark: str) -> dict[str, str]:
    """For all processes of the cluster: no address of another Ray, our Python first, the settings of the runtime."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "RAY_API_SERVER"))}
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {
        **ENVIRONMENT,
        **kept,
        **LOOPBACK_ONLY,
        "RAY_AUTH_MODE": "token",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        "RAY_JOB_START_TIMEOUT_SECONDS": str(QUEUE_S),
        "PATH": programs,
        MARK: mark,
    }


def _port(option: str, given: int | None, usual: int) -> int:
    if given is not None and not 0 <= given <= MAX_PORT:
        raise UserError(f"{option} {given}: expected 0 (any that is free) to {MAX_PORT}")
    for port in [given] if given is not None else [usual, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                if given is not None:
                    raise UserError(f"{option} {port}: {error.strerror}") from None
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise UserError(f"{option}: no port is free")


def _folder() -> Path:
    state = os.environ.get("QUADRIGA_STATE")
    if state is None:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(base, "quadriga", "clusters")
    return Path(state, "clusters")


def _write(cluster: LocalCluster) -> None:
    path = _folder() / f"{cluster.name}.json"
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(asdict(cluster), indent=2), encoding="utf-8")
    unfinished.replace(path)


def _read(path: Path) -> LocalCluster:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        nodes: Sequence[Mapping[str, Any]] = fields.pop("nodes")
        records = tuple(NodeRecord(**{**node, "process": Process(*node["process"])}) for node in nodes)
        return LocalCluster(**fields, nodes=records)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenRecord(path.stem) from error


def _salvaged(name: str) -> LocalCluster:
    """By what a broken record still tells, where the processes and the files of its cluster are."""
    text = (_folder() / f"{name}.json").read_text(encoding="utf-8", errors="replace")
    mark = re.search(r'"mark": "([0-9a-f]+)"', text)
    temp_dir = re.search(r'"temp_dir": "([^"]*/quadriga-\w+)"', text)
    return LocalCluster(name, mark[1] if mark else "", temp_dir[1] if temp_dir else "")
