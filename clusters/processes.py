"""Which processes are a cluster's, and how they end: only those that the cluster started, whatever else runs here.

A process id alone proves nothing, for the system gives it out again; with the time of its start it
does. What Ray starts in turn carries the cluster's mark in its environment. Reads `/proc`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MARK = "QUADRIGA_CLUSTER_MARK"
"""Environment variable that everything a cluster starts inherits."""

PROC = Path("/proc")
POLL_S = 0.1


class Process(NamedTuple):
    """A process that cannot be mistaken for another: `started` is its start in clock ticks since boot."""

    pid: int
    started: int


class _Stat(NamedTuple):
    started: int
    parent: int
    zombie: bool


def identify(pid: int) -> Process | None:
    """The process that has this id now; `None` if none has, or only its exit status is left."""
    stat = _stat(pid)
    return None if stat is None or stat.zombie else Process(pid, stat.started)


def alive(process: Process) -> bool:
    """Whether it still runs."""
    return identify(process.pid) == process


def family(mark: str, roots: Iterable[Process] = ()) -> set[Process]:
    """The living processes with `mark` in their environment, the living `roots`, and all descendants of both."""
    stats = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None and not stat.zombie}
    known = {root.pid for root in roots if root.pid in stats and stats[root.pid].started == root.started}
    wanted = known | {pid for pid in stats if _carries(pid, mark)}
    grown = True
    while grown:  # sandboxes of generated code run with an empty environment
        more = {pid for pid, stat in stats.items() if stat.parent in wanted} - wanted
        wanted |= more
        grown = bool(more)
    return {Process(pid, stats[pid].started) for pid in wanted if pid != os.getpid()}


def send(process: Process, signum: int) -> None:
    """Sends a signal, unless the process has ended."""
    if alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signum)


def await_end(processes: Iterable[Process], seconds: float) -> set[Process]:
    """Waits until all have ended, at most so long; returns those that have not."""
    deadline = time.monotonic() + seconds
    left = {process for process in processes if alive(process)}
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = {process for process in left if alive(process)}
    return left


def end(mark: str, roots: Iterable[Process], patience: float) -> int:
    """Ends a cluster: its nodes first, which end what they started; then what is left of it, in the end by SIGKILL.

    Args:
        mark: the cluster's.
        roots: its nodes.
        patience: seconds for each of the two steps before the last.

    Returns:
        How many processes there were.
    """
    roots = set(roots)
    seen = family(mark, roots)
    for root in roots:
        send(root, signal.SIGTERM)
    await_end(roots, patience)
    for signum in (signal.SIGTERM, signal.SIGKILL):
        left = {process for process in seen if alive(process)} | family(mark, roots)
        seen |= left
        for process in left:
            send(process, signum)
        await_end(left, patience)
    return len(seen)


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> _Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return _Stat(started=int(fields[19]), parent=int(fields[1]), zombie=fields[0] in "ZX")


def _carries(pid: int, mark: str) -> bool:
    try:
        environment = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={mark}".encode() in environment.split(b"\0")
