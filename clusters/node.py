"""One node of a local cluster, as a process: `python -m quadriga.clusters.node SPEC.json`.

Starts Ray's processes of the node, says in a file where they are, and waits. It ends them on
SIGTERM, and ends itself when the raylet or the control store has died. `ray start` would do, but it
refuses to start workers that listen on the loopback interface only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

LOOPBACK = "127.0.0.1"
CHECK_S = 1.0
JOIN_S = 180.0


@dataclass(frozen=True)
class NodeSpec:
    """What to start.

    Attributes:
        name: shown in the dashboard, e.g. `head`.
        temp_dir: Ray's folder, the same for all nodes of a cluster.
        answer: file that gets the node's address when it is up.
        head: the node that holds the control store and the dashboard.
        address: of the control store, for nodes that are not the head.
        port: the head's, 0 for any.
        dashboard_port: the head's.
        cpus: CPU slots.
        gpus: GPUs.
        resources: other resources, by name.
        labels: by key.
        object_store_bytes: shared memory for objects.
    """

    name: str
    temp_dir: str
    answer: str
    head: bool = False
    address: str | None = None
    port: int = 0
    dashboard_port: int | None = None
    cpus: float = 1
    gpus: float = 0
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    object_store_bytes: int = 256 << 20

    def write(self, path: Path) -> None:
        """Writes the file that `main` reads."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def save_logs(temp_dir: str, folder: Path) -> None:
    """Copies the nodes' logs and Ray's from a cluster's `temp_dir` to `folder`, whose former content goes.

    Raises:
        OSError: they cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ray_logs = Path(temp_dir, "session_latest", "logs")
    if ray_logs.is_dir():
        shutil.copytree(ray_logs, folder, dirs_exist_ok=True)
    for log in Path(temp_dir).glob("*.log"):
        shutil.copy(log, folder)


def start(spec: NodeSpec) -> Any:
    """Starts the node's processes; blocks until the node has joined its cluster."""
    from ray._private import utils
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    raylet: Any = importlib.import_module("ray._raylet")
    names = (
        raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
        raylet.METRICS_AGENT_PORT_NAME,
        raylet.METRICS_EXPORT_PORT_NAME,
        raylet.RUNTIME_ENV_AGENT_PORT_NAME,
    )
    ports = free_ports(len(names))
    parameters = RayParams(
        node_ip_address=LOOPBACK,
        node_name=spec.name,
        gcs_address=spec.address,
        gcs_server_port=spec.port if spec.head else None,
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=ports[0],
        metrics_agent_port=ports[1],
        metrics_export_port=ports[2],
        runtime_env_agent_port=ports[3],
        include_dashboard=spec.head,
        dashboard_host=LOOPBACK,
        dashboard_port=spec.dashboard_port,
        include_log_monitor=spec.head,  # one reads the logs of the whole machine
        num_cpus=spec.cpus,
        num_gpus=spec.gpus,
        resources=spec.resources,
        labels=spec.labels,
        object_store_memory=spec.object_store_bytes,
        temp_dir=spec.temp_dir,
        # Nodes of one machine share a session's folder: with one folder of job files too, each would unpack them
        # anew over the working directory of the others' processes.
        runtime_env_dir_name=f"runtime_resources_{spec.name}",
    )

    class Announced(Node):
        """Tells the raylet its agents' ports itself, for it dies if they are long in doing so."""

        def start_ray_processes(self) -> None:
            for name, port in zip(names, ports, strict=True):
                raylet.persist_port(self.get_session_dir_path(), self._node_id, name, port)
            super().start_ray_processes()

    with _patient():
        node = Announced(parameters, head=spec.head, shutdown_at_exit=True, spawn_reaper=True)
    if spec.head:
        # Submitted jobs look for their cluster here; without it they may find somebody else's.
        utils.write_ray_address(node.gcs_address, spec.temp_dir)
    answer = {"address": node.gcs_address, "dashboard": node.webui_url, "node_id": node.unique_id}
    unfinished = Path(f"{spec.answer}.part")
    unfinished.write_text(json.dumps(answer), encoding="utf-8")
    unfinished.replace(spec.answer)
    return node


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """Ray gives a new node 30 seconds to join its cluster, which is too little on a busy machine."""
    from ray._private import services

    ask, deadline = services.get_node, time.monotonic() + JOIN_S

    def get_node(*arguments: Any) -> Any:
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = ask


def main(path: str) -> int:
    """Runs the node of a specification until it is told to end, or dies."""
    stop = threading.Event()

    def ended(signum: int, frame: FrameType | None) -> None:
        stop.set()

    node = start(NodeSpec(**json.loads(Path(path).read_text(encoding="utf-8"))))
    signal.signal(signal.SIGTERM, ended)  # Ray puts handlers of its own in place when it starts
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the shell that brought it up is not meant for it
    while not stop.wait(CHECK_S):
        dead = [name for name, _ in node.dead_processes()]
        if {"raylet", "gcs_server"} & set(dead):
            print(f"died: {', '.join(dead)}; ending the node", flush=True)
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return 1
    node.kill_all_processes(check_alive=False, allow_graceful=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
