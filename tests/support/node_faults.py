"""What befalls nodes and actors of a local cluster in tests: finds their processes and strikes them."""

from __future__ import annotations

import contextlib
import signal

from quadriga.clusters import processes
from quadriga.clusters.local import LocalCluster, NodeRecord
from quadriga.clusters.processes import Process

NO_MARK = "of no cluster"


def members(node: NodeRecord) -> set[Process]:
    """All processes of a node: its raylet, its agents and its actors."""
    return processes.family(NO_MARK, [node.process])


def actors(node: NodeRecord, title: str) -> list[Process]:
    """The node's Ray actors of a class."""
    return [process for process in members(node) if _command(process).startswith(f"ray::{title}")]


def hosts(cluster: LocalCluster, title: str) -> list[NodeRecord]:
    """The cluster's workers that run an actor of a class."""
    return [node for node in cluster.nodes[1:] if actors(node, title)]


def vanish(node: NodeRecord) -> None:
    """As a machine whose power fails: everything on it is gone at once."""
    _all(node, signal.SIGKILL)


def preempt(node: NodeRecord) -> None:
    """As a spot instance that is told to go, and goes."""
    processes.send(node.process, signal.SIGTERM)


def freeze(node: NodeRecord) -> None:
    """As a machine behind a broken network, or one that is far too slow: nothing answers, and nothing is closed."""
    _all(node, signal.SIGSTOP)


def _all(node: NodeRecord, signum: int) -> None:
    for process in [node.process, *members(node)]:
        processes.send(process, signum)


def _command(process: Process) -> str:
    with contextlib.suppress(OSError):
        return (processes.PROC / str(process.pid) / "cmdline").read_text(errors="replace")
    return ""
