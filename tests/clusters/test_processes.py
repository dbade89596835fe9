"""Only a cluster's own processes are found and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from quadriga.clusters import processes
from quadriga.clusters.processes import MARK, Process

SLEEPER = "import time; time.sleep(600)"
PARENT = (
    "import subprocess, sys, time\n"
    f"subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], env={{}}, stdout=subprocess.DEVNULL)\n"
    "print(flush=True)\n"
    "time.sleep(600)"
)
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


@pytest.fixture
def start() -> Iterator[object]:
    started: list[subprocess.Popen[str]] = []

    def call(program: str, mark: str | None = None, *, wait: bool = False) -> Process:
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment | ({MARK: mark} if mark else {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        if wait:
            assert child.stdout is not None
            child.stdout.readline()
        process = processes.identify(child.pid)
        assert process is not None
        return process

    yield call
    for process in processes.family("a") | processes.family("b"):
        processes.send(process, signal.SIGKILL)
    for child in started:
        child.kill()
        child.communicate()


def test_a_process_that_took_over_an_id_is_not_the_one_recorded(start) -> None:
    process = start(SLEEPER)
    assert processes.alive(process)
    assert not processes.alive(Process(process.pid, process.started - 1))
    processes.send(Process(process.pid, process.started - 1), signal.SIGKILL)
    assert processes.alive(process)


def test_family_is_what_carries_the_mark_and_its_descendants(start) -> None:
    parent, other, unmarked = start(PARENT, "a", wait=True), start(SLEEPER, "b"), start(SLEEPER)
    family = processes.family("a")
    assert parent in family
    assert len(family) == 2  # the child has an empty environment
    assert not {other, unmarked} & family
    assert processes.family("c", [unmarked]) == {unmarked}


def test_end_spares_others_and_kills_what_does_not_listen(start) -> None:
    deaf, parent, other = start(DEAF, "a", wait=True), start(PARENT, "a", wait=True), start(SLEEPER, "b")
    family = processes.family("a")
    assert processes.end("a", [parent], patience=0.5) == 3
    assert not any(map(processes.alive, family | {deaf}))
    assert processes.alive(other)


def test_ended_processes_have_no_identity() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    process = Process(child.pid, 0)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # its exit status is left
    assert processes.identify(child.pid) is None
    child.wait()
    assert not processes.alive(process)
