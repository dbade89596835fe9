"""Ray for a run: a private local one, or somebody else's that answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from quadriga.platform import runtime
from quadriga.platform.errors import UserError

LOCAL = """
import json, os, platform, sys
if "ray-first" in sys.argv:
    import ray
from quadriga.platform.runtime import ensure_ray
cluster = ensure_ray(num_cpus=int(sys.argv[1]))
again = ensure_ray()
import ray

@ray.remote
def worker():
    import platform
    return os.nice(0), os.environ["OMP_NUM_THREADS"], platform.system()

def listening(table):
    for line in open(table).read().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            yield fields[9], fields[1].split(":")[0]

def sockets():
    import psutil
    inodes = set()
    for process in psutil.Process().children(recursive=True):
        try:
            links = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")]
        except OSError:
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:")}
    addresses = [*listening("/proc/net/tcp"), *listening("/proc/net/tcp6")]
    return sorted({address for inode, address in addresses if inode in inodes})

nice, threads, system = ray.get(worker.remote())
print(json.dumps({
    "cpus": cluster.cpus, "again": again.cpus, "started": cluster.started, "text": str(cluster),
    "nice": nice, "driver_nice": os.nice(0), "threads": threads,
    "platform": system == platform.system(), "sockets": sockets(),
}))
"""

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same in IPv6, and ::1, as /proc/net writes them."""


@pytest.fixture(autouse=True)
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests may have connected this process to a Ray, which `ensure_ray` would use, whatever the address."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


def clean_environment() -> dict[str, str]:
    ours = {*runtime.ENVIRONMENT, *runtime.LOOPBACK_ONLY, "RAY_ADDRESS", "RAY_AUTH_MODE"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def start_local(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", LOCAL, *arguments], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("order", ["ray-later", pytest.param("ray-first", marks=pytest.mark.slow)])
def test_local_ray_is_private_quiet_and_not_slowed_down(order: str) -> None:
    slots = (os.cpu_count() or 1) + 3
    found = start_local(str(slots), order)
    assert found["sockets"]
    assert set(found["sockets"]) <= LOOPBACK
    assert found["nice"] == found["driver_nice"]
    assert found["threads"] == "1"
    assert found["platform"]
    assert found["started"]
    assert found["cpus"] == found["again"] == slots
    assert found["text"] == f"local Ray, {slots} CPU slots"


GROWING = """
import os
from quadriga.platform import runtime
from quadriga.platform.errors import UserError
import ray

class Guest:
    def name(self):
        return "guest"

cores = os.cpu_count()
print(runtime.ensure_ray(num_cpus=1).cpus - cores)
guest = ray.remote(num_cpus=0)(Guest).remote()
assert ray.get(guest.name.remote()) == "guest"
print(runtime.ensure_ray(num_cpus=cores).cpus - cores)
runtime.LEAVE_S = 0.0
try:
    runtime.ensure_ray(num_cpus=cores + 2)
except UserError as error:
    print(error)
runtime.LEAVE_S = 60.0
assert ray.get(guest.name.remote()) == "guest"
del guest
print(runtime.ensure_ray(num_cpus=cores + 2).cpus - cores)
guests = [ray.remote(num_cpus=1)(Guest).remote() for _ in range(cores + 2)]
assert ray.get([guest.name.remote() for guest in guests]) == ["guest"] * (cores + 2)
ray.shutdown()
ray.init(num_cpus=1, include_dashboard=False, logging_level="critical")
cluster = runtime.ensure_ray(num_cpus=2)
print(cluster.started, cluster.cpus, cluster.address == ray.get_runtime_context().gcs_address)
"""


def test_a_local_ray_gives_way_to_a_larger_one_once_nothing_runs_in_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWING], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    cores = os.cpu_count() or 1
    assert done.stdout.splitlines() == [
        "0.0",
        "0.0",
        f"the run occupies {cores + 2} CPU slots, and this process's local Ray has {cores}, of which 0 are occupied; "
        "actors alive in it: 1; end them, or call ray.shutdown()",
        "2.0",
        "False 1.0 True",
    ]


def test_cores_are_offered_to_a_run_that_needs_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    monkeypatch.setattr(runtime, "_own", None)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert str(runtime.ensure_ray(num_cpus=2)) == "local Ray, 8 CPU slots, 1 GPU"
    assert (asked["num_cpus"], asked["address"], asked["include_dashboard"]) == (8, "local", False)


def test_a_node_that_is_too_slow_to_start_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because\nsome component failed.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"^a local Ray did not start: The current node timed out [^\n]*$"):
        runtime.ensure_ray()


@pytest.fixture
def refused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_address_that_refuses_is_an_error_at_once(refused_port: int, scheme: str) -> None:
    with pytest.raises(UserError, match=rf"no Ray cluster answers at {scheme}127.0.0.1:{refused_port}: .*refused"):
        runtime.ensure_ray(f"{scheme}127.0.0.1:{refused_port}")


def test_address_from_the_environment_is_used(refused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{refused_port}")
    with pytest.raises(UserError, match=str(refused_port)):
        runtime.ensure_ray()


def test_address_that_never_answers_is_an_error_in_bounded_time(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "JOIN_TIMEOUT", 3.0)
    with pytest.raises(UserError, match=r"no Ray cluster answers at .* within 3 seconds"):
        runtime.ensure_ray(f"127.0.0.1:{silent_port}")


@pytest.mark.parametrize("address", ["somewhere", "host:", ":6379", "host:port", "host:65536", "ray://host"])
def test_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="expected host:port, ray://host:port, auto or local"):
        runtime.ensure_ray(address)


def test_private_cluster_of_this_machine_is_joined() -> None:
    server = (
        "import sys; from quadriga.platform.runtime import ensure_ray; ensure_ray(num_cpus=7); import ray\n"
        "print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    client = (
        "import sys; from quadriga.platform.runtime import ensure_ray; c = ensure_ray(sys.argv[1]);"
        "print(c.started, c.cpus, c)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", server],
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        address = running.stdout.readline().strip()
        joined = subprocess.run(
            [sys.executable, "-c", client, address],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        running.communicate("")
    assert joined.stdout.strip() == f"False 7.0 Ray cluster at {address}, 7 CPU slots", joined.stderr
